"""Circuits of other tools in commands and in Python: as files, as they are, and refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from edgewise import (
    import_circuit,
    read_circuit,
    read_foreign,
    read_scores,
    write_circuit,
    write_eap_ig,
)
from edgewise.cli import cli
from edgewise.discovery.refine import pool
from edgewise.experiment.key import key_of
from edgewise.experiment.spec import DiscoverySpec, Experiment, Selection
from edgewise.experiment.start import read_start
from edgewise.graphs.circuit import Circuit
from edgewise.graphs.errors import EdgewiseError, GraphMismatch, UnknownName
from edgewise.graphs.files.exchange import read_sizes
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


def sizes(tmp_path: Path) -> Path:
    """Write a folder as MIB's are, with circuits of three sizes."""
    folder, graph = tmp_path / "ioi_llama", ComputationGraph(2, 4)
    folder.mkdir()
    scores = Scores(graph, np.random.default_rng(0).normal(size=graph.reads.shape))
    for size in (1, 11, 55):
        write_eap_ig(folder / f"{size}.json", scores.top(size), scores, d_model=16)
    return folder


def test_a_folder_of_sizes_is_taken_by_percent(
    models: dict[str, Path], tmp_path: Path, pairs: Path, run: Run
) -> None:
    folder, out = sizes(tmp_path), tmp_path / "out.json"
    asked = ("import", folder, "--model", models["llama"], "-o", out)
    assert "Give one of these files, or choose with --percent" in run(*asked).stderr
    assert run(*asked, "--percent", 20).exit_code == 0
    assert len(read_circuit(out).circuit) == 11
    asked = ("--model", models["llama"], "--task", pairs)
    for command in (
        ("evaluate", folder, *asked),
        ("diff", out, folder),
        ("draw", folder, "-o", tmp_path / "d.svg"),
        ("roles", folder, *asked[:2]),
        ("transplant", models["llama"], models["tuned"], *asked[2:], "--circuit", folder),
        ("discover", *asked, "--method", "refine", "--edges", 6, "--from", folder, "-o", out),
    ):
        assert "55.json 55 edges. Give one of these files" in run(*command).stderr, command
        done = run(*command, "--percent", 60)
        assert done.exit_code == 0, done.stderr
        assert "55.json: EAP-IG" in done.stderr


def test_all_sizes_of_a_folder_are_imported(
    models: dict[str, Path], tmp_path: Path, pairs: Path, run: Run
) -> None:
    folder, out = sizes(tmp_path), tmp_path / "out"
    asked = ("import", folder, "--model", models["llama"], "-o", out)
    done = run(*asked, "--task", pairs, "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)["circuits"]
    assert [Path(one["circuit"]).name for one in found] == ["1.json", "11.json", "55.json"]
    for size, one in zip((1, 11, 55), found, strict=True):
        file = read_circuit(one["circuit"])
        alone = import_circuit(folder / f"{size}.json", str(models["llama"]), str(pairs)).file
        assert (file.circuit, file.measures) == (alone.circuit, alone.measures)
        assert one["evaluation"]["faithfulness"] == file.measures["faithfulness"]
        assert read_scores(one["circuit"], file.circuit.graph).method == "imported"
    shown = run(*asked).stdout
    assert "11.json" in shown
    assert "10.00%" in shown
    (tmp_path / "out2").mkdir()
    measured = run(*asked[:-1], tmp_path / "out2", "--task", pairs).stdout
    assert [row.split()[-1] for row in measured.splitlines() if "11.json" in row] == ["undefined"]
    assert [len(one.found.circuit) for one in read_sizes(folder)] == [1, 11, 55]


def test_sizes_that_cannot_be_imported_leave_nothing(
    models: dict[str, Path], tmp_path: Path, run: Run
) -> None:
    folder, out = sizes(tmp_path), tmp_path / "out"
    asked = ("import", folder, "--model", models["llama"], "-o")
    assert "--top chooses by the scores of one file" in run(*asked, out, "--top", 3).stderr
    assert "it is the input" in run(*asked, folder).stderr
    assert "heads 4 and 2" in run(*asked[:3], models["gpt2"], "-o", out).stderr
    (tmp_path / "file").write_text("")
    assert "give a folder, in which a file of each size" in run(*asked, tmp_path / "file").stderr
    (folder / "11.json").write_text((folder / "11.json").read_text().replace("true", '"yes"', 1))
    assert "11.json cannot be read as an EAP-IG graph: node" in run(*asked, out).stderr
    assert not out.exists()
    assert sorted(one.name for one in folder.iterdir()) == ["1.json", "11.json", "55.json"]


def test_edges_to_start_from_without_scores_are_all_in_the_pool(
    files: dict[str, Path], models: dict[str, Path], pairs: Path
) -> None:
    session = open_model(models["llama"])
    made, _ = open_task(session, str(pairs))
    whole = Circuit.full(session.graph)
    scores = Scores(session.graph, np.where(session.graph.reads, np.inf, np.nan))
    assert pool(scores, 6, 110) == whole
    assert len(pool(scores, 6)) < 110
    write_eap_ig(files["c.json"], whole, d_model=16)
    asked = {"method": "refine", "options": {"edges": 6, "sweeps": 0}}
    unscored, scored = (
        discover(session, made, **asked, start=read_start(files[name])).file.discovery["questions"]
        for name in ("c.json", "all.json")
    )
    assert unscored >= 110 > scored


def test_an_edge_list_starts_as_the_file_made_of_it(
    files: dict[str, Path], models: dict[str, Path], pairs: Path, tmp_path: Path
) -> None:
    session = open_model(models["llama"])
    made, _ = open_task(session, str(pairs))
    write_circuit(tmp_path / "e.circuit.json", import_circuit(files["e.txt"], session).file)
    spec = {"method": "refine", "options": {"edges": 3}}
    direct = discover(session, made, **spec, start=read_start(files["e.txt"]))
    through = discover(session, made, **spec, start=read_start(tmp_path / "e.circuit.json"))
    assert direct.file.circuit == through.file.circuit
    block: Any = direct.file.discovery
    assert block["start"]["tool"] == "ACDC"
    assert block["start"]["file_sha256"] == read_foreign(files["e.txt"]).sha256
    keys = {key_of(DiscoverySpec.of(**spec, start=read_start(path))).sha256
            for path in (files["e.txt"], files["e.txt"], files["e.json"])}  # fmt: skip
    assert len(keys) == 2


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
    (tmp_path / "nodes.json").write_text(json.dumps(content))
    with pytest.raises(EdgewiseError, match=r"keeps no edge, and its edges have no scores\."):
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
        (("diff", "c.json", "c.pt", "--noise-floor", "2"), "was found by EAP-IG, so it cannot be"),
        (
            ("discover", "--model", "M", "--task", "P", "--method", "refine", "--from", "e.json",
             "-o", "x.json"),
            "its keys and values are those of 2 key/value heads, and each of the graph's 4 query "
            "heads has its own; accepted: a graph with ports for key/value heads, which "
            "--grouped-kv of a discovery makes.",
        ),
        (
            ("discover", "--model", "M", "--task", "P", "--method", "refine", "--from", "split.txt",
             "-o", "x.json"),
            "accepted: a graph with these, which --split-embedding of a discovery makes.",
        ),
        (
            ("discover", "--model", "M", "--task", "P", "--method", "refine", "--from", "wide.json",
             "-o", "x.json"),
            "it was found in one of d_model 32, and this one's is 16.",
        ),
        (("diff", "c.json", "e.json"), "name its model with --model-b."),
        (("evaluate", "c.json", "--percent", "5"), "--percent chooses among the sizes in a folder"),
        (("discover", "--model", "M", "--task", "P", "--method", "refine", "--percent", "5", "-o",
          "x.json"), "--percent is for --from"),
        (
            ("matrix", "--model", "M", "--tasks", "P", "--circuits", "c.json,all.json"),
            "keeps no edge: its scores tell how important edges are",
        ),
        (("run", "e.txt"), "is no experiment's TOML file: it is an edge list of ACDC. Accepted"),
        (("run", "e.json"), "it is an edge list of Edge-Pruning. Accepted: a TOML file"),
        (("tasks", "c.json"), "holds no prompt pairs: it is a graph of EAP-IG"),
        (("tasks", "e.txt"), "holds no prompt pairs: it is an edge list of ACDC"),
        (("draw", "c.json", "--roles", "c.pt", "-o", "x.svg"), "`edgewise import` makes a circuit"),
        (("evaluate", "other.json"), "Of other tools are taken: EAP-IG's JSON and .pt, MIB's"),
        (("draw", "other.json", "-o", "x.svg"), "Of other tools are taken: EAP-IG's JSON and .pt"),
        (("diff", "c.json", "empty"), "it is a directory; expected a circuit file. Of other tools"),
    ],
)  # fmt: skip
def test_commands_say_what_they_need(
    files: dict[str, Path], models: dict[str, Path], pairs: Path, run: Run,
    command: tuple[str, ...], lacking: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("split.txt").write_text(LINES.replace("blocks.0.hook_resid_pre", "hook_embed"))
    Path("wide.json").write_text(
        files["c.json"].read_text().replace('"d_model": 16', '"d_model": 32')
    )
    Path("other.json").write_text("[]")
    Path("empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    names = {"M": str(models["llama"]), "P": str(pairs)}
    done = run(*(names.get(word, word) for word in command))
    assert done.exit_code in (1, 2)
    assert lacking in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_commands_take_the_files_as_they_are(
    files: dict[str, Path], models: dict[str, Path], pairs: Path, run: Run,
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    llama, tuned = str(models["llama"]), str(models["tuned"])
    files["e.json"].write_text(json.dumps([*PRUNED, ["embeds", "m1"]]))
    Path("mlps.json").write_text(json.dumps([["embeds", "m0"], ["m0", "resid_post"]]))
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
        *(("discover", "--model", llama, "--task", pairs, "--method", "refine", "--edges", 6,
           "--from", start, "-o", "r.json", *more)
          for start, *more in (("all.json",), ("c.pt",), ("e.txt",), ("e.json", "--grouped-kv"))),
        ("evaluate", "all.json", "--model", llama, "--task", pairs, "--curve"),
        ("roles", "mlps.json", "--model", llama),
        ("matrix", "--model", llama, "--tasks", pairs, "--circuits", "c.pt,e.txt", "--random", 1),
        ("matrix", "--model", llama, "--tasks", pairs, "--circuits", "e.json", "--random", 1),
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
