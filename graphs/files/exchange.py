"""Circuits of other tools: EAP-IG's graphs, ACDC's and Edge-Pruning's edge lists.

| tool | file | here |
| --- | --- | --- |
| EAP-IG | `.json`: names; `.pt`: matrices [senders, ports] | `read_eap_ig`, `write_eap_ig` |
| ACDC | `blocks.0.hook_mlp_out[:] -> blocks.1.hook_resid_post[:]` | `read_acdc` |
| Edge-Pruning | `edges.json`: `[["a0.h1", "a2.h3.q"], …]` | `read_edge_pruning` |

These formats know no key/value groups, no provenance and no certificate, so they give a `Circuit`
and not a circuit file. Scores come as they are: EAP-IG's have the sign of this project, but its
gradient methods divide by the number of examples twice.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..circuit import Circuit
from ..errors import EdgewiseError, FileFormatError, GraphMismatch
from ..graph import ComputationGraph
from ..names import Kind, Node, Port
from ..scores import Scores
from .atomic import write_bytes, write_text
from .circuit import graph_of, unscored
from .reading import (
    LINES_BYTES,
    RESULT_BYTES,
    listed,
    parse_json,
    read_bounded,
    read_text,
    short,
)

_UNLISTED = 2**23
"""Most places of a mask for a file that lists few edges: twice that of Llama-3.1-8B."""

_CFG = {"layers": "n_layers", "heads": "n_heads", "parallel": "parallel_attn_mlp"}

# -- EAP-IG -------------------------------------------------------------------------------------


def read_eap_ig(path: str | Path, *, kv_heads: int = 0) -> tuple[Circuit, Scores]:
    """Read a graph saved by EAP-IG, which does not tell `kv_heads`; nothing in a `.pt` is run."""
    if Path(path).suffix == ".pt":
        document, keys = _load_tensors(path), ("edges_scores", "edges_in_graph")
        graph = _eap_ig_graph(path, document, keys, kv_heads)
        shape = graph.size[::-1]
        for key in keys:
            if not _is_matrix(document[key], shape):
                raise FileFormatError(f"{path}: {key} is no tensor of shape {list(shape)}.")
        values, kept = (document[key].detach().float().numpy().T for key in keys)
        return Circuit(graph, (kept != 0) & graph.reads), Scores(graph, values)
    what = "an EAP-IG graph"
    document = parse_json(path, read_text(path, what), what, allow_nan=True)
    graph = _eap_ig_graph(path, document, ("edges",), kv_heads)
    ports, senders = graph.size
    listing = document["edges"]
    if ports * senders > max(_UNLISTED, 100 * len(listing)):
        raise FileFormatError(
            f"{path} describes a graph of {ports} ports and {senders} senders, but lists only "
            f"{len(listing)} edges; EAP-IG lists them all."
        )
    kept, values = np.zeros_like(graph.reads), unscored(graph, 1)[0]
    wrong = []
    for name, entry in listing.items():
        try:
            at = graph.locate(re.sub(r"^input->", "embed->", name))
            score, in_graph = entry["score"], entry["in_graph"]
            if not isinstance(score, int | float) or in_graph not in (False, True):
                raise ValueError(f"score {short(score)}, in_graph {short(in_graph)}")
            values[at], kept[at] = score, in_graph
        except (EdgewiseError, KeyError, TypeError, ValueError) as error:
            wrong.append(f"'{name}': {error}".rstrip("."))
    if wrong:
        raise FileFormatError(f"{path} cannot be read as an EAP-IG graph: {listed(wrong)}.")
    return Circuit(graph, kept), Scores(graph, values)


def _eap_ig_graph(
    path: str | Path, document: Any, keys: tuple[str, ...], kv_heads: int
) -> ComputationGraph:
    if not isinstance(document, dict):
        raise FileFormatError(f"{path} is no EAP-IG graph: it holds no mapping.")
    cfg = document["cfg"] if isinstance(document.get("cfg"), dict) else {}
    lacking = [f"cfg.{key}" for key in _CFG.values() if key not in cfg]
    lacking += [key for key in keys if key not in document]
    if not isinstance(document.get("edges", {}), dict):
        lacking.append("edges (an object)")
    if lacking:
        raise FileFormatError(f"{path} is no EAP-IG graph; missing: {', '.join(lacking)}.")
    shape = {ours: cfg[theirs] for ours, theirs in _CFG.items()}
    return graph_of(path, {**shape, "kv_heads": kv_heads or shape["heads"]})


def _load_tensors(path: str | Path) -> Any:
    import torch

    content = read_bounded(path, RESULT_BYTES, "an EAP-IG graph")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:  # what torch.save writes, unpacked
            if sum(part.file_size for part in archive.infolist()) > len(content):
                raise ValueError("it is compressed")
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises what its archive and tensor readers raise
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise FileFormatError(
            f"{path} is damaged, or holds more than plain tensors, which is never run: {reason}"
        ) from None


def _is_matrix(value: object, shape: tuple[int, int]) -> bool:
    """Tell a plain matrix of a shape that has its numbers in memory, not one stretched over it."""
    import torch

    return (
        isinstance(value, torch.Tensor)
        and value.shape == shape
        and value.layout == torch.strided
        and (value.is_floating_point() or value.dtype in (torch.bool, torch.int64))
        and value.device.type == "cpu"
        and value.untyped_storage().nbytes() >= value.numel() * value.element_size()
    )


def write_eap_ig(
    path: str | Path, circuit: Circuit, scores: Scores | None = None, *, d_model: int
) -> None:
    """Write a circuit as EAP-IG reads it, as `.json` or `.pt`; edges without a score get 0."""
    graph = circuit.graph
    flags = ("post_norm", "grouped_kv", "split_embedding", "experts")
    alien = [name for name in flags if getattr(graph, name)]
    if alien:
        raise GraphMismatch(f"EAP-IG's format has no graphs with {', '.join(alien)}.")
    if scores is not None and scores.graph != graph:
        raise GraphMismatch("the scores are of another graph than the circuit.")
    values = np.zeros(graph.reads.shape, np.float32) if scores is None else scores.values
    values = np.nan_to_num(values, nan=0.0)
    cfg = {theirs: getattr(graph, ours) for ours, theirs in _CFG.items()} | {"d_model": d_model}
    touched = set(circuit.nodes)
    if Path(path).suffix == ".pt":
        import torch

        tensors = {
            "cfg": cfg,
            "src_nodes": [_eap_ig_name(node) for node in graph.senders],
            "dst_nodes": [str(port) for port in graph.ports],
            "edges_scores": torch.tensor(values.T.copy()),
            "edges_in_graph": torch.tensor(circuit.kept.T.copy()),
            "nodes_in_graph": torch.tensor([node in touched for node in graph.senders]),
        }
        content = io.BytesIO()
        torch.save(tensors, content)  # to a path, it reports a full disk as no other writer does
        write_bytes(path, content.getvalue())
        return
    nodes = [*graph.senders, Node(Kind.LOGITS)]
    document = {
        "cfg": cfg,
        "nodes": {_eap_ig_name(node): {"in_graph": node in touched} for node in nodes},
        "edges": {
            f"{_eap_ig_name(graph.senders[column])}->{graph.ports[row]}": {
                "score": float(values[row, column]),
                "in_graph": bool(circuit.kept[row, column]),
            }
            for row, column in np.argwhere(graph.reads)
        },
    }
    write_text(path, json.dumps(document, allow_nan=False))


def _eap_ig_name(node: Node) -> str:
    return "input" if node.kind is Kind.EMBED else str(node)


# -- ACDC ---------------------------------------------------------------------------------------

_HOOK = re.compile(r"\s*(?P<hook>[\w.]+)\s*\[(?P<index>[^\]]*)\]\s*")
_SENDER_HOOKS = {
    r"hook_embed": "tok",
    r"hook_pos_embed": "pos",
    r"blocks\.0\.hook_resid_pre": "embed",
    r"blocks\.(\d+)\.attn\.hook_result": "a{0}.h{head}",
    r"blocks\.(\d+)\.hook_mlp_out": "m{0}",
}
_PORT_HOOKS = {
    r"blocks\.(\d+)\.hook_([qkv])_input": "a{0}.h{head}<{1}>",
    r"blocks\.(\d+)\.hook_(?:mlp_in|resid_mid)": "m{0}",
    r"blocks\.\d+\.hook_resid_post": "logits",
}
_DIRECT_HOOKS = {r"blocks\.(\d+)\.attn\.hook_([qkv])": "a{0}.h{head}<{1}>"}


def read_acdc(path: str | Path, graph: ComputationGraph) -> Circuit:
    """Read an edge list of the ACDC authors' program; name the entries that cannot be read.

    Lines `parent[index] -> child[index]`, a JSON list of such lines, or JSON rows as its
    `save_edges` has them, [[child, index, parent, index], effect]. Steps inside a head or an MLP
    are no edges here. If the list has the heads' direct edges (`hook_q_input -> attn.hook_q`), a
    port without its own is at its ablated value: all its edges are left out.
    """
    edges, direct, problems = [], set(), []
    for number, (parent, child) in enumerate(_acdc_pairs(path), start=1):
        sender, port = _from_hook(parent, _SENDER_HOOKS), _from_hook(child, _PORT_HOOKS)
        start, inner = _from_hook(parent, _PORT_HOOKS), _from_hook(child, _DIRECT_HOOKS)
        if sender and port:
            edges.append(f"{sender}->{port}")
        elif inner and start == inner:
            direct.add(Port.parse(inner))
        elif not (  # a step inside a head or an MLP starts at a port and ends at a sender
            (start or _from_hook(parent, _DIRECT_HOOKS)) and _from_hook(child, _SENDER_HOOKS)
        ):
            problems.append(f"entry {number}, '{parent} -> {child}'")
    if problems:
        raise FileFormatError(
            f"{path} is no edge list of ACDC: {listed(problems)}; accepted: parent[index] -> "
            "child[index], with hook names such as blocks.0.attn.hook_result[:, :, 3]."
        )
    circuit = _circuit(path, graph, edges)
    if not direct:
        return circuit
    whole = [port.letter is None or port in direct for port in graph.ports]
    return Circuit(graph, circuit.kept & np.array(whole)[:, None])


def _acdc_pairs(path: str | Path) -> Iterator[tuple[str, str]]:
    """Yield (parent, child) as `hook[index]` from lines, JSON lines or JSON rows."""
    text = read_text(path, "an edge list of ACDC", LINES_BYTES)
    is_json = text.lstrip().startswith("[")
    rows = parse_json(path, text, "an edge list of ACDC") if is_json else text.splitlines()
    for row in rows:
        if isinstance(row, str):
            if row.strip():
                parent, _, child = row.partition("->")
                yield parent.strip(), child.strip()
            continue
        inner = row[0] if isinstance(row, list) and row and isinstance(row[0], list) else row
        if not isinstance(inner, list) or len(inner) != 4:
            yield str(row), "?"
            continue
        yield _hook_text(*inner[2:]), _hook_text(*inner[:2])


def _hook_text(hook: Any, index: Any) -> str:
    parts = index if isinstance(index, list) else [index]
    return f"{hook}[{', '.join(':' if part is None else str(part) for part in parts)}]"


def _from_hook(text: str, forms: Mapping[str, str]) -> str | None:
    """Translate a hook and its index to a name, None if it is none of the forms."""
    match = _HOOK.fullmatch(text)
    if match is None:
        return None
    head = match["index"].split(",")[-1].strip()
    for form, name in forms.items():
        found = re.fullmatch(form, match["hook"])
        if found and ("{head}" not in name or head.isdigit()):
            return name.format(*found.groups(), head=head)
    return None


# -- Edge-Pruning -------------------------------------------------------------------------------

_WRITERS = {"embeds": "embed", "tok_embeds": "tok", "pos_embeds": "pos"}


def read_edge_pruning(path: str | Path, graph: ComputationGraph) -> Circuit:
    """Read the `edges.json` of Edge-Pruning; name the entries that cannot be read.

    A file made without embedding nodes lists no edge of the embedding because all are kept; so
    they are kept here. Its Llama circuits have one `k` and `v` for each key/value head: give a
    graph with `grouped_kv`. GPT-2 circuits with embedding nodes need `split_embedding`.
    """
    what = "an edge list of Edge-Pruning"
    rows = parse_json(path, read_text(path, what), what)
    form = 'accepted: [["a0.h1", "a2.h3.q"], ["m2", "resid_post"], …]'
    if not isinstance(rows, list) or not all(
        isinstance(row, list) and [type(name) for name in row] == [str, str] for row in rows
    ):
        raise FileFormatError(f"{path} is not {what}; {form}.")
    rows = [row for row in rows if not row[0].endswith((".q", ".k", ".v"))]  # inside a head
    edges = [f"{_WRITERS.get(row[0], row[0])}->{_reader(row[1], graph)}" for row in rows]
    circuit = _circuit(path, graph, edges)
    sources = np.array([node.layer is None for node in graph.senders])
    if circuit.kept[:, sources].any():
        return circuit
    return Circuit(graph, circuit.kept | (graph.reads & sources[None, :]))


def _reader(name: str, graph: ComputationGraph) -> str:
    if name == "resid_post":
        return "logits"
    node, dot, letter = name.rpartition(".")
    if not dot or letter not in ("q", "k", "v"):
        return name
    grouped = graph.grouped_kv and letter != "q"
    return f"{node.replace('.h', '.kv') if grouped else node}<{letter}>"


# -- shared -------------------------------------------------------------------------------------


def _circuit(path: str | Path, graph: ComputationGraph, edges: list[str]) -> Circuit:
    kept, problems = np.zeros_like(graph.reads), []
    for name in edges:
        try:
            kept[graph.locate(name)] = True
        except EdgewiseError as error:
            problems.append(str(error).rstrip("."))
    if problems:
        raise FileFormatError(f"{path} does not fit the graph: {listed(problems)}.")
    return Circuit(graph, kept)
