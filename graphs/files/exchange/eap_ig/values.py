"""What a graph of EAP-IG says, whatever the form of its file, and what is checked alike in both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from ....circuit import Circuit
from ....errors import FileFormatError
from ....names import Kind, Node
from ....scores import Scores
from ...circuit import graph_of
from ...reading import is_number, listed, short

if TYPE_CHECKING:
    import torch

CFG = {"layers": "n_layers", "heads": "n_heads", "parallel": "parallel_attn_mlp"}
"""The keys of a file's `cfg`, by what graphs here call the same."""

WHAT = "an EAP-IG graph"
LARGEST = 3.4e38
"""No float32 holds so large a number, or a larger one."""

FLAG = "true, false, 1 or 0"


@dataclass(frozen=True, eq=False)
class EapIg:
    """What a graph of EAP-IG says: the circuit and scores of its edges, and what else to know.

    `scores`: of its edges; where none has one, or all are 0, of its nodes, at that level; None
    where they have none either. `notes`: what is said of it beside.
    """

    circuit: Circuit
    scores: Scores | None
    d_model: int | None
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class ReadGraph:
    """What a file says, before it is put together: masks and scores of edges, and of nodes.

    `kept`, `values`: [ports, senders]. `width`: the model's. `unread`: what else there is. `flags`:
    the nodes' own. `neurons`: how many each node keeps, and of how many; empty if the file has
    none. `nodes`: the nodes' scores, by name; `summed`: these are sums over their neurons.
    """

    kept: Circuit
    values: np.ndarray
    width: int | None
    unread: set[str]
    flags: dict[str, bool]
    neurons: dict[str, tuple[int, int]]
    nodes: dict[str, float]
    summed: bool = False


def stated_graph(path: str | Path, document: Any, keys: tuple[str, ...], kv_heads: int) -> Any:
    """Return the graph that `cfg` describes, and the model's width where it says it."""
    if not isinstance(document, dict):
        raise FileFormatError(
            f"{path} is no EAP-IG graph: it holds {what_it_is(document)}; accepted: a mapping "
            f"with cfg and {' and '.join(keys)}, as EAP-IG writes it."
        )
    cfg = document["cfg"] if isinstance(document.get("cfg"), dict) else {}
    lacking = [f"cfg.{key}" for key in CFG.values() if key not in cfg]
    lacking += [key for key in keys if key not in document]
    if lacking:
        found = ", ".join(f"'{str(key)[:40]}'" for key in list(document)[:8]) or "nothing"
        raise FileFormatError(
            f"{path} is no EAP-IG graph; missing: {', '.join(lacking)}; it holds {found}. "
            "Accepted: what EAP-IG's to_json or to_pt writes."
        )
    width = cfg.get("d_model")
    if width is not None and (type(width) is not int or width < 1):
        raise FileFormatError(f"{path}: cfg.d_model is {short(width)}; accepted: a number.")
    shape = {ours: cfg[theirs] for ours, theirs in CFG.items()}
    groups = kv_heads or cfg.get("n_key_value_heads") or shape["heads"]
    return graph_of(path, {**shape, "kv_heads": groups}), width


def refuse(path: str | Path, problems: list[str]) -> None:
    """Refuse a file in which something is wrong, by a FileFormatError that names the first few."""
    if problems:
        raise FileFormatError(f"{path} cannot be read as {WHAT}: {listed(problems)}.")


def is_flag(value: object) -> bool:
    """Tell a value that says whether something is kept."""
    return isinstance(value, bool) or (is_number(value) and value in (0, 1))


def infinite(value: float) -> bool:
    """Tell a number that no float32 holds."""
    return abs(value) >= LARGEST  # NaN is not


def flat(values: Any) -> Iterator[tuple[str, Any]]:
    """Yield the items of a list, or of the lists that it holds, with their places."""
    for i, value in enumerate(values):
        if isinstance(value, list):
            yield from ((f"[{i}][{j}]", inner) for j, inner in enumerate(value))
        else:
            yield f"[{i}]", value


def is_tensor(value: object) -> TypeGuard[torch.Tensor]:
    """Tell a tensor."""
    import torch

    return isinstance(value, torch.Tensor)


def what_it_is(document: object) -> str:
    """Name what stands in a mapping's place."""
    if isinstance(document, list | tuple):
        return f"a list of {len(document):,}"
    return "a tensor" if is_tensor(document) else short(document)


def name_of(node: Node) -> str:
    """Call a node as EAP-IG does."""
    return "input" if node.kind is Kind.EMBED else str(node)
