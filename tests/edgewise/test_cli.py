"""The commands work together, print what programs and people need, and are reproducible."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgewise.discovery.registry import methods
from edgewise.experiment.spec import DiscoverySpec
from edgewise.graphs.diff import CircuitDiff
from edgewise.graphs.files import read_circuit, read_diff, read_scores, scores_path
from tests.edgewise.conftest import id_rows

TIMES = ("seconds", "forward_equivalents")


def edges(path: Path) -> list[str]:
    return [str(edge) for edge in read_circuit(path).circuit.edges]


# -- the whole way -------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["gpt2", "llama"])
def test_discover_evaluate_diff_draw(edgewise: Any, models: Any, pairs: Path, model: str) -> None:
    common = ["discover", "--model", models[model], "--task", pairs]
    edgewise(*common, "--method", "eap-ig", "--steps", 3, "--top", 12, "-o", "a.json", "--scores")
    edgewise(*common, "--method", "exact", "--top", 15, "-o", "b.json")
    first = read_circuit("a.json")
    assert len(first.circuit) == 12
    assert first.discovery["steps"] == 3
    assert not scores_path("b.json").exists()

    again = json.loads(edgewise("evaluate", "a.json", "--json").stdout)
    assert again["notes"] == []
    assert again["faithfulness"] == pytest.approx(first.measures["faithfulness"], abs=1e-6)
    assert again["edges"] == 12 == sum(again["edges_by_kind"].values())

    shared = len(set(edges(Path("a.json"))) & set(edges(Path("b.json"))))
    result = edgewise("diff", "a.json", "b.json", "-o", "d.json", "--json")
    assert json.loads(result.stdout)["statistics"]["edges"]["shared"] == shared
    assert len(read_diff("d.json").diff.shared) == shared
    nodes = [
        {str(node) for node in read_circuit(one).circuit.nodes} for one in ("a.json", "b.json")
    ]
    told = json.loads(result.stdout)["nodes"]
    assert set(told["only_b"]) == nodes[1] - nodes[0]
    assert set(told["shared"]) == (nodes[0] & nodes[1]) - {"logits"}

    for source in ("a.json", "d.json"):
        for suffix in ("svg", "dot"):
            edgewise("draw", source, "-o", f"drawing.{suffix}", "--layout", "built-in")
            assert Path(f"drawing.{suffix}").stat().st_size > 500


@pytest.mark.parametrize("ablation", ["mean", "position-mean"])
def test_means_go_the_whole_way(edgewise: Any, models: Any, pairs: Path, ablation: str) -> None:
    pairs.write_text("".join(json.dumps(row) + "\n" for row in id_rows(16)))
    task = ("--task", pairs, "--ablation", ablation)
    common = ("discover", "--model", models["llama"], *task)
    edgewise(*common, "--method", "eap-ig", "--top", 12, "-o", "a.json")
    edgewise(*common, "--method", "acdc", "--threshold", 0.001, "-o", "b.json", "--batch-size", 1)
    for name in ("a.json", "b.json"):
        file = read_circuit(name)
        assert file.discovery["ablation"] == ablation
        again = json.loads(edgewise("evaluate", name, "--json", "--batch-size", 2).stdout)
        assert again["ablation"] == ablation
        assert again["value_empty"] == pytest.approx(file.measures["value_empty"], abs=1e-5)
        assert again["value_circuit"] == pytest.approx(file.measures["value_circuit"], abs=1e-5)
    edgewise("diff", "a.json", "a.json", "--noise-floor", 2, "-o", "d.json")
    path = ("patch", "--model", models["llama"], *task, "--path", "a0.h3->logits")
    assert f"ablation   {ablation}" in edgewise(*path).stdout
    row = json.loads(pairs.read_text().splitlines()[0])
    row |= {key: row[key][:4] for key in ("clean_ids", "corrupted_ids")}
    pairs.write_text(pairs.read_text() + json.dumps(row) + "\n")
    refused = ablation == "position-mean"
    result = edgewise(*common, "--method", "eap", "--top", 5, "-o", "c.json", status=int(refused))
    assert ("have 4 to 5 tokens; accepted: prompts of one length" in result.stderr) == refused


def test_a_circuit_file_says_where_it_is_from(circuit: Path, models: Any) -> None:
    file = read_circuit(circuit)
    assert file.model["name"] == str(models["llama"])
    assert len(file.model["weights_sha256"]) == 64
    assert file.task["examples"] == 6
    noted = file.discovery
    assert (noted["method"], noted["top"], noted["metric"]) == ("eap-ig", 12, "logit_diff")
    assert noted["seconds"] > 0 and noted["forward_equivalents"] > 0
    assert set(noted["versions"]) == {"edgewise", "torch", "transformers", "python"}
    assert file.certificate["kept_all"] < 1e-3


def test_scores_stand_beside_the_circuit_and_agree(circuit: Path) -> None:
    file, scores = read_circuit(circuit), read_scores(circuit)
    assert scores.scores.top(12) == file.circuit
    kept = file.circuit.kept
    assert file.edge_scores is not None
    np.testing.assert_array_equal(scores.scores.values[kept], file.edge_scores[kept])


def test_without_a_selection_every_edge_and_all_scores(
    edgewise: Any, models: Any, pairs: Path
) -> None:
    edgewise(
        "discover", "--model", models["gpt2"], "--task", pairs, "--method", "eap", "-o", "all.json"
    )
    graph = read_circuit("all.json").circuit.graph
    assert len(read_circuit("all.json").circuit) == graph.edge_count
    assert np.isfinite(read_scores("all.json").scores.values[graph.reads]).all()


def test_without_a_method_the_usual_one_is_said(edgewise: Any, models: Any, pairs: Path) -> None:
    pairs.write_text("".join(json.dumps(row) + "\n" for row in id_rows(16)))
    common = ("discover", "--model", models["llama"], "--task", pairs)
    printed = edgewise(*common, "-o", "usual.json").stdout
    assert "by default the fewest edges of largest score" in " ".join(printed.split())
    usual = read_circuit("usual.json")
    noted = usual.discovery
    asked = ("--target", 0.9, "--signed", "--connected")
    edgewise(*common, "--method", noted["method"], *asked, "-o", "asked.json")
    assert read_circuit("asked.json").circuit == usual.circuit
    assert (noted["target"], noted["signed"], noted["connected"]) == (0.9, True, True)
    assert noted["fitted"]["halves"] == 2
    assert usual.circuit == usual.circuit.prune_dangling()
    assert DiscoverySpec.of_circuit(usual) == DiscoverySpec.usual()
    edgewise(*common, "--top", 7, "-o", "top.json")
    assert len(read_circuit("top.json").circuit) == 7
    result = edgewise(*common, "--connected", "-o", "c.json", status=2)
    assert "nothing says how many edges to keep" in result.stderr


def test_faithfulness_selects_a_circuit_that_reaches_it(
    edgewise: Any, models: Any, pairs: Path
) -> None:
    edgewise(
        "discover", "--model", models["llama"], "--task", pairs, "--method", "exact",
        "--faithfulness", 0.8, "-o", "f.json",
    )  # fmt: skip
    file = read_circuit("f.json")
    assert file.measures["faithfulness"] >= 0.8
    assert len(file.circuit) < file.circuit.graph.edge_count


def test_acdc_with_its_options(edgewise: Any, models: Any, pairs: Path) -> None:
    edgewise(
        "discover", "--model", models["gpt2"], "--task", pairs, "--method", "acdc", "--ports-first",
        "--threshold", 0.01, "--absolute", "--candidates", 3, "-o", "acdc.json",
    )  # fmt: skip
    noted = read_circuit("acdc.json").discovery
    assert (noted["threshold"], noted["ports_first"], noted["absolute"]) == (0.01, True, True)
    assert noted["metric"] == "kl"
    assert "ports first" in noted["order"]
    assert noted["questions"] > 0


def test_grouped_key_values_give_a_smaller_graph(edgewise: Any, models: Any, pairs: Path) -> None:
    def lift(*more: str) -> dict[str, Any]:
        return json.loads(edgewise("lift", models["llama"], "--json", *more).stdout)  # type: ignore[no-any-return]

    assert lift("--grouped-kv")["graph"]["edges"] < lift("--ungrouped-kv")["graph"]["edges"]
    assert lift()["graph"]["edges"] == lift("--ungrouped-kv")["graph"]["edges"]
    edgewise(
        "discover", "--model", models["llama"], "--task", pairs, "--method", "eap", "--top", 9,
        "--grouped-kv", "-o", "grouped.json",
    )  # fmt: skip
    assert read_circuit("grouped.json").circuit.graph.grouped_kv
    edgewise("evaluate", "grouped.json")


def test_a_built_in_task_is_made_again(edgewise: Any, models: Any) -> None:
    edgewise(
        "discover", "--model", models["gpt2"], "--task", "induction", "--task-option", "period=6",
        "--task-option", "repeat=3", "--examples", 5, "--seed", 2, "--method", "eap", "--top", 20,
        "-o", "induction.json",
    )  # fmt: skip
    task = read_circuit("induction.json").task
    assert (task["name"], task["examples"], task["seed"]) == ("induction", 5, 2)
    assert task["options"] == {"period": 6, "repeat": 3}
    again = json.loads(edgewise("evaluate", "induction.json", "--json").stdout)
    assert again["task"]["sha256"] == task["sha256"]
    more = json.loads(edgewise("evaluate", "induction.json", "--examples", 9, "--json").stdout)
    assert more["task"]["examples"] == 9
    assert more["notes"] == []


# -- evaluation elsewhere ------------------------------------------------------------------------


def test_evaluate_in_another_model_says_so(edgewise: Any, circuit: Path, models: Any) -> None:
    result = edgewise("evaluate", circuit, "--model", models["tuned"], "--json")
    assert "whose weights differ" in json.loads(result.stdout)["notes"][0]
    assert result.stderr.startswith("Warning: the circuit was found in")


def test_evaluate_refuses_another_shape(edgewise: Any, circuit: Path, models: Any) -> None:
    result = edgewise("evaluate", circuit, "--model", models["deeper"], status=1)
    assert "layers 2 and 3" in result.stderr


def test_evaluate_with_a_curve_and_another_metric(edgewise: Any, circuit: Path) -> None:
    result = edgewise("evaluate", circuit, "--curve", "--metric", "kl", "--json")
    found = json.loads(result.stdout)
    assert found["metric"] == "kl"
    assert found["curve"]["faithfulness"][-1] == pytest.approx(1.0, abs=1e-5)
    assert "CPR" in edgewise("evaluate", circuit, "--curve").stdout


def test_a_curve_needs_scores(edgewise: Any, circuit: Path) -> None:
    scores_path(circuit).unlink()
    assert "discover --scores" in edgewise("evaluate", circuit, "--curve", status=1).stderr


def test_evaluate_with_minimality(edgewise: Any, circuit: Path) -> None:
    found = json.loads(edgewise("evaluate", circuit, "--minimality", "--json").stdout)
    rises = [rise for *_, rise in found["minimality"]["edges"]]
    names = [f"{sender}->{port}" for sender, port, _ in found["minimality"]["edges"]]
    assert sorted(names) == sorted(edges(circuit))
    assert rises == sorted(rises)
    assert found["minimality"]["useless"] == sum(rise <= 0 for rise in rises)
    text = edgewise("evaluate", circuit, "--minimality").stdout
    assert f"{found['minimality']['useless']} of {len(rises)} edges" in text


def test_refine_starts_from_scores_or_a_circuit(
    edgewise: Any, models: Any, pairs: Path, circuit: Path
) -> None:
    common = ["discover", "--model", models["llama"], "--task", pairs, "--method", "refine"]
    edgewise(*common, "--edges", 8, "-o", "own.json")
    assert len(read_circuit("own.json").circuit) <= 8
    assert "start" not in read_circuit("own.json").discovery
    start = read_circuit("own.json")
    edgewise(*common, "--edges", 5, "--from", "own.json", "-o", "less.json", "--scores")
    less = read_circuit("less.json")
    assert len(less.circuit) <= 5
    assert not len(less.circuit - start.circuit)
    assert less.discovery["start"] == {
        "method": "refine", "metric": "kl", "ablation": "resample", "edges": len(start.circuit),
    }  # fmt: skip
    edgewise(*common, "--edges", 3, "--from", scores_path("less.json"), "-o", "least.json")
    assert len(read_circuit("least.json").circuit) <= 3
    common[-1] = "acdc"
    result = edgewise(*common, "--from", "own.json", "-o", "x.json", status=2)
    assert "method 'acdc' cannot start from scores" in result.stderr


def test_evaluate_in_another_dtype_says_so(edgewise: Any, circuit: Path) -> None:
    result = edgewise("evaluate", circuit, "--dtype", "bfloat16", "--json")
    assert json.loads(result.stdout)["notes"] == [
        "the circuit was found in float32 and is measured in bfloat16."
    ]


# -- the other commands --------------------------------------------------------------------------


def test_lift_prints_graph_variants_and_certificate(edgewise: Any, models: Any) -> None:
    text = edgewise("lift", models["llama"]).stdout
    for words in ("llama", "RMSNorm", "edges into", "certificate: PASS", "accepted"):
        assert words in text
    found = json.loads(edgewise("lift", models["gpt2"], "--json").stdout)
    assert found["certificate"]["passed"] is True
    assert sum(found["graph"]["edges_by_kind"].values()) == found["graph"]["edges"]


def test_lift_fails_if_the_certificate_does(
    edgewise: Any, models: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgewise.patching.run import certificate

    wrong = certificate.Certificate(0.5, 0.0, 0.0, 0.1, 0.1, 0.5, 2, 12)
    monkeypatch.setattr(certificate, "certify", lambda *_: wrong)
    assert "certificate: FAIL" in edgewise("lift", models["gpt2"], status=1).stdout


def test_patch_ranks_heads_by_effect(edgewise: Any, models: Any, pairs: Path) -> None:
    common = [
        "patch",
        "--model",
        models["llama"],
        "--task",
        pairs,
        "--path",
        "a0.*->a1.h2<k>->logits",
    ]
    found = json.loads(edgewise(*common, "--path", "m1->logits", "--json").stdout)
    effects = [abs(path["effect"]) for path in found["paths"]]
    assert len(effects) == 5
    assert effects == sorted(effects, reverse=True)
    assert found["direction"] == "noising"
    text = edgewise(*common, "--denoise").stdout
    assert "denoising" in text
    assert "a0.h3->a1.h2<k>->logits" in text


def test_tasks_are_listed_and_shown(edgewise: Any, models: Any) -> None:
    listed = json.loads(edgewise("tasks", "--json").stdout)["tasks"]
    text = edgewise("tasks").stdout
    assert {"ioi", "induction"} <= {task["name"] for task in listed}
    assert all(task["name"] in text for task in listed)
    shown = edgewise("tasks", "ioi", "--examples", 2, "--task-option", "corruption=flip").stdout
    assert shown.count("corrupted ") == 2
    assert "--task-option corruption=" in shown
    made = edgewise("tasks", "induction", "--model", models["gpt2"], "--json").stdout
    assert json.loads(made)["report"]["kept"] == 4


def test_drawing_many_edges_needs_a_number(edgewise: Any, circuit: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("edgewise.commands.draw.MANY_EDGES", 10)
    assert "--top" in edgewise("draw", circuit, "-o", "many.svg", status=1).stderr
    assert "of 12 edges" in edgewise("draw", circuit, "-o", "few.svg", "--top", 8).stdout


def test_run_does_what_a_file_declares(edgewise: Any, models: Any, pairs: Path) -> None:
    tables = [
        f"[[models]]\nname = '{name}'\nsource = '{models[name]}'\n" for name in ("llama", "tuned")
    ]
    Path("spec.toml").write_text(
        "\n".join(tables) + "\n[task]\nfile = 'pairs.jsonl'\n"
        "[discovery]\nmethod = 'eap-ig'\ntop = 12\n[drawing]\nlayout = 'built-in'\n"
    )
    found = json.loads(edgewise("run", "spec.toml", "--json").stdout)
    assert sorted(found["circuits"]) == ["llama", "tuned"]
    files = [found["report"], *found["circuits"].values(), *found["diffs"].values()]
    assert all(Path(path).stat().st_size for path in [*files, *found["images"]])
    assert Path("spec/report.md").is_file()
    again = edgewise("run", "spec.toml", "-o", "spec").stdout
    assert "0 done" in again and "spec/report.md" in again


def test_diff_notes_what_else_differs(
    edgewise: Any, circuit: Path, models: Any, pairs: Path
) -> None:
    edgewise(
        "discover", "--model", models["tuned"], "--task", pairs, "--method", "eap", "--top", 12,
        "-o", "tuned.json",
    )  # fmt: skip
    result = edgewise("diff", circuit, "tuned.json")
    diff = CircuitDiff(read_circuit(circuit).circuit, read_circuit("tuned.json").circuit)
    assert len(diff.only_b) and diff.nodes["only_a"]
    for edge in (*diff.only_a.edges, *diff.only_b.edges):
        assert re.search(rf"^{re.escape(str(edge))} ", result.stdout, re.MULTILINE)
    names = " ".join(str(node) for node in diff.nodes["only_a"])
    assert f"nodes only in A  {names}\n" in result.stdout
    assert "discovery.method eap-ig and eap" in result.stderr
    assert "corrected" in result.stdout
    assert re.search(r"^all +\d+", result.stdout, re.MULTILINE)


# -- output for programs and people --------------------------------------------------------------


def test_every_command_takes_json(edgewise: Any, circuit: Path, models: Any, pairs: Path) -> None:
    lines = (
        ["lift", models["llama"]],
        ["tasks"],
        ["tasks", "ioi"],
        ["discover", "--model", models["llama"], "--task", pairs, "--method", "eap", "--top", 5,
         "-o", "j.json"],
        ["patch", "--model", models["llama"], "--task", pairs, "--path", "m0->logits"],
        ["evaluate", circuit],
        ["diff", circuit, circuit],
        ["draw", circuit, "-o", "j.svg"],
    )  # fmt: skip
    for line in lines:
        assert isinstance(json.loads(edgewise(*line, "--json").stdout), dict)


def test_nothing_is_cut_off_when_piped(edgewise: Any, circuit: Path, models: Any) -> None:
    text = edgewise("evaluate", circuit).stdout
    assert "…" not in text
    assert not any(line != line.rstrip() for line in text.splitlines())
    assert str(models["llama"]) in edgewise("diff", circuit, circuit).stdout


def test_help_names_the_method_of_each_option(edgewise: Any) -> None:
    text = " ".join(edgewise("discover", "--help").stdout.split())
    keys = {key: [m.name for m in methods().values() if key in m.options]
            for method in methods().values() for key in method.options}  # fmt: skip
    for key, owners in keys.items():
        flag = "--" + key.replace("_", "-")
        assert re.search(rf"{flag}( \S+)? \[{', '.join(owners)}\]", text), flag
    assert all(method.summary.split()[0] in text for method in methods().values())


def test_options_of_one_name_are_of_one_type() -> None:
    from edgewise.commands.discover import discover

    kinds: dict[str, set[type]] = {}
    for method in methods().values():
        for key, option in method.options.items():
            kinds.setdefault(key, set()).add(option.type)
    assert all(len(found) == 1 for found in kinds.values())
    import click

    params = discover.get_params(click.Context(discover))
    flags = [flag for param in params for flag in (*param.opts, *param.secondary_opts)]
    assert len(flags) == len(set(flags))


# -- processes -----------------------------------------------------------------------------------


def process(*arguments: object, **settings: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgewise", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **settings}
    return subprocess.run(command, env=environment, text=True, capture_output=True, check=False)


@pytest.mark.slow
def test_equal_commands_write_equal_files(models: Any, pairs: Path, tmp_path: Path) -> None:
    files = []
    for seed in ("1", "2"):
        path = tmp_path / f"run{seed}.json"
        done = process(
            "discover", "--model", models["llama"], "--task", pairs, "--method", "acdc",
            "--threshold", "0.005", "--scores", "-o", path, PYTHONHASHSEED=seed,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        document = json.loads(path.read_text())
        for key in TIMES:
            del document["discovery"][key]
        files.append((json.dumps(document), scores_path(path).read_bytes()))
    assert files[0] == files[1]


def test_progress_stays_off_standard_output(models: Any) -> None:
    done = process("lift", models["gpt2"], "--json")
    assert json.loads(done.stdout)["certificate"]["passed"]
    assert done.stderr == ""


def test_interrupting_leaves_no_half_file(models: Any, pairs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # some shells ignore it
        "from edgewise.steps import discover as finding\n"
        "def wait(*a, **k):\n    print('ready', flush=True); time.sleep(60)\n"
        "finding.discover = wait\n"
        "from edgewise.cli import main\n"
        f"sys.argv = ['edgewise', 'discover', '--model', {str(models['gpt2'])!r}, '--task', "
        f"{str(pairs)!r}, '--method', 'eap', '--top', '5', '-o', {str(folder / 'x.json')!r}]\n"
        "main()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as started:
        assert started.stdout is not None
        assert started.stdout.readline() == "ready\n"
        time.sleep(0.2)
        started.send_signal(signal.SIGINT)
        _, err = started.communicate(timeout=30)
    assert started.returncode == 130
    assert err == "Interrupted.\n"
    assert list(folder.iterdir()) == []


def test_a_closed_pipe_is_quiet() -> None:
    command = f"{sys.executable} -m edgewise tasks entity-tracking --examples 400 | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("entity-tracking")
    assert done.stderr == ""


def test_an_engine_that_has_nothing_to_do_is_told(edgewise: Any, models: Any, pairs: Path) -> None:
    pytest.importorskip("jax")
    edgewise("discover", "--model", models["gpt2"], "--task", pairs, "--method", "eap", "--top", 12,
             "-o", "a.json")  # fmt: skip
    asked = ("patch", "--model", models["gpt2"], "--task", pairs, "--path", "embed->logits")
    found = edgewise(*asked, "--engine", "jax")
    assert found.stderr.count("Engine 'jax' scores edges and runs circuits; 'patch' does") == 1
    assert "Engine" not in edgewise(*asked).stderr
    assert "Engine" not in edgewise("evaluate", "a.json", "--engine", "jax").stderr
