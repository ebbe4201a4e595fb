"""Other tools' circuits: told apart by what is in them, every entry of a wrong kind refused."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.graphs.circuit import Circuit
from edgewise.graphs.errors import FileFormatError, GraphMismatch
from edgewise.graphs.files import write_circuit
from edgewise.graphs.files.exchange import (
    is_foreign,
    read_acdc,
    read_eap_ig,
    read_edge_pruning,
    read_foreign,
    write_eap_ig,
)
from edgewise.graphs.graph import ComputationGraph
from edgewise.graphs.scores import Scores
from tests.graphs.test_files import circuit_file

CASES = Path(__file__).resolve().parents[1] / "data" / "cases" / "circuits"
TINY = ComputationGraph(2, 2)
WIDTH = 4
SENDERS = ("input", "a0.h0", "a0.h1", "m0", "a1.h0", "a1.h1", "m1")
KEPT = ("input->a0.h1<v>", "a0.h1->m1", "m1->logits")
ALONE = ("scores of nodes and neurons are not read, as edges have theirs",)


def document(**changes: Any) -> dict[str, Any]:
    """Return a graph as EAP-IG writes it, with neurons, of three kept edges."""
    circuit = Circuit.empty(TINY).with_edges(["embed->a0.h1<v>", "a0.h1->m1", "m1->logits"])
    edges = {}
    for row, column in np.argwhere(TINY.reads):
        name = f"{TINY.senders[column]}->{TINY.ports[row]}".replace("embed->", "input->")
        edges[name] = {"score": 0.25, "in_graph": bool(circuit.kept[row, column])}
    used = {"input", "a0.h1", "m1", "logits"}
    nodes = {
        name: {"in_graph": name in used, "neurons": [1.0] * WIDTH, "neurons_scores": [0.5] * WIDTH}
        for name in SENDERS
    }
    cfg = {"n_layers": 2, "n_heads": 2, "parallel_attn_mlp": False, "d_model": WIDTH}
    return {"cfg": cfg, "nodes": {**nodes, "logits": {"in_graph": True}}, "edges": edges, **changes}


def saved(folder: Path, content: object, name: str = "g.json") -> Path:
    """Write JSON, or a text as it is."""
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def refusal(path: Path) -> str:
    """Return what is said of a file that is refused, on one line."""
    with pytest.raises(FileFormatError) as caught:
        read_foreign(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- the case files ------------------------------------------------------------------------------


def test_a_case_whose_nodes_keep_no_neuron_is_refused_by_name() -> None:
    said = refusal(CASES / "eapig-neurons-none-kept.json")
    assert "is a circuit of neurons, which cannot be read" in said
    assert "its 20 kept edges" in said
    assert "input none of 32" in said


def test_a_case_of_a_flag_as_text_is_refused_with_its_place() -> None:
    said = refusal(CASES / "eapig-ingraph-string.json")
    assert "edge 'input->a0.h0<q>': in_graph is 'False'; accepted: true, false, 1 or 0." in said
    content = json.loads((CASES / "eapig-ingraph-string.json").read_text())
    content["edges"]["input->a0.h0<q>"]["in_graph"] = False
    assert len(content["edges"]) == 110


# -- neurons -------------------------------------------------------------------------------------


def test_nodes_that_keep_all_their_neurons_are_read(tmp_path: Path) -> None:
    found = read_foreign(saved(tmp_path, document()))
    circuit, scores = found.on(TINY)
    assert {str(edge).replace("embed", "input") for edge in circuit.edges} == set(KEPT)
    assert scores is not None
    assert scores["m1->logits"] == 0.25
    assert "2 layers, 2 heads, 3 of 46 edges kept, scored" in str(found)
    assert "scores of nodes and neurons are not read" in str(found)


@pytest.mark.parametrize("flag", [False, 0, 0.0])
@pytest.mark.parametrize(("name", "number"), [("a0.h1", 1), ("m1", 3), ("input", 2)])
def test_a_node_that_lacks_some_neurons_is_whole_and_that_is_said(
    tmp_path: Path, flag: object, name: str, number: int
) -> None:
    content = document()
    content["nodes"][name]["neurons"][:number] = [flag] * number
    found = read_foreign(saved(tmp_path, content))
    assert found.kept == 3
    assert (
        f"1 nodes keep only some of their neurons ({name} {WIDTH - number} of 4); here they are "
        "whole"
    ) in found.notes


@pytest.mark.parametrize(("name", "left"), [("a0.h1", 2), ("m1", 2), ("input", 2)])
def test_the_edges_of_a_node_without_neurons_are_left_out(
    tmp_path: Path, name: str, left: int
) -> None:
    content = document()
    content["nodes"][name]["neurons"] = [0] * WIDTH
    found = read_foreign(saved(tmp_path, content))
    assert found.kept == left
    assert name.replace("input", "embed") not in {str(e.sender) for e in found.on(TINY)[0].edges}
    said = f"1 nodes keep none of their neurons ({name} none of 4), so the 1 edges that they write"
    assert any(one.startswith(said) for one in found.notes)
    content["nodes"][name] = {"in_graph": True}  # EAP-IG takes a node without a list for empty
    assert read_foreign(saved(tmp_path, content)).kept == left
    for other in SENDERS:
        content["nodes"][other] = {"in_graph": True, "neurons": [0] * WIDTH}
    said = refusal(saved(tmp_path, content))
    assert "its 3 kept edges keep none of their neurons" in said
    assert "so that nothing is left of it" in said


def test_only_nodes_that_write_kept_edges_need_neurons(tmp_path: Path) -> None:
    content = document()
    content["nodes"]["m0"]["neurons"] = [0] * WIDTH
    assert read_foreign(saved(tmp_path, content)).kept == 3


def test_a_head_may_have_the_lists_of_all_heads_of_its_layer(tmp_path: Path) -> None:
    content = document()
    content["nodes"]["a0.h1"]["neurons"] = [[1.0] * WIDTH, [True] * WIDTH]
    assert read_foreign(saved(tmp_path, content)).kept == 3
    content["nodes"]["a0.h1"]["neurons"][0][2] = 0  # another head's
    assert read_foreign(saved(tmp_path, content)).notes == ALONE
    content["nodes"]["a0.h1"]["neurons"][1][2] = 0
    assert "(a0.h1 3 of 4)" in str(read_foreign(saved(tmp_path, content)))


def test_neurons_at_the_top_of_the_file_count_too(tmp_path: Path) -> None:
    content = document()
    for node in content["nodes"].values():
        node.pop("neurons", None)
    content["neurons"] = {name: [True] * WIDTH for name in SENDERS}
    assert read_foreign(saved(tmp_path, content)).kept == 3
    content["neurons"]["m1"][0] = False
    assert "(m1 3 of 4)" in str(read_foreign(saved(tmp_path, content)))


def unscored(content: dict[str, Any], kept: bool) -> dict[str, Any]:
    """Take the edges' scores away, and unless they are kept, their flags."""
    for edge in content["edges"].values():
        edge.update(score=0.0, **({} if kept else {"in_graph": False}))
    return content


@pytest.mark.parametrize("form", ["json", "pt"])
def test_scores_of_neurons_add_up_to_those_of_nodes(tmp_path: Path, form: str) -> None:
    draw = np.random.default_rng(0).normal(size=(7, WIDTH)).astype(np.float32)
    content, path = unscored(document(), kept=False), tmp_path / f"g.{form}"
    for name, row in zip(SENDERS, draw, strict=True):
        content["nodes"][name]["neurons_scores"] = row.tolist()
    if form == "json":
        saved(tmp_path, content)
    else:
        none = torch.zeros(7, 15)
        torch.save(tensors(edges_scores=none, edges_in_graph=none.bool(),
                           neurons_scores=torch.tensor(draw)), path)  # fmt: skip
    found = read_foreign(path)
    assert found.only_scored
    assert "scored are nodes, each the sum over its neurons" in found.notes
    scores = found.on(TINY)[1]
    assert scores is not None
    assert scores.level == "node"
    for column, total in enumerate(draw.sum(1)):
        own = scores.values[TINY.reads[:, column], column]
        np.testing.assert_allclose(own, total, atol=1e-6)
    strongest = TINY.senders[int(np.abs(draw.sum(1)).argmax())]
    assert {edge.sender for edge in scores.top(1).edges} <= {strongest}


def test_a_head_with_the_scores_of_all_heads_has_its_own(tmp_path: Path) -> None:
    content = unscored(document(), kept=False)
    for name in SENDERS:
        content["nodes"][name].pop("neurons_scores")
    content["nodes"]["a0.h1"]["neurons_scores"] = [[1.0] * WIDTH, [0.25] * WIDTH]
    scores = read_foreign(saved(tmp_path, content)).on(TINY)[1]
    assert scores is not None
    assert scores["a0.h1->logits"] == 1.0
    assert scores["m1->logits"] == 0.0


def test_scores_of_nodes_count_where_whole_nodes_are_kept(tmp_path: Path) -> None:
    content = unscored(document(), kept=True)
    for number, name in enumerate(SENDERS):
        content["nodes"][name] = {"in_graph": True, "score": float(number)}
    found = read_foreign(saved(tmp_path, content))
    assert found.on(TINY)[1] is None
    assert any("as edges are kept, and not whole nodes" in one for one in found.notes)
    for edge in content["edges"].values():
        edge["in_graph"] = True
    found = read_foreign(saved(tmp_path, content))
    scores = found.on(TINY)[1]
    assert scores is not None
    assert (scores["m1->logits"], scores.level) == (6.0, "node")
    assert "scored are nodes, as no edge has one" in found.notes


def test_graphs_of_nodes_are_written_with_their_scores(tmp_path: Path) -> None:
    values = np.broadcast_to(np.arange(1.0, 8.0), TINY.reads.shape)
    scores = Scores(TINY, values, "node")
    for name in ("g.json", "g.pt"):
        write_eap_ig(tmp_path / name, scores.top(2), scores, d_model=WIDTH)
        found = read_foreign(tmp_path / name)
        circuit, own = found.on(TINY)
        assert circuit == scores.top(2)
        assert own is not None
        assert own.level == "node"
        np.testing.assert_array_equal(own.values, scores.values)


def test_neurons_of_tensors_are_counted(tmp_path: Path) -> None:
    content = tensors()
    content["neurons_in_graph"][2, 1] = False
    content["neurons_in_graph"][6] = False
    torch.save(content, tmp_path / "g.pt")
    found = read_foreign(tmp_path / "g.pt")
    assert found.kept == 2
    assert "(a0.h1 3 of 4)" in str(found)
    assert "(m1 none of 4)" in str(found)


# -- entries of a wrong kind ---------------------------------------------------------------------

WRONG = st.sampled_from(["False", "true", "", [], {}, [0], 2, -1, 0.5, None, "1"])


@settings(max_examples=30)
@given(st.sampled_from(sorted(document()["edges"])), WRONG)
def test_a_wrong_flag_of_any_edge_is_refused_with_its_place(
    tmp_path_factory: pytest.TempPathFactory, name: str, value: object
) -> None:
    content = document()
    content["edges"][name]["in_graph"] = value
    said = refusal(saved(tmp_path_factory.mktemp("wrong"), content))
    assert f"edge '{name}': in_graph is {value!r}; accepted: true, false, 1 or 0." in said


@settings(max_examples=30)
@given(st.sampled_from([*SENDERS, "logits"]), WRONG)
def test_a_wrong_flag_of_any_node_is_refused_with_its_place(
    tmp_path_factory: pytest.TempPathFactory, name: str, value: object
) -> None:
    content = document()
    content["nodes"][name]["in_graph"] = value
    said = refusal(saved(tmp_path_factory.mktemp("wrong"), content))
    assert f"node '{name}': in_graph is {value!r}; accepted: true, false, 1 or 0." in said


@settings(max_examples=30)
@given(
    st.sampled_from(sorted(document()["edges"])),
    st.sampled_from(["0.5", True, [], {}, float("inf"), -float("inf"), 1e39]),
)
def test_a_wrong_score_of_any_edge_is_refused_with_its_place(
    tmp_path_factory: pytest.TempPathFactory, name: str, value: object
) -> None:
    content = document()
    content["edges"][name]["score"] = value
    said = refusal(saved(tmp_path_factory.mktemp("wrong"), content))
    assert f"edge '{name}': score is {value!r}; accepted: a finite number" in said


@settings(max_examples=30)
@given(
    st.sampled_from(SENDERS),
    st.sampled_from(["neurons", "neurons_scores"]),
    st.integers(0, WIDTH - 1),
    st.sampled_from(["1", None, {}, "x"]),
)
def test_a_wrong_entry_of_neurons_is_refused_with_its_place(
    tmp_path_factory: pytest.TempPathFactory, name: str, key: str, at: int, value: object
) -> None:
    content = document()
    content["nodes"][name][key][at] = value
    said = refusal(saved(tmp_path_factory.mktemp("wrong"), content))
    assert f"node '{name}': {key}[{at}] is {value!r}; accepted" in said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d["edges"].update({"input->m0": True}), "edge 'input->m0' is True; accepted"),
        (lambda d: d["edges"]["input->m0"].pop("in_graph"), "'input->m0': 'in_graph' is missing"),
        (lambda d: d["edges"].update({"m9->logits": {}}), "the graph has no sender m9"),
        (lambda d: d["edges"].update({"m1->a0.h0<q>": {}}), "m1 writes after a0.h0<q> reads"),
        (
            lambda d: d["edges"].update({"embed->m0": {}}),
            "'embed->m0': no such edge; EAP-IG writes",
        ),
        (lambda d: d.update(edges=[]), "edges is []; accepted: an object of entries"),
        (lambda d: d.update(nodes=["m0"]), "nodes is ['m0']; accepted: an object of entries"),
        (lambda d: d["nodes"].update(m7={"in_graph": True}), "node 'm7' is not in a graph of 2"),
        (lambda d: d["nodes"].update(m1="yes"), "node 'm1' is 'yes'; accepted: an object"),
        (lambda d: d["nodes"]["m1"].update(score="x"), "node 'm1': score is 'x'; accepted"),
        (lambda d: d["nodes"]["m1"].update(neurons="all"), "node 'm1': neurons is 'all'"),
        (lambda d: d["nodes"]["m1"].update(neurons=None), "node 'm1': neurons is None"),
        (
            lambda d: d["nodes"]["m1"].update(neurons=[1]),
            "neurons has 1 flags; accepted: 4, as cfg",
        ),
        (lambda d: d["nodes"]["m1"].update(neurons_scores=3), "node 'm1': neurons_scores is 3"),
        (lambda d: d.update(neurons=[1]), "neurons is [1]; accepted: lists by the nodes' names"),
        (lambda d: d["cfg"].update(n_layers=True), "layers True (accepted: a number)"),
        (
            lambda d: d["cfg"].update(parallel_attn_mlp="no"),
            "parallel 'no' (accepted: true, false)",
        ),
        (lambda d: d["cfg"].update(d_model="4"), "cfg.d_model is '4'; accepted: a number"),
        (lambda d: d["cfg"].update(n_key_value_heads=3), "describes no graph"),
    ],
)
def test_what_is_wrong_in_a_graph_is_named(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    content = document()
    change(content)
    assert said in refusal(saved(tmp_path, content))


def test_other_forms_that_eap_ig_has_written_are_read(tmp_path: Path) -> None:
    content = document()
    content["nodes"] = dict.fromkeys([*SENDERS, "logits"], True)  # its first years
    content["edges"]["m0->logits"] = {"in_graph": 0}  # MIB's circuits, without scores
    content["edges"]["m0->m1"] = {"in_graph": 1.0, "score": None}
    content["edges"]["input->m1"]["score"] = float("nan")
    content["edges"]["input->m0"]["weight"] = 3
    content["made_by"] = "me"
    found = read_foreign(saved(tmp_path, content))
    circuit, scores = found.on(TINY)
    assert len(circuit) == 4
    assert "m0->m1" in circuit
    assert scores is not None
    assert all(np.isnan(scores[name]) for name in ("m0->logits", "m0->m1", "embed->m1"))
    assert "not read: made_by, weight of edges" in str(found)


def test_flags_of_nodes_that_contradict_the_edges_are_said(tmp_path: Path) -> None:
    content = document()
    content["nodes"]["a0.h1"]["in_graph"] = False
    content["edges"]["input->m0"]["in_graph"] = True
    found = read_foreign(saved(tmp_path, content))
    assert found.kept == 4
    assert "1 nodes are marked as left out, but write and read kept edges (a0.h1)" in str(found)
    assert "1 kept edges lead nowhere" in str(found)


# -- tensors -------------------------------------------------------------------------------------


def tensors(**changes: Any) -> dict[str, Any]:
    """Return the same graph as EAP-IG saves it with torch."""
    content = document()
    flags, scores = torch.zeros(7, 15, dtype=torch.bool), torch.zeros(7, 15)
    ports = [str(port) for port in TINY.ports]
    for name, entry in content["edges"].items():
        sender, _, port = name.partition("->")
        at = (SENDERS.index(sender), ports.index(port))
        flags[at], scores[at] = entry["in_graph"], entry["score"]
    return {
        "cfg": content["cfg"], "src_nodes": list(SENDERS), "dst_nodes": ports,
        "edges_scores": scores, "edges_in_graph": flags,
        "nodes_in_graph": torch.ones(7, dtype=torch.bool),
        "neurons_in_graph": torch.ones(7, WIDTH, dtype=torch.bool),
        "neurons_scores": torch.full((7, WIDTH), float("nan")),
        **changes,
    }  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32, torch.int64, torch.uint8])
def test_flags_of_any_number_type_are_read(tmp_path: Path, dtype: torch.dtype) -> None:
    content = tensors()
    content["edges_in_graph"] = content["edges_in_graph"].to(dtype)
    content["edges_in_graph"][6, 0] = 1  # where no edge is, EAP-IG writes what it likes
    del content["src_nodes"], content["nodes_in_graph"], content["neurons_scores"]
    torch.save(content, tmp_path / "g.pt")
    assert read_foreign(tmp_path / "g.pt").kept == 3
    (tmp_path / "g.pt").rename(tmp_path / "graph")  # whatever it is called
    assert read_foreign(tmp_path / "graph").kept == 3


def test_circuits_without_scores_are_read(tmp_path: Path) -> None:
    content = tensors()
    del content["edges_scores"]
    torch.save(content, tmp_path / "g.pt")
    assert read_foreign(tmp_path / "g.pt").on(TINY)[1] is None
    assert np.isnan(read_eap_ig(tmp_path / "g.pt")[1].values).all()


def _set(key: str, at: tuple[int, ...], value: float, dtype: Any = torch.float32) -> Any:
    def change(content: dict[str, Any]) -> None:
        content[key] = content[key].to(dtype)
        content[key][at] = value

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_set("edges_in_graph", (0, 0), 0.5), "edge 'input->a0.h0<q>': edges_in_graph is 0.5"),
        (_set("edges_in_graph", (3, 14), 2, torch.int64), "'m0->logits': edges_in_graph is 2;"),
        (_set("edges_in_graph", (0, 1), float("nan")), "'input->a0.h1<q>': edges_in_graph is nan"),
        (_set("edges_scores", (0, 6), float("inf")), "'input->m0': edges_scores is inf; accepted"),
        (_set("nodes_in_graph", (1,), 3), "node 'a0.h0': nodes_in_graph is 3; accepted: true"),
        (_set("neurons_in_graph", (2, 1), 0.5), "node 'a0.h1': neurons_in_graph[1] is 0.5"),
        (lambda d: d.update(neurons=torch.zeros(7, WIDTH)), "(input none of 4; a0.h1 none"),
        (_set("neurons_scores", (2, 1), float("inf")), "neurons_scores[2, 1] is inf; accepted"),
        (lambda d: d.update(edges_scores=d["edges_in_graph"]), "edges_scores holds true and false"),
        (
            lambda d: d.update(edges_in_graph=["False"]),
            "edges_in_graph is no tensor of shape [7, 15]",
        ),
        (lambda d: d.update(neurons_in_graph=torch.ones(7, 3)), "no tensor of shape [7, 4]"),
        (lambda d: d.update(neurons_scores="x"), "neurons_scores is no tensor of shape [7, 4]"),
        (lambda d: d.update(nodes_scores=3), "nodes_scores is no tensor of shape [7]"),
        (lambda d: d["src_nodes"].reverse(), "src_nodes has 7 names, at place 0 ['m1'], where its"),
        (lambda d: d.update(dst_nodes=None), "dst_nodes is None; accepted: a list of names"),
        (lambda d: d.pop("edges_in_graph"), "missing: edges_in_graph"),
    ],
)
def test_what_is_wrong_in_tensors_is_named(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    content = tensors()
    change(content)
    torch.save(content, tmp_path / "g.pt")
    assert said in refusal(tmp_path / "g.pt")


# -- edge lists ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("blocks.0.hook_mlp_out[:, 3] -> blocks.1.hook_resid_post[:]", "entry 2"),
        (
            "blocks.0.attn.hook_result[:, 5, 1] -> blocks.1.hook_mlp_in[:]",
            "it is of one position, and edges here join all positions",
        ),
        ([["blocks.1.hook_mlp_in", [None], "hook_embed", ["0"]], 0.1], "item 3 is ['0']; accepted"),
        ([["blocks.1.hook_mlp_in", [None], "hook_embed", [True]]], "item 3 is [True]; accepted"),
        (
            [["blocks.1.hook_mlp_in", [None], 3, [None]], 0.1],
            "item 2 is 3; accepted: a hook's name",
        ),
        ([["blocks.1.hook_mlp_in", [None], "hook_embed", [None]], "0.1"], "effect is '0.1'"),
        ([["blocks.1.hook_mlp_in", [None], "hook_embed", [None]], True], "effect is True"),
        ([["blocks.1.hook_mlp_in", [None], "hook_embed", [None]], 1, 2], "entry 2"),
        ("blocks.1.hook_q_input[:, :, 1] -> blocks.0.attn.hook_result[:, :, 1]", "entry 2"),
        (7, "entry 2, 7: accepted: [[child, index, parent, index], effect]"),
    ],
)
def test_wrong_entries_of_acdc_are_named(tmp_path: Path, row: object, said: str) -> None:
    first = [["blocks.1.hook_resid_post", [None], "blocks.1.hook_mlp_out", [None]], 0.5]
    path = saved(tmp_path, [first, row], "edges.json")
    assert said in refusal(path)
    with pytest.raises(FileFormatError, match="entry 2"):
        read_acdc(path, TINY)


def test_the_end_of_another_layer_is_not_the_logits(tmp_path: Path) -> None:
    path = saved(tmp_path, "blocks.0.hook_mlp_out[:] -> blocks.0.hook_resid_post[:]", "e.txt")
    with pytest.raises(FileFormatError, match=r"ends at blocks\.0\.hook_resid_post, the end of 1"):
        read_acdc(path, TINY)
    path.write_text(path.read_text() + "\nblocks.0.hook_mlp_out[:] -> blocks.1.hook_resid_post[:]")
    with pytest.raises(FileFormatError, match="contradicts itself"):
        read_acdc(path, TINY)


def test_effects_of_acdc_are_scores(tmp_path: Path) -> None:
    rows = [
        [["blocks.1.hook_resid_post", [None], "blocks.1.hook_mlp_out", [None]], 0.5],
        [["blocks.1.hook_mlp_in", [None], "blocks.0.hook_mlp_out", [None]], None],
    ]
    found = read_foreign(saved(tmp_path, rows, "edges.json"))
    circuit, scores = found.on(TINY)
    assert len(circuit) == 2
    assert scores is not None
    assert scores["m1->logits"] == 0.5
    assert np.isnan(scores["m0->m1"])


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (["a0.h1", 3], "entry 2 is ['a0.h1', 3]"),
        (["a0.h1"], "entry 2 is ['a0.h1']"),
        (["a0.h1.q", "a0.h0"], "entry 2: 'a0.h1.q' is no writer"),
        (["a0.h1", "a1.h0"], "entry 2: 'a1.h0' is no reader"),
        (["logits", "m0"], "entry 2: 'logits' is no writer"),
        ("a0.h1->m0", "entry 2 is 'a0.h1->m0'"),
        ({"from": "m0"}, "entry 2 is {'from': 'm0'}"),
    ],
)
def test_wrong_entries_of_edge_pruning_are_named(tmp_path: Path, row: object, said: str) -> None:
    path = saved(tmp_path, [["m0", "m1"], row], "edges.json")
    assert said in refusal(path)
    with pytest.raises(FileFormatError, match="entry 2"):
        read_edge_pruning(path, TINY)


def test_edge_pruning_groups_keys_and_values_where_the_model_does(tmp_path: Path) -> None:
    found = read_foreign(saved(tmp_path, [["embeds", "a1.h1.k"]], "edges.json"))
    assert found.grouped_kv(4, 2)
    assert not found.grouped_kv(4, 4)
    assert not found.grouped_kv(4, 1)  # it names a second one
    assert not found.split_embedding
    assert read_foreign(saved(tmp_path, [["tok_embeds", "m0"]])).split_embedding


# -- telling them apart --------------------------------------------------------------------------


def test_what_a_file_is_shows_in_its_content(tmp_path: Path) -> None:
    hooks = "blocks.1.hook_mlp_out[:] -> blocks.1.hook_resid_post[:]"
    for content, tool in (
        (document(), "EAP-IG (JSON)"),
        ({"edges": document()["edges"], "cfg": document()["cfg"]}, "EAP-IG (JSON)"),
        ("\n" + hooks, "ACDC (lines)"),
        ([hooks], "ACDC (JSON)"),
        ([["a0.h1.q", "a0.h1"], ["m0", "m1"]], "Edge-Pruning (JSON)"),
    ):
        path = saved(tmp_path, content, "any.dat")
        assert is_foreign(path)
        assert str(read_foreign(path)).startswith(f"{path}: {tool}, ")
    write_circuit(tmp_path / "own.json", circuit_file())
    others: tuple[Any, ...] = ([{"clean": "a"}], {"format": "edgewise/diff"}, "clean,corrupted", [])
    for number, content in enumerate(others):
        saved(tmp_path, content, f"{number}.json")
    for name in ("own.json", "0.json", "1.json", "2.json", "3.json", "missing.json"):
        assert not is_foreign(tmp_path / name)
        assert "accepted" in refusal(tmp_path / name) or "does not exist" in refusal(
            tmp_path / name
        )


def test_pickles_are_never_read(tmp_path: Path) -> None:
    (tmp_path / "edges.pth").write_bytes(pickle.dumps([(("a", (None,), "b", (None,)), 0.1)]))
    assert "is a pickle, which can run code and is never read" in refusal(tmp_path / "edges.pth")
    (tmp_path / "edges.pkl").write_bytes((tmp_path / "edges.pth").read_bytes())
    assert is_foreign(tmp_path / "edges.pkl")
    assert "write it as JSON" in refusal(tmp_path / "edges.pkl")


def test_a_graph_of_another_shape_is_refused(tmp_path: Path) -> None:
    found = read_foreign(saved(tmp_path, document()))
    with pytest.raises(GraphMismatch, match=r"layers 2 and 3; heads 2 and 4 \(file and model\)"):
        found.on(ComputationGraph(3, 4))
    with pytest.raises(GraphMismatch, match="post_norm False and True"):
        found.on(ComputationGraph(2, 2, post_norm=True))
    with pytest.raises(GraphMismatch, match="grouped_kv False and True"):
        found.on(ComputationGraph(2, 2, 1, grouped_kv=True))
    assert found.on(ComputationGraph(2, 2, 1))[0].graph.kv_heads == 1


# -- MIB's folders -------------------------------------------------------------------------------


def submission(folder: Path) -> Path:
    """Write a submission: importances of one task, circuits of three sizes of another."""
    one, other = folder / "ioi_gpt2", folder / "mcqa_qwen2.5"
    one.mkdir(parents=True)
    other.mkdir()
    (folder / "README.md").write_text("ours")
    values = np.random.default_rng(0).normal(size=TINY.reads.shape)
    scores = Scores(TINY, values)
    write_eap_ig(one / "importances.json", Circuit.empty(TINY), scores, d_model=4)
    for size in (1, 9, 22):
        write_eap_ig(other / f"{size}.pt", scores.top(size), d_model=4)
    (other / "notes.txt").write_text("three sizes")
    return folder


def test_a_folder_of_one_file_is_that_file(tmp_path: Path) -> None:
    folder = submission(tmp_path / "mib")
    found = read_foreign(folder / "ioi_gpt2")
    assert found.path.name == "importances.json"
    assert found.only_scored
    assert "0 of 46 edges kept, scored" in str(found)


def test_a_size_is_chosen_among_several(tmp_path: Path) -> None:
    folder = submission(tmp_path / "mib") / "mcqa_qwen2.5"
    said = refusal(folder)
    assert "holds 3 circuits: 1.pt 1 edges; 9.pt 9 edges; 22.pt 22 edges" in said
    assert "`percent`" in said
    assert read_foreign(folder, percent=20).kept == 9
    assert read_foreign(folder, percent=50).kept == 22
    with pytest.raises(FileFormatError, match="no circuit of at most 1 percent"):
        read_foreign(folder, percent=1)
    with pytest.raises(FileFormatError, match="is one circuit; `percent` chooses"):
        read_foreign(folder / "9.pt", percent=1)


def test_a_whole_submission_says_which_folders_it_has(tmp_path: Path) -> None:
    folder = submission(tmp_path / "mib")
    assert is_foreign(folder)
    assert "give one of its folders: ioi_gpt2; mcqa_qwen2.5." in refusal(folder)
    (tmp_path / "empty").mkdir()
    assert not is_foreign(tmp_path / "empty")
    assert "holds no circuit" in refusal(tmp_path / "empty")


def test_the_document_is_left_as_it_is(tmp_path: Path) -> None:
    content = document()
    before = copy.deepcopy(content)
    read_foreign(saved(tmp_path, content))
    assert content == before
