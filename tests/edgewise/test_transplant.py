"""`edgewise transplant` and the function behind it, end to end on tiny models."""

from __future__ import annotations

import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

import edgewise as public
from edgewise.cli import cli
from edgewise.graphs.errors import EdgewiseError, GraphMismatch, PromptError
from edgewise.graphs.files import read_transplant
from edgewise.graphs.names import Node
from edgewise.patching.transplant.donor import clean_runner, record
from edgewise.patching.transplant.transplant import Transplant, nodes_mask
from edgewise.session import open_model, open_task
from edgewise.steps.transplant import Choice, transplant
from edgewise.workflow import evaluate
from tests.edgewise.conftest import save_tokenizer, tiny


@pytest.fixture(scope="module")
def variant(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save the Llama of `models` with another MLP in layer 1, and nothing else changed."""
    folder = tmp_path_factory.mktemp("variant")
    model = tiny("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.mul_(3)
    model.save_pretrained(folder)
    return folder


def test_a_known_change_is_found(edgewise: Any, models: Any, variant: Path, pairs: Path) -> None:
    result = edgewise(
        "transplant", models["llama"], variant, "--task", pairs, "--greedy", 3, "--metric", "kl",
        "-o", "t.json",
    )  # fmt: skip
    lines = [line.split() for line in result.stdout.splitlines()]
    assert [row[0] for row in lines if row[2:] == ["100.0%", "[100.0%,", "100.0%]"]] == ["m1"]
    assert sum(row[:2] == ["+", "m1"] for row in lines) == 1  # nothing else adds to it
    assert "B into A" in result.stdout and "100.0% of the gain carried" in result.stdout
    assert "written: t.json" in result.stdout
    file = read_transplant("t.json")
    assert str(file.singles[0][0]) == "m1"
    assert len(file.singles) == len(file.graph.senders)
    assert [str(node) for node, _, _ in file.greedy] == ["m1"]
    assert file.measures["carried"] == pytest.approx(1)
    assert file.measures["gain"] == pytest.approx(file.measures["b"] - file.measures["a"])


def test_both_directions_measure_what_evaluate_measures(
    edgewise: Any, models: Any, pairs: Path
) -> None:
    found = {}
    for direction in ("b-into-a", "a-into-b"):
        result = edgewise(
            "transplant", models["llama"], models["tuned"], "--task", pairs, "--nodes",
            "a0.h1, m1", "--direction", direction, "--json",
        )  # fmt: skip
        found[direction] = json.loads(result.stdout)
    for name, model in (("a", "llama"), ("b", "tuned")):
        session = open_model(str(models[model]))
        task, _ = open_task(session, str(pairs))
        full = public.Circuit.full(session.graph)
        value = evaluate(session, full, task).evaluation.value_full
        for document in found.values():
            assert document["measures"][name] == pytest.approx(value, rel=1e-5)
            assert document[name]["model"]["name"] == str(models[model])
    sessions = [open_model(str(models[name])) for name in ("llama", "tuned")]
    task, _ = open_task(sessions[0], str(pairs))
    for direction, (donor, receiver) in (
        ("b-into-a", sessions[::-1]),
        ("a-into-b", sessions),
    ):
        donated = record(clean_runner(donor.lifted, task, "logit_diff"))
        both = Transplant.create(receiver.lifted, task, donated)
        mask = nodes_mask(both.graph, [Node.parse("a0.h1"), Node.parse("m1")])
        (value,) = both.measure(mask[None])
        chosen = found[direction]["chosen"]
        assert chosen["value"] == pytest.approx(value, rel=1e-5)
        ends = found[direction]["measures"]
        a, b = (ends["a"], ends["b"]) if direction == "b-into-a" else (ends["b"], ends["a"])
        assert chosen["carried"] == pytest.approx((value - a) / (b - a), rel=1e-4)
        assert chosen["nodes"] == ["a0.h1", "m1"]
        assert chosen["edges"] == int(mask.sum()) == len(found[direction]["edges"])


def test_edges_and_circuits_are_the_same_choice(
    edgewise: Any, models: Any, pairs: Path, circuit: Path
) -> None:
    line = ["transplant", models["llama"], models["tuned"], "--task", pairs, "--json"]
    names = [f"{edge[0]}->{edge[1]}" for edge in json.loads(circuit.read_text())["edges"]]
    one = json.loads(edgewise(*line, "--circuit", circuit).stdout)
    given = [word for name in names[:-1] for word in ("--edges", name)]
    given[-1] += f",{names[-1]}"
    two = json.loads(edgewise(*line, *given).stdout)
    assert one["chosen"] == two["chosen"]
    assert one["edges"] == two["edges"] and len(one["edges"]) == len(names)


def test_only_the_nodes_of_a_circuit_are_ranked(
    edgewise: Any, models: Any, pairs: Path, circuit: Path
) -> None:
    result = edgewise(
        "transplant", models["llama"], models["tuned"], "--task", pairs, "--among", circuit,
        "--json",
    )  # fmt: skip
    found = json.loads(result.stdout)
    nodes = {str(node) for node in public.read_circuit(circuit).circuit.nodes} - {"logits"}
    assert {row[0] for row in found["singles"]} == nodes
    assert found["greedy"] == []


def test_the_circuits_graph_options_are_used(
    edgewise: Any, models: Any, pairs: Path, tmp_path: Path
) -> None:
    edgewise(
        "discover", "--model", models["llama"], "--task", pairs, "--method", "eap", "--top", 9,
        "--grouped-kv", "-o", "grouped.json",
    )  # fmt: skip
    found = json.loads(
        edgewise(
            "transplant", models["llama"], models["tuned"], "--task", pairs, "--circuit",
            "grouped.json", "--json",
        ).stdout
    )  # fmt: skip
    assert found["graph"]["grouped_kv"] is True
    assert found["chosen"]["edges"] == 9


def test_equal_models_have_no_gain(edgewise: Any, models: Any, pairs: Path) -> None:
    line = ["transplant", models["llama"], models["llama"], "--task", pairs]
    result = edgewise(*line, "--nodes", "m1")
    assert "there is no gain to carry: both models measure the same" in result.stdout
    failed = edgewise(*line, status=1)
    assert "there is no gain that a node could carry; use another task or metric" in failed.stderr


def test_what_is_lost_is_said(edgewise: Any, models: Any, variant: Path, pairs: Path) -> None:
    result = edgewise(
        "transplant", models["llama"], variant, "--task", pairs, "--direction", "a-into-b",
        "--nodes", "m1", "--metric", "kl",
    )  # fmt: skip
    assert "A into B" in result.stdout
    assert "100.0% of the gain lost [100.0%, 100.0%]" in result.stdout
    value = float(result.stdout.partition("with them")[2].split()[1].rstrip(","))
    a = float(result.stdout.partition(": kl ")[2].split()[0])
    assert value == pytest.approx(a, abs=1e-3)


def test_the_donor_is_closed_before_the_receiver_is_opened(
    models: Any, pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[weakref.ref[Any]] = []

    def noted(*given: Any, **named: Any) -> Any:
        assert all(old() is None for old in opened)
        session = open_model(*given, **named)
        opened.append(weakref.ref(session.loaded.model))
        return session

    monkeypatch.setattr("edgewise.steps.transplant.open_model", noted)
    refs = [str(models[name]) for name in ("llama", "tuned")]
    transplant(refs[0], refs[1], str(pairs), Choice(greedy=1))
    assert len(opened) == 2


def test_a_rerun_gives_the_same(edgewise: Any, models: Any, pairs: Path) -> None:
    documents = []
    for name in ("one.json", "two.json"):
        edgewise(
            "transplant", models["llama"], models["tuned"], "--task", pairs, "--greedy", 2, "-o",
            name,
        )  # fmt: skip
        document = json.loads(Path(name).read_text())
        del document["transplant"]["seconds"]
        documents.append(document)
    assert documents[0] == documents[1]


def test_kl_compares_with_the_donor(models: Any, pairs: Path) -> None:
    found = transplant(
        str(models["llama"]), str(models["tuned"]), str(pairs), Choice(nodes=("m1",)), metric="kl"
    )
    assert found.measures["b"] == 0
    assert found.measures["a"] > 0


def test_open_sessions_stay_as_they_are(models: Any, pairs: Path) -> None:
    a, b = (open_model(str(models[name])) for name in ("llama", "tuned"))
    before = {name: p.clone() for name, p in a.loaded.model.named_parameters()}
    found = public.transplant(a, b, str(pairs), Choice(nodes=("m1",)))
    again = public.transplant(
        str(models["llama"]), str(models["tuned"]), str(pairs), Choice(nodes=("m1",))
    )
    assert found.chosen == again.chosen
    for name, parameter in a.loaded.model.named_parameters():
        assert torch.equal(parameter, before[name])


def test_a_model_without_a_tokenizer_reads_with_the_others(models: Any, tmp_path: Path) -> None:
    text = {"clean": "a b c", "corrupted": "a d c", "answers": ["e"], "distractors": ["f"]}
    task = tmp_path / "text.jsonl"
    task.write_text(json.dumps(text) + "\n")
    tiny("gpt2", 1).save_pretrained(tmp_path / "other")
    refs = (str(models["words"]), str(tmp_path / "other"))
    values = [
        transplant(a, b, str(task), Choice(nodes=("m1",))).measures for a, b in (refs, refs[::-1])
    ]
    assert values[0]["a"] == pytest.approx(values[1]["b"])


# -- what is refused ----------------------------------------------------------------------------


def test_other_shapes_are_refused(edgewise: Any, models: Any, pairs: Path) -> None:
    failed = edgewise("transplant", models["llama"], models["deeper"], "--task", pairs, status=1)
    assert "differ in layers 3 and 2. Accepted: two models of one shape" in failed.stderr


def test_other_prompts_are_refused(models: Any, tmp_path: Path) -> None:
    other = tmp_path / "other"
    tiny("gpt2", 1).save_pretrained(other)
    save_tokenizer(other)
    path = other / "tokenizer.json"
    content = json.loads(path.read_text())
    words = content["model"]["vocab"]
    words["b"], words["c"] = words["c"], words["b"]
    path.write_text(json.dumps(content))
    text = {"clean": "a b c", "corrupted": "a d c", "answers": ["e"], "distractors": ["f"]}
    task = tmp_path / "text.jsonl"
    task.write_text(json.dumps(text) + "\n")
    with pytest.raises(PromptError, match=r"different prompts for this task, .* at place 2"):
        transplant(str(models["words"]), str(other), str(task))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--nodes m1 --greedy 2", "nodes and greedy are given together"),
        ("--nodes m1 --edges m0->logits", "nodes and edges are given together"),
        ("--share 0.5", "give greedy too"),
        ("--beam 3", "--beam is of --greedy"),
        ("--nodes ,", "--nodes names none"),
        ("--nodes x9", "'x9' is not a node's name"),
        ("--edges m0", "'m0' is not an edge's name"),
        ("--direction b-in-a", "did you mean 'b-into-a'?"),
    ],
)
def test_wrong_usage(edgewise: Any, models: Any, pairs: Path, words: str, message: str) -> None:
    line = ["transplant", models["llama"], models["tuned"], "--task", pairs]
    failed = edgewise(*line, *words.split(), "-o", "t.json", status=2)
    assert message in failed.stderr
    assert not Path("t.json").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--nodes m5", "the graph has no node 'm5' that writes"),
        ("--nodes logits", "the graph has no node 'logits' that writes"),
        ("--edges m1->m0", "does not exist: m1 writes after m0 reads"),
        ("--circuit none.json", "none.json does not exist"),
    ],
)
def test_what_is_not_in_the_graph(
    edgewise: Any, models: Any, pairs: Path, words: str, message: str
) -> None:
    line = ["transplant", models["llama"], models["tuned"], "--task", pairs]
    assert message in edgewise(*line, *words.split(), "-o", "t.json", status=1).stderr
    assert not Path("t.json").exists()


def test_circuits_of_other_graphs_are_refused(models: Any, pairs: Path) -> None:
    other = public.Circuit.full(public.ComputationGraph(layers=1, heads=1))
    for choice in (Choice(circuit=other), Choice(among=other)):
        with pytest.raises(GraphMismatch, match="does not fit the models' graph: layers 1 and 2"):
            transplant(str(models["llama"]), str(models["tuned"]), str(pairs), choice)


def test_impossible_choices_are_refused() -> None:
    with pytest.raises(EdgewiseError, match="greedy is 0; accepted"):
        Choice(greedy=0)
    with pytest.raises(EdgewiseError, match="beam is 0; accepted"):
        Choice(greedy=1, beam=0)
    with pytest.raises(EdgewiseError, match="unknown direction 'sideways'"):
        transplant("a", "b", "ioi", direction="sideways")


# -- the file -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def transplanted(models: Any, discovered: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("transplanted") / "t.json"
    line = (models["llama"], models["tuned"], "--task", discovered / "pairs.jsonl", "--edges",
            "m0->logits,m0->m1", "-o", path)  # fmt: skip
    result = CliRunner().invoke(cli, ["transplant", *map(str, line)])
    assert result.exit_code == 0, result.output
    return path.read_text()


@pytest.fixture
def written(transplanted: str, tmp_path: Path) -> Path:
    path = tmp_path / "t.json"
    path.write_text(transplanted)
    return path


def test_a_file_is_read_as_it_was_written(written: Path) -> None:
    file = read_transplant(written)
    assert file.edges is not None
    assert [str(edge) for edge in file.edges.edges] == ["m0->m1", "m0->logits"]
    again = written.with_name("again.json")
    public.write_transplant(again, file)
    assert again.read_bytes() == written.read_bytes()
    document = json.loads(written.read_text())
    document["note"] = {"z": 1, "a": 2}
    written.write_text(json.dumps(document))
    public.write_transplant(again, read_transplant(written))
    assert json.loads(again.read_text())["note"] == {"a": 2, "z": 1}


def _set(document: Any, keys: tuple[Any, ...], value: Any) -> None:
    for key in keys[:-1]:
        document = document[key]
    document[keys[-1]] = value


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("format",), "edgewise/circuit", "is not a transplant file"),
        (("version",), 2, "written by a newer edgewise"),
        (("a",), None, "missing: a"),
        (("measures",), {"a": 1}, r"missing: measures\.b, measures\.gain"),
        (("measures", "a"), "x", r"measures\.a is 'x'; accepted: a number"),
        (("chosen", "value"), None, r"chosen\.value is None"),
        (("chosen", "edges"), 3, r"chosen\.edges is 3, but 2 are listed"),
        (("chosen", "nodes"), "m0", "accepted: a list of names"),
        (("transplant", "direction"), "up", "direction is 'up'; accepted: b-into-a"),
        (("edges", 0), ["m1", "m0"], "m1 does not write before m0 reads"),
        (("graph", "edges"), 3, "contradicts itself"),
        (("singles",), 3, "singles is no list"),
        (("singles",), [["m9", 1.0, 1.0]], "entry 1, the graph has no sender m9"),
        (("singles",), [["m0", 1.0, 1.0], ["m0", 1.0, 1.0]], "entry 2, m0 stands twice"),
        (("greedy",), [["m0", None, 1.0]], "value and carried must be numbers"),
        (("greedy",), [["m0"]], r"accepted: \[node, value, carried\]"),
        (("greedy",), [["??", 1.0, 1.0]], "is not a node's name"),
    ],
)
def test_damaged_files_are_refused(
    written: Path, keys: tuple[Any, ...], value: Any, message: str
) -> None:
    document = json.loads(written.read_text())
    _set(document, keys, value)
    written.write_text(json.dumps(document))
    with pytest.raises(EdgewiseError, match=message):
        read_transplant(written)
