"""EAP-IG's graphs, written as EAP-IG reads them."""

from __future__ import annotations

import io
import json
from dataclasses import fields
from pathlib import Path

import numpy as np

from ....calls.typed import typed
from ....circuit import Circuit
from ....errors import GraphMismatch
from ....graph import ComputationGraph
from ....levels.nodes import NODE, of_nodes
from ....names import Kind, Node
from ....scores import Scores
from ...atomic import write_bytes, write_text
from .values import CFG, name_of


@typed
def write_eap_ig(
    path: str | Path, circuit: Circuit, scores: Scores | None = None, *, d_model: int
) -> None:
    """Write a circuit as EAP-IG reads it, as `.json` or `.pt`; edges without a score get 0.

    Of scores of nodes the nodes get them, and edges 0.
    """
    graph = circuit.graph
    plain = ComputationGraph(graph.layers, graph.heads, graph.kv_heads, parallel=graph.parallel)
    alien = [
        one.name for one in fields(graph) if getattr(graph, one.name) != getattr(plain, one.name)
    ]
    if alien:
        raise GraphMismatch(f"EAP-IG's format has no graphs with {', '.join(alien)}.")
    if scores is not None and scores.graph != graph:
        raise GraphMismatch("the scores are of another graph than the circuit.")
    values = np.zeros(graph.reads.shape, np.float32) if scores is None else scores.values
    nodes_scores: np.ndarray | None = None
    if scores is not None and scores.level == NODE:
        nodes_scores, values = np.nan_to_num(of_nodes(graph, values)), np.zeros_like(values)
    values = np.nan_to_num(values, nan=0.0)
    cfg = {theirs: getattr(graph, ours) for ours, theirs in CFG.items()} | {"d_model": d_model}
    touched = set(circuit.nodes)
    if Path(path).suffix == ".pt":
        import torch

        tensors = {
            "cfg": cfg,
            "src_nodes": [name_of(node) for node in graph.senders],
            "dst_nodes": [str(port) for port in graph.ports],
            "edges_scores": torch.tensor(values.T.copy()),
            "edges_in_graph": torch.tensor(circuit.kept.T.copy()),
            "nodes_in_graph": torch.tensor([node in touched for node in graph.senders]),
        }
        if nodes_scores is not None:
            tensors["nodes_scores"] = torch.tensor(nodes_scores)
        content = io.BytesIO()
        torch.save(tensors, content)  # to a path, it reports a full disk as no other writer does
        write_bytes(path, content.getvalue())
        return
    nodes = {name_of(node): {"in_graph": node in touched} for node in graph.senders}
    if nodes_scores is not None:
        for entry, score in zip(nodes.values(), nodes_scores.tolist(), strict=True):
            entry["score"] = score
    document = {
        "cfg": cfg,
        "nodes": {**nodes, name_of(Node(Kind.LOGITS)): {"in_graph": Node(Kind.LOGITS) in touched}},
        "edges": {
            f"{name_of(graph.senders[column])}->{graph.ports[row]}": {
                "score": float(values[row, column]),
                "in_graph": bool(circuit.kept[row, column]),
            }
            for row, column in np.argwhere(graph.reads)
        },
    }
    write_text(path, json.dumps(document, allow_nan=False))
