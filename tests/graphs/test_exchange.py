"""Circuits of other tools: round trips, small files by hand, and refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgewise.graphs.circuit import Circuit
from edgewise.graphs.errors import FileFormatError, GraphMismatch
from edgewise.graphs.files.exchange import read_acdc, read_eap_ig, read_edge_pruning, write_eap_ig
from edgewise.graphs.graph import ComputationGraph
from edgewise.graphs.scores import Scores

TINY = ComputationGraph(layers=2, heads=2)


def names(circuit: Circuit) -> set[str]:
    return {str(edge) for edge in circuit.edges}


# -- EAP-IG -------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".json", ".pt"])
@given(st.integers(1, 3), st.integers(1, 3), st.booleans(), st.integers(0, 1000))
def test_a_circuit_written_for_eap_ig_reads_back(
    tmp_path_factory: pytest.TempPathFactory,
    suffix: str,
    layers: int,
    heads: int,
    parallel: bool,
    seed: int,
) -> None:
    graph = ComputationGraph(layers, heads, parallel=parallel)
    generator = np.random.default_rng(seed)
    circuit = Circuit(graph, graph.reads & (generator.random(graph.reads.shape) < 0.3))
    scores = Scores(graph, generator.normal(size=graph.reads.shape))
    path = tmp_path_factory.mktemp("eap") / f"graph{suffix}"
    write_eap_ig(path, circuit, scores, d_model=8)
    read, read_scores = read_eap_ig(path)
    assert read == circuit
    np.testing.assert_array_equal(read_scores.values, scores.values)


def test_the_json_file_has_the_peers_form(tmp_path: Path) -> None:
    circuit = Circuit.empty(TINY).with_edges(["embed->m0", "m0->logits"])
    write_eap_ig(tmp_path / "g.json", circuit, d_model=8)
    content = json.loads((tmp_path / "g.json").read_text())
    assert content["cfg"] == {
        "n_layers": 2,
        "n_heads": 2,
        "parallel_attn_mlp": False,
        "d_model": 8,
    }
    assert len(content["edges"]) == TINY.edge_count
    assert content["edges"]["input->m0"] == {"score": 0.0, "in_graph": True}
    assert content["edges"]["input->a1.h0<q>"]["in_graph"] is False
    assert content["nodes"]["input"] == content["nodes"]["logits"] == {"in_graph": True}
    assert content["nodes"]["a0.h0"] == {"in_graph": False}


def test_the_tensor_file_has_the_peers_form(tmp_path: Path) -> None:
    circuit = Circuit.empty(TINY).with_edges(["embed->a1.h1<q>"])
    write_eap_ig(tmp_path / "g.pt", circuit, d_model=8)
    content = torch.load(tmp_path / "g.pt", weights_only=True)
    assert content["src_nodes"][:3] == ["input", "a0.h0", "a0.h1"]
    assert content["dst_nodes"][:3] == ["a0.h0<q>", "a0.h1<q>", "a0.h0<k>"]
    assert content["edges_in_graph"].shape == content["edges_scores"].shape == (7, 15)
    row, column = torch.nonzero(content["edges_in_graph"])[0].tolist()
    assert (content["src_nodes"][row], content["dst_nodes"][column]) == ("input", "a1.h1<q>")


def test_a_file_of_the_peer_is_read_by_names(tmp_path: Path) -> None:
    content = {
        "cfg": {"n_layers": 1, "n_heads": 1, "parallel_attn_mlp": False, "d_model": 4, "more": 1},
        "nodes": {"input": {"in_graph": True, "neurons_scores": [float("nan")]}},
        "edges": {
            "input->a0.h0<k>": {"score": -0.5, "in_graph": True},
            "input->logits": {"score": float("nan"), "in_graph": False},
        },
    }
    (tmp_path / "g.json").write_text(json.dumps(content))
    circuit, scores = read_eap_ig(tmp_path / "g.json")
    assert names(circuit) == {"embed->a0.h0<k>"}
    assert scores["embed->a0.h0<k>"] == -0.5
    assert np.isnan(scores["embed->logits"])


def test_grouped_models_need_the_number_of_key_value_heads(tmp_path: Path) -> None:
    graph = ComputationGraph(1, 4, 2)
    write_eap_ig(tmp_path / "g.json", Circuit.full(graph), d_model=8)
    assert read_eap_ig(tmp_path / "g.json", kv_heads=2)[0] == Circuit.full(graph)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"cfg": {"n_layers": 1}}, r"missing: cfg.n_heads, cfg.parallel_attn_mlp, edges"),
        ([], "it holds a list of 0; accepted: a mapping with cfg and edges"),
        (
            {"cfg": {"n_layers": 0, "n_heads": 1, "parallel_attn_mlp": False}, "edges": {}},
            "describes no graph",
        ),
        (
            {
                "cfg": {"n_layers": 1, "n_heads": 1, "parallel_attn_mlp": False},
                "edges": {"x->m0": {"score": 0, "in_graph": 1}, "input->m0": {"score": 0}},
            },
            "'x->m0': 'x' is not a node's name.*'input->m0': 'in_graph'",
        ),
    ],
)
def test_json_that_is_no_graph_of_the_peer_is_refused(
    tmp_path: Path, content: object, message: str
) -> None:
    (tmp_path / "g.json").write_text(json.dumps(content))
    with pytest.raises(FileFormatError, match=message):
        read_eap_ig(tmp_path / "g.json")


class Evil:
    """Would run code when unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("ran",)


def test_tensor_files_run_nothing_and_damage_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "g.pt"
    torch.save({"cfg": Evil()}, path)
    with pytest.raises(FileFormatError, match="would run or make print, so it is not read"):
        read_eap_ig(path)
    assert "ran" not in capsys.readouterr().out
    write_eap_ig(path, Circuit.full(TINY), d_model=8)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FileFormatError, match="is damaged"):
        read_eap_ig(path)
    with pytest.raises(FileFormatError, match="does not exist"):
        read_eap_ig(tmp_path / "no.pt")
    torch.save({"cfg": {"n_layers": 1, "n_heads": 1, "parallel_attn_mlp": False}}, path)
    with pytest.raises(FileFormatError, match="missing: edges_in_graph"):
        read_eap_ig(path)
    content = {
        "cfg": {"n_layers": 1, "n_heads": 1, "parallel_attn_mlp": False},
        "edges_scores": torch.zeros(2, 2),
        "edges_in_graph": torch.zeros(2, 2),
    }
    torch.save(content, path)
    with pytest.raises(FileFormatError, match=r"edges_scores is no tensor of shape \[3, 5\]"):
        read_eap_ig(path)


@pytest.mark.parametrize("option", ["post_norm", "grouped_kv", "split_embedding"])
def test_graphs_the_peer_does_not_know_are_not_written(tmp_path: Path, option: str) -> None:
    graph = ComputationGraph(2, 2, 1, **{option: True})
    with pytest.raises(GraphMismatch, match=option):
        write_eap_ig(tmp_path / "g.json", Circuit.full(graph), d_model=8)
    assert list(tmp_path.iterdir()) == []


# -- ACDC ---------------------------------------------------------------------------------------

LINES = """
blocks.1.hook_mlp_out[:] -> blocks.1.hook_resid_post[:]
blocks.0.attn.hook_result[:, :, 1] -> blocks.0.hook_mlp_in[:]
blocks.0.attn.hook_result[:, :, 0] -> blocks.1.hook_resid_mid[:]
blocks.0.hook_resid_pre[:] -> blocks.1.hook_q_input[:, :, 1]
blocks.0.hook_mlp_out[:] -> blocks.1.hook_k_input[:, :, 0]
blocks.1.hook_mlp_in[:] -> blocks.1.hook_mlp_out[:]
"""
EDGES = {"m1->logits", "a0.h1->m0", "a0.h0->m1", "embed->a1.h1<q>", "m0->a1.h0<k>"}


def test_acdc_lines_worked_out_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "edges.txt"
    path.write_text(LINES)
    assert names(read_acdc(path, TINY)) == EDGES
    path.write_text(json.dumps(LINES.strip().splitlines()))
    assert names(read_acdc(path, TINY)) == EDGES


def test_acdc_rows_name_the_child_first(tmp_path: Path) -> None:
    rows = [
        [["blocks.1.hook_resid_post", [None], "blocks.1.hook_mlp_out", [None]], 0.5],
        ["blocks.1.hook_v_input", [None, None, 1], "blocks.0.attn.hook_result", [None, None, 0]],
    ]
    (tmp_path / "edges.json").write_text(json.dumps(rows))
    assert names(read_acdc(tmp_path / "edges.json", TINY)) == {"m1->logits", "a0.h0->a1.h1<v>"}


def test_acdc_ports_whose_direct_edge_fell_lose_all_edges(tmp_path: Path) -> None:
    direct = "blocks.1.hook_q_input[:, :, 1] -> blocks.1.attn.hook_q[:, :, 1]\n"
    inside = "blocks.1.attn.hook_q[:, :, 1] -> blocks.1.attn.hook_result[:, :, 1]\n"
    (tmp_path / "edges.txt").write_text(LINES + direct + inside)
    assert names(read_acdc(tmp_path / "edges.txt", TINY)) == EDGES - {"m0->a1.h0<k>"}


def test_acdc_with_position_embeddings_needs_the_split_graph(tmp_path: Path) -> None:
    path = tmp_path / "edges.txt"
    path.write_text("hook_pos_embed[:] -> blocks.0.hook_mlp_in[:]")
    assert names(read_acdc(path, ComputationGraph(2, 2, split_embedding=True))) == {"pos->m0"}
    with pytest.raises(FileFormatError, match="the graph has no sender pos"):
        read_acdc(path, TINY)


@pytest.mark.parametrize(
    "line",
    [
        "m0 -> logits",
        "blocks.0.hook_mlp_out[:]",
        "blocks.0.attn.hook_result[:] -> blocks.1.hook_resid_post[:]",
        "blocks.1.hook_q_input[:, :, 1] -> blocks.1.attn.hook_k[:, :, 1]",
    ],
)
def test_lines_that_are_no_acdc_edges_are_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "edges.txt").write_text(LINES + line)
    with pytest.raises(FileFormatError, match="no edge list of ACDC: entry 7"):
        read_acdc(tmp_path / "edges.txt", TINY)


def test_acdc_edges_outside_the_graph_are_refused(tmp_path: Path) -> None:
    (tmp_path / "e.txt").write_text("blocks.7.hook_mlp_out[:] -> blocks.9.hook_resid_post[:]")
    with pytest.raises(FileFormatError, match=r"does not fit the graph: .* no sender m7"):
        read_acdc(tmp_path / "e.txt", TINY)
    (tmp_path / "e.json").write_text("[[1, 2]]")
    with pytest.raises(FileFormatError, match="no edge list of ACDC"):
        read_acdc(tmp_path / "e.json", TINY)


# -- Edge-Pruning -------------------------------------------------------------------------------


def test_edge_pruning_worked_out_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "edges.json"
    rows = [
        ["tok_embeds", "a0.h1.q"],
        ["pos_embeds", "m0"],
        ["a0.h1", "a1.h0.k"],
        ["m1", "resid_post"],
        ["a0.h1.q", "a0.h1"],
    ]
    path.write_text(json.dumps(rows))
    split = ComputationGraph(2, 2, split_embedding=True)
    expected = {"tok->a0.h1<q>", "pos->m0", "a0.h1->a1.h0<k>", "m1->logits"}
    assert names(read_edge_pruning(path, split)) == expected
    with pytest.raises(FileFormatError, match="no sender tok"):
        read_edge_pruning(path, TINY)


def test_edge_pruning_without_embedding_nodes_keeps_all_edges_of_the_embedding(
    tmp_path: Path,
) -> None:
    path = tmp_path / "edges.json"
    path.write_text(json.dumps([["m0", "m1"]]))
    circuit = read_edge_pruning(path, TINY)
    assert len(circuit) == 1 + len(TINY.ports)
    assert names(circuit - Circuit.empty(TINY).with_edges(["m0->m1"])) == {
        f"embed->{port}" for port in TINY.ports
    }


def test_edge_pruning_of_llama_uses_key_value_groups(tmp_path: Path) -> None:
    path = tmp_path / "edges.json"
    path.write_text(json.dumps([["embeds", "a1.h1.k"], ["embeds", "a1.h3.q"]]))
    graph = ComputationGraph(2, 4, 2, grouped_kv=True)
    assert names(read_edge_pruning(path, graph)) == {"embed->a1.kv1<k>", "embed->a1.h3<q>"}


@pytest.mark.parametrize("content", ["{}", '[["m0"]]', '[["m0", 1]]'])
def test_what_is_no_edge_pruning_list_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "edges.json").write_text(content)
    with pytest.raises(FileFormatError, match="is not an edge list of Edge-Pruning; accepted"):
        read_edge_pruning(tmp_path / "edges.json", TINY)
