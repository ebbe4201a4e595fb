"""Circuits of other tools in commands and in Python: as files, as they are, and refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from edgewise import import_circuit, read_circuit, read_foreign, read_scores, write_eap_ig
from edgewise.cli import cli
from edgewise.experiment.spec import Experiment, Selection
from edgewise.graphs.circuit import Circuit
from edgewise.graphs.errors import EdgewiseError, GraphMismatch, UnknownName
from edgewise.graphs.graph import ComputationGraph
from edgewise.graphs.scores import Scores
from edgewise.session import open_model
from edgewise.steps.discover import discover
from edgewise.steps.evaluate import evaluate
from edgewise.workflow import open_task

Run = Callable[..., Result]
LINES = """blocks.1.hook_mlp_out[:] -> blocks.1.hook_resid_post[:]
blocks.0.attn.hook_result[:, :, 1] -> blocks.1.hook_mlp_in[:]
blocks.0.hook_resid_pre[:] -> blocks.0.hook_v_input[:, :, 1]
"""
PRUNED = [["embeds", "a0.h1.k"], ["a0.h1", "m1"], ["m1", "resid_post"]]


@pytest.fixture
def run() -> Run:
    """Run the command line, whatever comes of it."""
    return lambda *arguments: CliRunner().invoke(cli, list(map(str, arguments)))


@pytest.fixture
def files(tmp_path: Path, models: dict[str, Path], pairs: Path) -> dict[str, Path]:
    """Write what EAP finds in a tiny Llama as EAP-IG writes it, and two edge lists."""
    session = open_model(models["llama"])
    made, _ = open_task(session, str(pairs))
    found = discover(session, made, method="eap", metric="logit_diff", select=Selection(top=30))
    scores, graph = found.scores.scores, session.graph
    paths = {name: tmp_path / name for name in ("c.json", "c.pt", "all.json", "e.txt", "e.json")}
    write_eap_ig(paths["c.json"], found.file.circuit, scores, d_model=16)
    write_eap_ig(paths["c.pt"], found.file.circuit, scores, d_model=16)
    write_eap_ig(paths["all.json"], Circuit.empty(graph), scores, d_model=16)
    paths["e.txt"].write_text(LINES)
    paths["e.json"].write_text(json.dumps(PRUNED))
    return paths


def test_an_imported_circuit_is_the_one_that_was_found(
    files: dict[str, Path], models: dict[str, Path], pairs: Path
) -> None:
    session = open_model(models["llama"])
    made, _ = open_task(session, str(pairs))
    found = discover(session, made, method="eap", metric="logit_diff", select=Selection(top=30))
    for name in ("c.json", "c.pt"):
        imported = import_circuit(files[name], str(models["llama"]), str(pairs))
        assert imported.file.circuit == found.file.circuit
        assert imported.file.measures == found.file.measures
        assert imported.file.model == found.file.model
        assert imported.file.certificate == found.file.certificate
        assert imported.file.extra == found.file.extra
        np.testing.assert_array_equal(imported.file.edge_scores, found.file.edge_scores)
        assert imported.scores is not None
        np.testing.assert_array_equal(imported.scores.scores.values, found.scores.scores.values)
    whole = import_circuit(files["all.json"], session, made, Selection(top=30))
    assert whole.file.circuit == found.file.circuit


def test_the_command_writes_a_file_that_others_read(
    files: dict[str, Path], models: dict[str, Path], pairs: Path, tmp_path: Path, run: Run
) -> None:
    out = tmp_path / "out.json"
    asked = ("--model", models["llama"], "--task", pairs, "-o", out)
    done = run("import", files["c.json"], *asked)
    assert done.exit_code == 0
    assert "c.json: EAP-IG (JSON), 2 layers, 4 heads, 30 of 110 edges kept, scored" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    file = read_circuit(out)
    source: Any = file.discovery["source"]  # type: ignore[typeddict-item]
    assert file.discovery["method"] == "imported"
    assert (source["tool"], source["form"], source["file"]) == ("EAP-IG", "JSON", "c.json")
    assert source["sha256"] == read_foreign(files["c.json"]).sha256
    assert read_scores(out, file.circuit.graph).method == "imported"
    shown = json.loads(run("evaluate", out, "--curve", "--json").stdout)
    assert shown["faithfulness"] == file.measures["faithfulness"]
    assert shown["curve"]["sizes"][-1] == 110
    direct = json.loads(run("evaluate", files["c.json"], *asked[:4], "--curve", "--json").stdout)
    assert {**direct, "circuit": 0} == {**shown, "circuit": 0}
    for command in (
        ("diff", out, files["c.pt"], "--json"),
        ("draw", out, "-o", tmp_path / "d.svg"),
        ("transplant", models["llama"], models["tuned"], "--task", pairs, "--circuit", out),
        ("roles", out),
        ("discover", *asked[:4], "--method", "refine", "--from", out, "-o", tmp_path / "r.json"),
    ):
        assert run(*command).exit_code == 0, command
    for again in (("discover",), ("diff", out, out, "--noise-floor", 2)):
        if again[0] == "discover":
            with pytest.raises(EdgewiseError, match="cannot be repeated: the circuit was imported"):
                Experiment.from_circuit(out)
        else:
            assert "the circuit was imported from EAP-IG" in run(*again).stderr


def test_without_a_task_the_file_says_so(
    files: dict[str, Path], models: dict[str, Path], pairs: Path, tmp_path: Path, run: Run
) -> None:
    out = tmp_path / "out.json"
    done = run("import", files["e.txt"], "--model", models["llama"], "-o", out, "--json")
    assert json.loads(done.stdout)["scores"] is None
    file = read_circuit(out)
    assert file.task == {"name": "", "sha256": None, "examples": 0, "seed": None}
    assert file.measures == {}
    assert "names no task; say with --task which one to use" in run("evaluate", out).stderr
    assert run("evaluate", out, "--task", pairs).exit_code == 0


def test_scores_alone_give_every_edge_or_those_that_are_chosen(
    files: dict[str, Path], models: dict[str, Path], pairs: Path, tmp_path: Path, run: Run
) -> None:
    out, asked = tmp_path / "out.json", ("--model", models["llama"], "-o", tmp_path / "out.json")
    assert run("import", files["all.json"], *asked).exit_code == 0
    assert len(read_circuit(out).circuit) == 110
    assert run("import", files["all.json"], *asked, "--top", 7).exit_code == 0
    assert len(read_circuit(out).circuit) == 7
    assert read_circuit(out).discovery["top"] == 7
    said = run("import", files["all.json"], *asked, "--faithfulness", 0.9).stderr
    assert "faithfulness is measured on prompts; give them with --task." in said
    done = run("import", files["all.json"], *asked, "--faithfulness", 0.9, "--task", pairs)
    assert done.exit_code == 0
    said = run("evaluate", files["all.json"], *asked[:2], "--task", pairs).stderr
    assert "keeps no edge: its scores tell how important edges are" in said
    assert "--top 200" in said
    said = run("import", files["e.txt"], *asked, "--top", 2).stderr
    assert "e.txt has no scores. Accepted: scores of edges, or kept edges." in said


def test_a_folder_of_sizes_is_imported_by_percent(
    models: dict[str, Path], tmp_path: Path, run: Run
) -> None:
    folder, graph = tmp_path / "ioi_llama", ComputationGraph(2, 4)
    folder.mkdir()
    scores = Scores(graph, np.random.default_rng(0).normal(size=graph.reads.shape))
    for size in (1, 11, 55):
        write_eap_ig(folder / f"{size}.json", scores.top(size), d_model=16)
    out = tmp_path / "out.json"
    asked = ("import", folder, "--model", models["llama"], "-o", out)
    assert "Give one of these files, or choose with --percent" in run(*asked).stderr
    assert run(*asked, "--percent", 20).exit_code == 0
    assert len(read_circuit(out).circuit) == 11


def test_edge_pruning_gets_the_models_groups(
    files: dict[str, Path], models: dict[str, Path], pairs: Path
) -> None:
    made = import_circuit(files["e.json"], str(models["llama"]), str(pairs))
    assert made.file.circuit.graph.grouped_kv
    assert "embed->a0.kv1<k>" in made.file.circuit
    files["e.json"].write_text(json.dumps([["tok_embeds", "m0"], *PRUNED[1:]]))
    split = import_circuit(files["e.json"], open_model(models["gpt2"]))
    assert "tok->m0" in split.file.circuit
    assert not split.file.circuit.graph.grouped_kv  # as many key/value heads as heads


def test_what_does_not_fit_is_refused(
    files: dict[str, Path], models: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(GraphMismatch, match=r"heads 4 and 2 \(file and model\)"):
        import_circuit(files["c.json"], str(models["gpt2"]))
    with pytest.raises(GraphMismatch, match="layers 2 and 3"):
        import_circuit(files["c.json"], str(models["deeper"]))
    content = json.loads(files["c.json"].read_text())
    content["cfg"]["d_model"] = 32
    files["c.json"].write_text(json.dumps(content))
    with pytest.raises(GraphMismatch, match="of d_model 32, and this one's is 16"):
        import_circuit(files["c.json"], str(models["llama"]))
    with pytest.raises(UnknownName, match="unknown argument of import_circuit 'metrics'"):
        import_circuit(files["c.pt"], str(models["llama"]), metrics="kl")
    with pytest.raises(EdgewiseError, match="percent is 'x'; accepted: a number"):
        import_circuit(files["c.pt"], str(models["llama"]), percent="x")
    content["cfg"]["d_model"] = 16
    for edge in content["edges"].values():
        edge.update(in_graph=False, score=0.0)
    content["nodes"]["m0"]["score"] = 0.5
    (tmp_path / "nodes.json").write_text(json.dumps(content))
    with pytest.raises(EdgewiseError, match="those of its nodes or neurons are of a level"):
        import_circuit(tmp_path / "nodes.json", str(models["llama"]))


def test_imported_circuits_are_measured_as_asked(
    files: dict[str, Path], models: dict[str, Path], pairs: Path
) -> None:
    made = import_circuit(
        files["c.pt"], str(models["llama"]), str(pairs), metric="kl", ablation="zero"
    )
    assert (made.file.discovery["metric"], made.file.discovery["ablation"]) == ("kl", "zero")
    assert made.pairs is not None
    again = evaluate(made.session, made.file, made.pairs)
    assert made.evaluation is not None
    assert again.faithfulness == made.evaluation.faithfulness


@pytest.mark.parametrize(
    ("command", "lacking"),
    [
        (("evaluate", "c.json"), "the model it was found in (--model) and the prompts"),
        (("evaluate", "c.pt", "--model", "M"), "give the prompts to measure it on (--task)"),
        (("roles", "e.txt"), "give the model it was found in (--model)"),
        (("draw", "e.txt", "-o", "x.svg"), "does not tell its graph; name its model with --model."),
        (("diff", "e.txt", "e.json"), "name its model with --model-a."),
        (("diff", "c.json", "c.pt", "--cross"), "give --model-a or --model-b"),
        (("diff", "c.json", "c.pt", "--noise-floor", "2"), "was found by EAP-IG; accepted"),
        (
            ("discover", "--model", "M", "--task", "P", "--method", "refine", "--from", "e.txt",
             "-o", "x.json"),
            "make a circuit file of it with `edgewise import`",
        ),
    ],
)  # fmt: skip
def test_commands_say_what_they_need(
    files: dict[str, Path], models: dict[str, Path], pairs: Path, run: Run,
    command: tuple[str, ...], lacking: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    names = {"M": str(models["llama"]), "P": str(pairs)}
    done = run(*(names.get(word, word) for word in command))
    assert done.exit_code in (1, 2)
    assert lacking in done.stderr
    assert "Traceback" not in done.stderr


def test_commands_take_the_files_as_they_are(
    files: dict[str, Path], models: dict[str, Path], pairs: Path, run: Run,
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    llama, tuned = str(models["llama"]), str(models["tuned"])
    both = ("--model-a", llama, "--model-b", tuned)
    for command in (
        ("evaluate", "e.json", "--model", llama, "--task", pairs),
        ("evaluate", "e.txt", "--model", llama, "--task", pairs, "--metric", "kl"),
        ("diff", "c.json", "e.txt"),
        ("diff", "e.txt", "e.txt", "--model-b", llama),
        ("diff", "c.json", "c.pt", *both, "--cross", "--roles", "--task", pairs),
        ("draw", "c.pt", "-o", "a.svg"),
        ("draw", "e.json", "-o", "a.svg", "--model", llama),
        ("draw", "all.json", "-o", "a.svg", "--top", 20),
        ("draw", "all.json", "c.pt", "-o", "a.svg", "--as", "heat-map"),
        ("draw", "c.json", "c.pt", "-o", "a.svg", "--as", "overlap"),
        ("transplant", llama, tuned, "--task", pairs, "--circuit", "c.json"),
        ("transplant", llama, tuned, "--task", pairs, "--greedy", 1, "--among", "e.txt"),
        ("roles", "c.json", "--model", llama, "--task", pairs),
        ("discover", "--model", llama, "--task", pairs, "--method", "refine", "--from", "all.json",
         "-o", "r.json"),
    ):  # fmt: skip
        done = run(*command)
        assert done.exit_code == 0, (command, done.stderr)
        assert ": EAP-IG (" in done.stderr or ": ACDC (" in done.stderr or "Pruning" in done.stderr


def test_a_circuit_of_another_tool_stands_on_the_graph_of_one_of_this(
    files: dict[str, Path], models: dict[str, Path], pairs: Path, run: Run, tmp_path: Path
) -> None:
    asked = ("--model", models["llama"], "--task", pairs, "--method", "eap", "--top", 30)
    own = tmp_path / "own.json"
    assert run("discover", *asked, "--metric", "logit_diff", "--scores", "-o", own).exit_code == 0
    found = json.loads(run("diff", own, files["c.json"], "--json").stdout)
    assert found["statistics"]["edges"]["jaccard"] == 1.0
    assert found["scores"]["spearman"] == pytest.approx(1.0)
    crossed = ("diff", own, files["c.json"], "--cross", "--model-b", models["llama"], "--json")
    rows = json.loads(run(*crossed).stdout)["cross"]["rows"]
    assert rows[0]["faithfulness"] == rows[1]["faithfulness"]
    assert run("draw", own, files["c.json"], "-o", tmp_path / "o.svg", "--as", "overlap")
    said = run("draw", own, "-o", tmp_path / "o.svg", "--model", models["llama"]).stderr
    assert "--model is for circuits of other tools" in said
    said = run("diff", own, own, "--task", pairs).stderr
    assert "--task is for circuits of other tools" in said
