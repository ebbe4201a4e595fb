"""Edge lists of the ACDC authors' program: hooks and indices, as lines or as JSON.

Every entry is read whole before anything is made of it: a hook of another kind, an index of single
positions or an effect that is no number is refused with its place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...calls.typed import typed
from ...circuit import Circuit
from ...errors import FileFormatError
from ...graph import ComputationGraph
from ...names import Port
from ...scores import Scores
from ..circuit import unscored
from ..reading import LINES_BYTES, is_number, listed, parse_json, read_text, short
from .edge_lists import circuit_of
from .kinds import HOOK

WHAT = "an edge list of ACDC"
_ACCEPTED = (
    "accepted: parent[index] -> child[index], with hook names such as "
    "blocks.0.attn.hook_result[:, :, 3]"
)
_ALL = (":", "COLON", "None")
_SENDER_HOOKS = {
    r"hook_embed": "tok",
    r"hook_pos_embed": "pos",
    r"blocks\.0\.hook_resid_pre": "embed",
    r"blocks\.(\d{1,9})\.attn\.hook_result": "a{0}.h{head}",
    r"blocks\.(\d{1,9})\.hook_mlp_out": "m{0}",
}
_PORT_HOOKS = {
    r"blocks\.(\d{1,9})\.hook_([qkv])_input": "a{0}.h{head}<{1}>",
    r"blocks\.(\d{1,9})\.hook_(?:mlp_in|resid_mid)": "m{0}",
    r"blocks\.(\d{1,9})\.hook_resid_post": "logits",
}
_DIRECT_HOOKS = {r"blocks\.(\d{1,9})\.attn\.hook_([qkv])": "a{0}.h{head}<{1}>"}


@dataclass(frozen=True)
class _Row:
    """One entry: parent and child as `hook[index]`, and by how much the loss rose without it."""

    parent: str
    child: str
    effect: float | None = None


@dataclass(frozen=True)
class AcdcList:
    """What an edge list says: edges by name with their effects, the ports with a direct edge, and
    the layer whose end is the logits."""

    edges: Mapping[str, float | None]
    direct: frozenset[Port]
    last: int | None

    @property
    def split_embedding(self) -> bool:
        """Tell whether token and position embedding are senders of their own."""
        return any(name.startswith(("tok->", "pos->")) for name in self.edges)

    @property
    def whole_embedding(self) -> bool:
        """Tell whether an edge begins at token and position embedding together."""
        return any(name.startswith("embed->") for name in self.edges)

    @property
    def keys_or_values(self) -> bool:
        """Tell whether an edge ends at a head's keys or values."""
        return any(name.endswith(("<k>", "<v>")) for name in self.edges)


@typed
def read_acdc(path: str | Path, graph: ComputationGraph) -> Circuit:
    """Read an edge list of the ACDC authors' program; name the entries that cannot be read.

    Lines `parent[index] -> child[index]`, a JSON list of such lines, or JSON rows as its
    `save_edges` has them, [[child, index, parent, index], effect]. Steps inside a head or an MLP
    are no edges here. If the list has the heads' direct edges (`hook_q_input -> attn.hook_q`), a
    port without its own is at its ablated value: all its edges are left out.
    """
    return acdc_on(path, parse_acdc(path), graph)[0]


def acdc_on(
    path: str | Path, found: AcdcList, graph: ComputationGraph
) -> tuple[Circuit, Scores | None]:
    """Put what was read on a graph, with the effects as scores where there are any."""
    circuit = circuit_of(path, graph, found.edges)
    if found.last is not None and found.last != graph.layers - 1:
        raise FileFormatError(
            f"{path} does not fit the graph: it ends at blocks.{found.last}.hook_resid_post, the "
            f"end of {found.last + 1} layers; the graph has {graph.describe()}."
        )
    if found.direct:
        whole = [port.letter is None or port in found.direct for port in graph.ports]
        circuit = Circuit(graph, circuit.kept & np.array(whole)[:, None])
    values = unscored(graph, 1)[0]
    for name, effect in found.edges.items():
        if effect is not None:
            values[graph.locate(name)] = effect
    some = bool((np.nan_to_num(values) != 0).any())
    return circuit, Scores(graph, values) if some else None


def parse_acdc(path: str | Path, text: str | None = None) -> AcdcList:
    """Read and check every entry of a list, without a graph; `text`: what the file holds."""
    if text is None:
        text = read_text(path, WHAT, LINES_BYTES)
    edges, direct, problems = dict[str, float | None](), set[Port](), []
    ends = set[int]()
    for number, row in enumerate(_rows(path, text), start=1):
        if isinstance(row, str):
            problems.append(f"entry {number}, {row}")
            continue
        parent, child = row.parent, row.child
        sender, port = _from_hook(parent, _SENDER_HOOKS), _from_hook(child, _PORT_HOOKS)
        start, inner = _from_hook(parent, _PORT_HOOKS), _from_hook(child, _DIRECT_HOOKS)
        if sender and port:
            name = f"{sender}->{port}"
            if edges.get(name, row.effect) != row.effect:
                problems.append(f"entry {number}, '{parent} -> {child}': stands twice")
            edges[name] = row.effect
            if port == "logits":
                ends.add(int(child.split(".")[1]))
        elif inner and start == inner:
            direct.add(Port.parse(inner))
        elif not _inside(parent, child):
            problems.append(f"entry {number}, '{parent} -> {child}'{_of_positions(parent, child)}")
    if problems:
        raise FileFormatError(f"{path} is no edge list of ACDC: {listed(problems)}; {_ACCEPTED}.")
    if len(ends) > 1:
        named = ", ".join(f"blocks.{layer}.hook_resid_post" for layer in sorted(ends))
        raise FileFormatError(
            f"{path} contradicts itself: it ends at {named}; accepted: the end of one last layer."
        )
    return AcdcList(edges, frozenset(direct), min(ends, default=None))


def _inside(parent: str, child: str) -> bool:
    """Tell a step inside a head or an MLP: from its input to what it writes."""
    start = _from_hook(parent, _PORT_HOOKS) or _from_hook(parent, _DIRECT_HOOKS)
    end = _from_hook(child, _SENDER_HOOKS)
    return bool(start and end) and str(Port.parse(str(start)).node) == end


def _of_positions(*hooks: str) -> str:
    """Say of hooks with an index of single positions what is wrong with them."""
    for text in hooks:
        match = HOOK.fullmatch(text)
        places = [] if match is None else [part.strip() for part in match["index"].split(",")]
        if len(places) > 1 and places[0] in _ALL and places[1].isdigit():
            return ": it is of one position, and edges here join all positions"
    return ""


def _rows(path: str | Path, text: str) -> Iterator[_Row | str]:
    """Yield entries from lines, JSON lines or JSON rows; as a text what is wrong with one."""
    if not text.lstrip().startswith("["):
        rows: list[Any] = text.splitlines()
    else:
        rows = parse_json(path, text, WHAT)
    for row in rows:
        if isinstance(row, str):
            if row.strip():
                parent, _, child = row.partition("->")
                yield _Row(parent.strip(), child.strip())
            continue
        yield _json_row(row)


def _json_row(row: Any) -> _Row | str:
    """Read [[child, index, parent, index], effect], or its first part alone."""
    inner, effect = row, None
    if isinstance(row, list) and row and isinstance(row[0], list):
        inner, *rest = row
        if len(rest) > 1:
            return f"{short(row)}: accepted: [[child, index, parent, index], effect]"
        effect = rest[0] if rest else None
    if not isinstance(inner, list) or len(inner) != 4:
        return f"{short(row)}: accepted: [[child, index, parent, index], effect]"
    for place, hook in ((0, inner[0]), (2, inner[2])):
        if not isinstance(hook, str):
            return f"{short(row)}: item {place} is {short(hook)}; accepted: a hook's name"
    for place, index in ((1, inner[1]), (3, inner[3])):
        parts = index if isinstance(index, list) else [index]
        if not parts or not all(part is None or type(part) is int for part in parts):
            return f"{short(row)}: item {place} is {short(index)}; accepted: null and a number"
    if effect is not None and (not is_number(effect) or not abs(effect) < 3.4e38):
        return f"{short(row)}: its effect is {short(effect)}; accepted: a number, or null"
    return _Row(_hook_text(*inner[2:]), _hook_text(*inner[:2]), effect)


def _hook_text(hook: str, index: Any) -> str:
    parts = index if isinstance(index, list) else [index]
    return f"{hook}[{', '.join(':' if part is None else str(part) for part in parts)}]"


def _from_hook(text: str, forms: Mapping[str, str]) -> str | None:
    """Translate a hook and its index to a name, None if it is none of the forms."""
    match = HOOK.fullmatch(text)
    if match is None:
        return None
    *before, last = (part.strip() for part in match["index"].split(","))
    if any(part not in _ALL for part in before):
        return None  # single examples or positions
    for form, name in forms.items():
        found = re.fullmatch(form, match["hook"])
        if found is None:
            continue
        if "{head}" in name:
            if not re.fullmatch(r"\d{1,9}", last) or len(before) != 2:
                return None
        elif last not in _ALL:
            return None
        return name.format(*found.groups(), head=last)
    return None
