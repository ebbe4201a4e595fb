"""Files: what is written reads back the same, bytes are fixed, and every damage is named."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewise.graphs.circuit import Circuit
from edgewise.graphs.errors import EdgewiseError, FileFormatError, GraphMismatch
from edgewise.graphs.files import (
    CircuitFile,
    DiffFile,
    diff_files,
    model_block,
    read_any,
    read_circuit,
    read_diff,
    read_scores,
    scores_path,
    unlike,
    write_circuit,
    write_diff,
    write_scores,
)
from edgewise.graphs.files.circuit import dump_circuit
from edgewise.graphs.graph import ComputationGraph
from edgewise.graphs.scores import Scores
from tests.graph_shapes import shapes

TINY = ComputationGraph(layers=2, heads=2)
SHAPES = shapes(3, 2, 2)


def circuit_file(
    graph: ComputationGraph = TINY, seed: int = 0, share: float = 0.3, **changes: Any
) -> CircuitFile:
    generator = np.random.default_rng(seed)
    kept = graph.reads & (generator.random(graph.reads.shape) < share)
    scores = generator.normal(size=kept.shape).astype(np.float32)
    scores[generator.random(kept.shape) < 0.1] = np.nan
    blocks: dict[str, Any] = {
        "model": model_block(
            graph, name="toy", revision=None, weights_sha256="ab", family="gpt2", d_model=8
        ),
        "task": {"name": "ioi", "sha256": "cd", "examples": 4, "seed": 0},
        "discovery": {"method": "acdc", "metric": "kl", "ablation": "resample", "threshold": 0.02},
        "certificate": {"kept_all": 1e-5, "kept_none": 1.5e-5, "stream": 3e-6},
        "measures": {"loss_full": 0.0, "loss_circuit": 0.25},
        "edge_scores": scores,
    }
    return CircuitFile(Circuit(graph, kept), **{**blocks, **changes})


def document(**changes: Any) -> dict[str, Any]:
    """Return a good circuit file as plain JSON, with some top-level keys replaced."""
    plain: dict[str, Any] = json.loads(dump_circuit(circuit_file()))
    return {**plain, **changes}


def refused(tmp_path: Path, content: dict[str, Any] | str) -> str:
    """Return the message a circuit file with this content is refused with."""
    path = tmp_path / "c.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(FileFormatError) as caught:
        read_circuit(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


# -- circuit files ------------------------------------------------------------------------------


@given(SHAPES, st.integers(0, 10_000), st.sampled_from([0.0, 0.2, 1.0]))
def test_a_circuit_reads_back_as_itself(
    tmp_path_factory: pytest.TempPathFactory, graph: ComputationGraph, seed: int, share: float
) -> None:
    path = tmp_path_factory.mktemp("circuit") / "c.json"
    file = circuit_file(graph, seed, share)
    write_circuit(path, file)
    read = read_circuit(path)
    assert read.circuit == file.circuit
    assert read.provenance == file.provenance
    np.testing.assert_array_equal(read.edge_scores, file.edge_scores)
    assert dump_circuit(read) == dump_circuit(file) == path.read_text()


def test_the_form_of_a_file_is_fixed() -> None:
    graph = ComputationGraph(1, 1)
    kept = Circuit.empty(graph).with_edges(["a0.h0->logits", "embed->m0"])
    scores = np.zeros(graph.reads.shape)
    scores[graph.port_index[graph.ports[3]]] = 0.0123
    scores[-1] = np.nan
    text = dump_circuit(make(kept, scores))
    assert text.startswith('{\n  "format": "edgewise/circuit",\n  "version": 1,\n  "model": {\n')
    assert text.endswith(
        '  "edges": [\n    ["embed", "m0", 0.0123],\n    ["a0.h0", "logits", null]\n  ]\n}\n'
    )
    assert json.loads(text)["graph"] == {
        "grouped_kv": False,
        "split_embedding": False,
        "senders": 3,
        "ports": 5,
        "edges": 8,
    }


def make(circuit: Circuit, scores: np.ndarray | None = None, **changes: Any) -> CircuitFile:
    base = circuit_file(circuit.graph)
    return CircuitFile(circuit, **{**base.provenance, **changes}, edge_scores=scores)


def test_the_order_of_keys_given_changes_no_byte() -> None:
    base = circuit_file()
    turned = {
        block: dict(reversed(list(values.items()))) for block, values in base.provenance.items()
    }
    turned["discovery"]["versions"] = {"b": "1", "a": "2"}
    base.discovery["versions"] = {"a": "2", "b": "1"}  # type: ignore[index]
    assert dump_circuit(circuit_file(**turned)) == dump_circuit(base)


def test_numbers_that_json_does_not_have_become_null_and_numpy_becomes_plain() -> None:
    measures = {"a": float("nan"), "b": np.float32(0.5), "c": [np.inf, np.int64(3)], "d": (1, None)}
    file = circuit_file(measures=measures)
    assert file.measures == {"a": None, "b": 0.5, "c": [None, 3], "d": [1, None]}
    assert "NaN" not in dump_circuit(file)


def test_unknown_keys_are_kept_and_written_back(tmp_path: Path) -> None:
    content = document(note={"b": 1, "a": [2]})
    content["graph"]["window"] = 4
    content["model"]["trained"] = "yes"
    (tmp_path / "a.json").write_text(json.dumps(content))
    write_circuit(tmp_path / "b.json", read_circuit(tmp_path / "a.json"))
    assert json.loads((tmp_path / "b.json").read_text()) == content


def test_scores_of_edges_that_are_not_kept_are_left_out() -> None:
    file = make(Circuit.empty(TINY).with_edges(["embed->m0"]), np.ones(TINY.reads.shape))
    assert file.edge_scores is not None
    assert np.nansum(file.edge_scores) == 1
    assert file.edge_scores.dtype == np.float32


def test_what_cannot_be_saved_is_refused_at_once() -> None:
    with pytest.raises(EdgewiseError, match=r"missing: task\.sha256, certificate\.stream"):
        circuit_file(
            task={"name": "ioi", "examples": 1, "seed": 0},
            certificate={"kept_all": 0, "kept_none": 0},
        )
    with pytest.raises(EdgewiseError, match=r"measures\.x cannot be saved: .* type set"):
        circuit_file(measures={"x": {1}})
    with pytest.raises(GraphMismatch, match="layers 2 and 3"):
        circuit_file(ComputationGraph(3, 2), model=circuit_file().model)
    with pytest.raises(GraphMismatch, match=r"scores of shape \(2, 2\)"):
        circuit_file(edge_scores=np.zeros((2, 2)))


def test_a_file_cut_anywhere_is_called_cut_off_at_its_last_line(tmp_path: Path) -> None:
    text = dump_circuit(circuit_file())
    for end in range(1, len(text) - 2, 7):
        line = text[:end].rstrip().count("\n") + 1
        assert f"it was cut off at line {line}, before its end" in refused(tmp_path, text[:end])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty; expected a circuit file"),
        ("  \n", "is empty"),
        ("digraph {}", "it is not JSON"),
        ('{"format": "edgewise/circuit" "version": 1}', "line 1, column 31 cannot be read as JSON"),
        ('{"format": "edgewise/circuit", "x": NaN}', "holds NaN"),
        ("[" * 100_000 + "]" * 100_000, "is damaged"),
        ("[1]", 'it has no "format"'),
        ('{"edges": []}', 'it has no "format"; accepted: edgewise/circuit'),
        ('{"format": "edgewise/diff", "version": 1}', "This is a diff of two circuits"),
        ('{"format": "other"}', "its format is 'other'; accepted: edgewise/circuit"),
        ('{"format": "edgewise/circuit"}', "version is None"),
        ('{"format": "edgewise/circuit", "version": "1"}', "version is '1'"),
        (
            '{"format": "edgewise/circuit", "version": 7}',
            "newer edgewise: .* version 7, .* version 1",
        ),
    ],
)
def test_what_is_no_circuit_file_is_refused(tmp_path: Path, content: str, message: str) -> None:
    assert re.search(message, refused(tmp_path, content))


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    (tmp_path / "b.json").write_bytes(b"\xff\xfe\x00")
    for path, message in [
        (tmp_path / "no.json", "does not exist; expected a circuit file"),
        (tmp_path, "cannot read"),
        (tmp_path / "b.json", "it is not text"),
    ]:
        with pytest.raises(FileFormatError, match=message):
            read_circuit(path)


def test_missing_keys_are_listed_all_at_once(tmp_path: Path) -> None:
    content = document(task=3)
    del content["model"]["family"], content["model"]["d_model"], content["measures"]
    del content["graph"]["ports"], content["edges"]
    message = refused(tmp_path, content)
    assert (
        "missing: model.family, model.d_model, task (an object), measures, graph.ports, edges."
        in (message)
    )


def change(block: str, key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def apply(content: dict[str, Any]) -> None:
        content[block][key] = value

    return apply


def edges(*rows: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content.update(edges=list(rows))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (change("model", "layers", 3), "states 7 senders, but its shape has 10; 15 ports, but"),
        (change("graph", "edges", 12), "12 edges, but its shape has 46"),
        (change("graph", "grouped_kv", "no"), "grouped_kv 'no' (accepted: true, false)"),
        (change("model", "heads", 2.5), "heads 2.5 (accepted: a number)"),
        (change("model", "layers", True), "layers True (accepted: a number)"),
        (
            change("model", "kv_heads", 3),
            "no graph has 2 layers, 2 heads and 3",
        ),
        (change("model", "d_model", "8"), "d_model '8'"),
        (change("model", "layers", 10**8), "larger than any this program can hold"),
        (lambda c: c.update(edges={}), "edges is no list"),
        (edges(["embed", "m0"]), "entry 1, ['embed', 'm0']: accepted: [sender, port, score]"),
        (edges(["embed", "m0", None], ["embed", "m0", 1]), "entry 2, embed->m0: stands twice"),
        (
            edges(["m1", "m0", 1]),
            "entry 1, m1->m0: no such edge, m1 does not write before m0",
        ),
        (edges(["m7", "m0", 1]), "the graph has no sender m7; it has 2 layers, 2 heads"),
        (edges(["m0", "a1.h9<q>", 1]), "the graph has no port a1.h9<q>"),
        (edges(["input", "m0", 1]), "'input' is not a node's name"),
        (edges(["m0", "a1.h0", 1]), "a1.h0 has these: a1.h0<q>"),
        (edges([" embed", "m0", 1]), "write it as embed->m0"),
        (edges([0, "m0", 1]), "sender and port must be names"),
        (edges(["embed", "m0", "1"]), "a score is a number or null, found '1'"),
        (edges(["embed", "m0", True]), "a score is a number or null, found True"),
        (edges(["embed", "m0", 1e300]), "not a finite float32"),
        (edges(*[["x", "y", 1]] * 5), "(and 2 more)"),
    ],
)
def test_damage_inside_is_named(
    tmp_path: Path, damage: Callable[[dict[str, Any]], None], message: str
) -> None:
    content = document()
    damage(content)
    assert message in refused(tmp_path, content)


def test_edges_may_stand_in_any_order(tmp_path: Path) -> None:
    content = document()
    content["edges"].reverse()
    (tmp_path / "c.json").write_text(json.dumps(content))
    assert dump_circuit(read_circuit(tmp_path / "c.json")) == dump_circuit(circuit_file())


# -- scores sidecars ----------------------------------------------------------------------------


def random_scores(graph: ComputationGraph = TINY, seed: int = 0) -> Scores:
    values = np.random.default_rng(seed).normal(size=graph.reads.shape)
    values[0, 0] = np.nan
    return Scores(graph, values)


def save_scores(path: Path, scores: Scores) -> Path:
    return write_scores(path, scores, method="eap", metric="logit_diff", ablation="resample")


@given(SHAPES, st.integers(0, 10_000))
def test_scores_read_back_as_themselves_with_or_without_the_graph(
    tmp_path_factory: pytest.TempPathFactory, graph: ComputationGraph, seed: int
) -> None:
    path = tmp_path_factory.mktemp("scores") / "c.json"
    scores = random_scores(graph, seed)
    assert save_scores(path, scores) == scores_path(path)
    for read in (read_scores(path), read_scores(path, graph), read_scores(scores_path(path))):
        assert read.scores.graph == graph
        np.testing.assert_array_equal(read.scores.values, scores.values)
        assert (read.method, read.metric, read.ablation) == ("eap", "logit_diff", "resample")


def test_the_sidecar_is_a_safetensors_file_with_fixed_bytes(tmp_path: Path) -> None:
    from safetensors import safe_open

    path = save_scores(tmp_path / "a.json", random_scores())
    save_scores(tmp_path / "b.json", random_scores())
    assert path.read_bytes() == scores_path(tmp_path / "b.json").read_bytes()
    with safe_open(path, framework="np") as opened:
        metadata = opened.metadata()
        values = opened.get_tensor("scores")
        assert list(opened.keys()) == ["scores"]
    assert (values.dtype, values.shape) == (np.dtype("float32"), TINY.reads.shape)
    assert json.loads(metadata["senders"])[:2] == ["embed", "a0.h0"]
    assert json.loads(metadata["ports"])[-1] == "logits"


def test_sidecars_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    with pytest.raises(FileFormatError, match="does not exist; `write_scores`"):
        read_scores(path)
    side = save_scores(path, random_scores())
    with pytest.raises(FileFormatError, match=r"7 senders for 10, and number 8 is none where"):
        read_scores(path, ComputationGraph(3, 2))
    with pytest.raises(FileFormatError, match=r"scores stand where .*first: a0.h0->m0"):
        save_scores(path, Scores(TINY, np.ones(TINY.reads.shape)))
        read_scores(path, ComputationGraph(2, 2, parallel=True))
    for damaged in (b"", side.read_bytes()[:-5], b"{}" * 20):
        side.write_bytes(damaged)
        with pytest.raises(FileFormatError, match="is damaged or no safetensors file"):
            read_scores(path)


def test_foreign_safetensors_files_are_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    file = tmp_path / "c.scores.safetensors"
    save_file({"w": np.zeros(2)}, file)
    with pytest.raises(FileFormatError, match="holds the tensors w"):
        read_scores(file)
    names = {"senders": "[]", "ports": "[]", "method": "", "metric": "", "ablation": ""}
    values = np.full(TINY.reads.shape, np.nan, dtype=np.float32)
    save_file({"scores": values}, file, {"senders": "[]"})
    with pytest.raises(FileFormatError, match="metadata lacks ports, method, metric, ablation"):
        read_scores(file)
    save_file({"scores": values}, file, names)
    with pytest.raises(FileFormatError, match="does not say its graph"):
        read_scores(file)
    for wrong in (values.astype(np.float64), values[1:]):
        save_scores(tmp_path / "good.json", random_scores())
        good = read_metadata(scores_path(tmp_path / "good.json"))
        save_file({"scores": np.ascontiguousarray(wrong)}, file, good)
        with pytest.raises(FileFormatError, match=r"accepted: float32 of shape \[15, 7\]"):
            read_scores(file)


def test_a_name_that_would_fill_pages_is_cut(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    path = save_scores(tmp_path / "c.json", random_scores())
    senders = json.dumps(["a0.h" + "9" * 5000])
    save_file(load_file(path), path, {**read_metadata(path), "senders": senders})
    with pytest.raises(FileFormatError, match=r"number 1 is a0\.h9{56} where embed is expected"):
        read_scores(path)


def test_infinite_scores_in_a_file_are_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    path = save_scores(tmp_path / "c.json", random_scores())
    values = np.where(TINY.reads, np.inf, np.nan).astype(np.float32)
    save_file({"scores": values}, path, read_metadata(path))
    with pytest.raises(FileFormatError, match=r"the score of embed->a0\.h0<q> is infinite"):
        read_scores(path)


def read_metadata(path: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(path, framework="np") as opened:
        return dict(opened.metadata())


def test_infinite_scores_are_not_saved(tmp_path: Path) -> None:
    with pytest.raises(EdgewiseError, match="some are infinite"):
        save_scores(tmp_path / "c.json", Scores(TINY, np.full(TINY.reads.shape, np.inf)))
    assert list(tmp_path.iterdir()) == []


# -- diff files ---------------------------------------------------------------------------------


@given(SHAPES, st.integers(0, 10_000))
def test_a_diff_reads_back_as_itself(
    tmp_path_factory: pytest.TempPathFactory, graph: ComputationGraph, seed: int
) -> None:
    path = tmp_path_factory.mktemp("diff") / "d.json"
    a, b = circuit_file(graph, seed), circuit_file(graph, seed + 1)
    file = diff_files(a, b, names=("a.json", "b.json"))
    write_diff(path, file)
    read = read_any(path)
    assert isinstance(read, DiffFile)
    assert (read.diff.a, read.diff.b) == (a.circuit, b.circuit)
    assert read.a == {"file": "a.json", **a.provenance}
    np.testing.assert_array_equal(read.scores_b, b.edge_scores)
    write_diff(path.with_name("again.json"), read)
    assert path.with_name("again.json").read_bytes() == path.read_bytes()


def test_a_diff_file_lists_shared_and_lone_edges_with_both_scores(tmp_path: Path) -> None:
    a = make(
        Circuit.empty(TINY).with_edges(["embed->m0", "m0->m1"]), np.full(TINY.reads.shape, 0.5)
    )
    b = make(Circuit.empty(TINY).with_edges(["embed->m0", "m1->logits"]), np.ones(TINY.reads.shape))
    file = diff_files(a, b)
    write_diff(tmp_path / "d.json", DiffFile(**{**vars(file), "extra": {"of_later": {"x": 1}}}))
    content = json.loads((tmp_path / "d.json").read_text())
    assert content["shared"] == [["embed", "m0", 0.5, 1.0]]
    assert content["only_a"] == [["m0", "m1", 0.5, None]]
    assert content["only_b"] == [["m1", "logits", None, 1.0]]
    assert content["statistics"]["edges"]["jaccard"] == pytest.approx(1 / 3)
    assert read_diff(tmp_path / "d.json").extra == {"of_later": {"x": 1}}


def test_circuits_of_unequal_models_are_not_compared() -> None:
    other = circuit_file(ComputationGraph(3, 2, grouped_kv=True))
    with pytest.raises(GraphMismatch, match=r"a\.json \(toy\) and b\.json .* layers 2 and 3; "):
        diff_files(circuit_file(), other, names=("a.json", "b.json"))
    wide = circuit_file(model={**circuit_file().model, "d_model": 16})
    with pytest.raises(GraphMismatch, match="differ in d_model 8 and 16"):
        diff_files(circuit_file(), wide)


def test_unlike_discoveries_are_pointed_out() -> None:
    a = circuit_file()
    b = circuit_file(task={**a.task, "sha256": "ef"}, discovery={**a.discovery, "ablation": "zero"})
    assert unlike(a.provenance, a.provenance) == []
    assert unlike(a.provenance, b.provenance) == [
        "task.sha256 cd and ef",
        "discovery.ablation resample and zero",
    ]


def test_damaged_diff_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    write_diff(path, diff_files(circuit_file(), circuit_file(seed=1)))
    good = json.loads(path.read_text())

    def message(**changes: Any) -> str:
        path.write_text(json.dumps({k: v for k, v in {**good, **changes}.items() if v is not None}))
        with pytest.raises(FileFormatError) as caught:
            read_any(path)
        return str(caught.value)

    assert "missing: only_b" in message(only_b=None)
    assert "missing: b.model" in message(b={"file": "x"})
    assert "missing: a.model.layers" in message(
        a={"model": {k: v for k, v in good["a"]["model"].items() if k != "layers"}}
    )
    assert "stands in two of its lists" in message(only_a=good["shared"])
    assert "only_a cannot be read: entry 1" in message(only_a=[["m9", "m0", 1, 1]])
    path.write_text(dump_circuit(circuit_file()))
    with pytest.raises(FileFormatError, match="This is a single circuit"):
        read_diff(path)
    assert isinstance(read_any(path), CircuitFile)


# -- models with experts ------------------------------------------------------------------------

SPARSE = ComputationGraph(2, 2, experts=(0, 3), shared_experts=True)


def test_files_name_experts_only_where_there_are_some() -> None:
    assert "experts" not in dump_circuit(circuit_file())
    model = json.loads(dump_circuit(circuit_file(SPARSE)))["model"]
    assert (model["experts"], model["shared_experts"]) == ([0, 3], True)


def test_scores_files_name_experts_only_where_there_are_some(tmp_path: Path) -> None:
    for graph, named in ((TINY, False), (SPARSE, True)):
        values = np.where(graph.reads, 1.0, np.nan).astype(np.float32)
        how = {"method": "eap", "metric": "kl", "ablation": "zero"}
        path = write_scores(tmp_path / "c.json", Scores(graph, values), **how)
        assert (b"shared_experts" in path.read_bytes()) is named
        assert read_scores(path).scores.graph == graph


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"experts": "many"}, r"experts 'many' \(accepted: a number for each layer\)"),
        ({"experts": [0, -1]}, r"experts \[0, -1\] \(accepted"),
        ({"experts": [0, True]}, r"experts \[0, True\] \(accepted"),
        ({"experts": [3]}, r"no graph of 2 layers has experts \[3\]"),
        ({"experts": [0, 2]}, r"contradicts itself: it states 10 senders, but its shape has 9"),
        ({"experts": []}, "without experts has no shared experts"),
        ({"shared_experts": 3}, r"shared_experts 3 \(accepted: true, false\)"),
        ({"experts": [0, 10**9]}, "larger than any this program can hold"),
    ],
)
def test_wrong_experts_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    plain = json.loads(dump_circuit(circuit_file(SPARSE)))
    plain["model"] |= change
    assert re.search(message, refused(tmp_path, plain))


def test_files_name_sources_of_keys_only_where_there_are_some(tmp_path: Path) -> None:
    assert "kv_sources" not in dump_circuit(circuit_file())
    graph = ComputationGraph(3, 2, kv_sources=(0, 1, 0))
    path = tmp_path / "shared.json"
    write_circuit(path, circuit_file(graph))
    assert json.loads(path.read_text())["model"]["kv_sources"] == [0, 1, 0]
    assert read_circuit(path).circuit.graph == graph
    for wrong, message in (
        ("1", r"kv_sources '1' \(accepted: a layer for each layer\)"),
        ([0, 1, 5], r"no graph of 3 layers has keys and values from layers \[0, 1, 5\]"),
        ([0, 1, 1], "contradicts itself: it states"),
    ):
        content = json.loads(path.read_text())
        content["model"]["kv_sources"] = wrong
        path.with_name("wrong.json").write_text(json.dumps(content))
        with pytest.raises(FileFormatError, match=message):
            read_circuit(path.with_name("wrong.json"))


def test_a_models_experts_must_be_the_graphs() -> None:
    with pytest.raises(GraphMismatch, match=r"experts \[0, 3\] and \[\]"):
        circuit_file(TINY, model=circuit_file(SPARSE).model)
    with pytest.raises(GraphMismatch, match=r"experts \[\] and \[0, 3\]"):
        circuit_file(SPARSE, model=circuit_file().model)
