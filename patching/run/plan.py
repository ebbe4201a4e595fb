"""What one masked run has to compute, decided before it computes anything.

From the kept masks of one or more circuits the plan says which nodes run at all, what each live
port adds up (kept edges onto the ablated stream, or ablated edges off the current one),
and which ports hold the same stream and so share their norm and projection.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ...graphs.bitsets import booleans, integers
from ...graphs.graph import WHOLE, ComputationGraph
from ...graphs.names import Kind, Node, Port

CURRENT, BASE = "current", "base"
SPARSE = 8  # circuits that keep fewer than one of so many moving edges use only the base stream


@dataclass(frozen=True)
class Sum:
    """What a port holds: the current or the base stream plus weighted sender deltas.

    `weights`: [circuits, senders] with entries −1, 0, 1 (of gates: from 0 to 1), or None when
    nothing is added. `row`: the port, where ports are told apart; otherwise ports that hold the
    same share one sum. `extra`:
    [circuits, extras] with entries 0, 1: what is added from outside (see `make_plan`), or None.
    `source`: the layer before which the port reads the stream, if that is not its own.
    """

    start: str
    weights: np.ndarray | None
    row: int | None = None
    extra: np.ndarray | None = None
    source: int | None = None


@dataclass(frozen=True)
class Inputs:
    """What the ports of one letter of a layer hold: for each sum, the owners that read it."""

    sums: tuple[int, ...]
    owners: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class LayerPlan:
    """What to run in one layer.

    `heads`: those that run. `sums`: the distinct streams their ports hold. `inputs`: by letter, in
    the order of `heads`. `mlp`, `post`, `mixer`: the sum of the port of `m{l}`, of `o{l}` and of
    `s{l}`, if it runs.
    `writers`: of the senders that compute from `m{l}` those that run, counted within the layer.
    """

    heads: tuple[int, ...]
    sums: tuple[Sum, ...]
    inputs: dict[str, Inputs]
    mlp: Sum | None
    writers: tuple[int, ...] = ()
    post: Sum | None = None
    mixer: Sum | None = None

    @property
    def all_sums(self) -> tuple[Sum, ...]:
        """List what every port of the layer holds."""
        parts = (self.mixer, self.post, self.mlp)
        return (*self.sums, *(s for s in parts if s is not None))


@dataclass(frozen=True)
class Plan:
    """What a masked run computes.

    `known`: senders [S] whose values are given. `moving`: those whose value can differ from the
    base value. `needed`: those whose delta some port adds by itself. `current_until`: the last
    layer in which the current stream is read (the number of layers: by `logits`; −1: nowhere).
    """

    layers: tuple[LayerPlan, ...]
    logits: Sum
    needed: np.ndarray
    known: np.ndarray
    moving: np.ndarray
    current_until: int


def make_plan(
    graph: ComputationGraph,
    masks: np.ndarray,
    *,
    consistent: bool,
    start_row: int = 0,
    fixed: frozenset[int] | None = None,
    apart: bool = False,
    extra: np.ndarray | None = None,
) -> Plan:
    """Plan a run of the circuits `masks`, bool [circuits, ports, senders].

    `consistent`: a node without kept inputs writes its base value (see `Ablation`). `start_row`:
    senders that only read ports before this row write known values; 0: none. `fixed`: senders with
    given values (path patching); None: the embedding's senders. `apart`: run every live node and
    let no two ports share a stream, so that each port's can be changed or differentiated by itself.
    `extra`: which of some values from outside each port adds, bool [circuits, ports, extras].
    """
    union: np.ndarray = np.asarray(masks.any(axis=0))
    live_ports, live = graph.live(union)
    known = np.full(len(graph.senders), start_row > 0)
    for feeds in graph.feeds[start_row:] if start_row else ():
        known[list(feeds)] = False
    known[list(range(2 if graph.split_embedding else 1) if fixed is None else fixed)] = True
    every = apart or not consistent
    shifted = np.zeros(len(graph.ports), dtype=bool)
    if extra is not None:
        shifted |= extra.any((0, 2))
    moving = live.copy() if every else _moving(graph, union, live, known, shifted)
    rows = _sums(graph, masks, live_ports, moving)
    for row, entry in enumerate(rows if apart or extra is not None else ()):
        if entry is not None:
            more = extra[:, row].astype(np.float32) if extra is not None and shifted[row] else None
            alone = row if apart else None
            rows[row] = replace(entry, row=alone, extra=more)
    return _planned(graph, rows, moving, known)


def make_span_plan(
    graph: ComputationGraph, masks: np.ndarray, *, consistent: bool, start_row: int = 0
) -> Plan:
    """Plan a run of one circuit that keeps other edges at each span, masks bool [spans, P, S].

    The sums' weights have a row for each span, and all start from the base. `consistent`,
    `start_row`: as of `make_plan`.
    """
    union: np.ndarray = np.asarray(masks.any(axis=0))
    live_ports, live = graph.live(union)
    known = np.full(len(graph.senders), start_row > 0)
    for feeds in graph.feeds[start_row:] if start_row else ():
        known[list(feeds)] = False
    known[: 2 if graph.split_embedding else 1] = True
    moving = live.copy()
    if consistent:
        moving = _moving(graph, union, live, known, np.zeros(len(graph.ports), dtype=bool))
    on = (masks & graph.reads & moving).astype(np.float32)
    rows = [
        Sum(BASE, on[:, row] if on[:, row].any() else None, source=graph.source_of(port))
        if live_ports[row]
        else None
        for row, port in enumerate(graph.ports)
    ]
    return _planned(graph, rows, moving, known)


def _planned(
    graph: ComputationGraph, rows: list[Sum | None], moving: np.ndarray, known: np.ndarray
) -> Plan:
    """Return the plan of what ports add up; see `Plan`."""
    running = moving & ~known
    layers = tuple(_layer(graph, layer, rows, running) for layer in range(graph.layers))
    used = [s for plan in layers for s in plan.all_sums]
    logits = rows[-1]
    assert logits is not None
    needed = np.zeros(len(graph.senders), dtype=bool)
    for entry in (*used, logits):
        if entry.weights is not None:
            needed |= (entry.weights != 0).any(axis=0)
    readers = [i for i, p in enumerate(layers) if any(s.start == CURRENT for s in p.all_sums)]
    current_until = len(layers) if logits.start == CURRENT else max(readers, default=-1)
    return Plan(layers, logits, needed, known, moving, current_until)


def make_gated_plan(graph: ComputationGraph, gates: np.ndarray) -> Plan:
    """Plan a run in which each edge is kept to a degree: gates, float [ports, senders], 0 to 1.

    A port holds  base + Σ_u g_u (o_u − a_u).  Every node runs and ports are told apart, so that the
    run can be differentiated at each.
    """

    def gated(entry: Sum) -> Sum:
        assert entry.row is not None
        weights = gates[entry.row][None].astype(np.float32)
        return Sum(BASE, weights, entry.row, source=entry.source)

    def of_layer(step: LayerPlan) -> LayerPlan:
        mlp, post, mixer = (x and gated(x) for x in (step.mlp, step.post, step.mixer))
        sums = tuple(map(gated, step.sums))
        return replace(step, sums=sums, mlp=mlp, post=post, mixer=mixer)

    plan = make_plan(graph, graph.reads[None], consistent=False, apart=True)
    layers, everything = tuple(map(of_layer, plan.layers)), np.ones_like(plan.needed)
    return replace(
        plan, layers=layers, logits=gated(plan.logits), needed=everything, current_until=-1
    )


def _moving(
    graph: ComputationGraph,
    kept: np.ndarray,
    live: np.ndarray,
    known: np.ndarray,
    shifted: np.ndarray,
) -> np.ndarray:
    """Find live senders whose value can differ; `shifted`: ports with values from outside."""
    moving: np.ndarray = live & known
    held = integers(kept)
    found = integers(moving[None])[0]
    of_live = integers(live[None])[0]
    for row, feeds in enumerate(graph.feed_bits):
        if feeds and (shifted[row] or held[row] & found):
            found |= feeds & of_live
    return booleans(found, len(moving))


def _sums(
    graph: ComputationGraph, masks: np.ndarray, live: np.ndarray, moving: np.ndarray
) -> list[Sum | None]:
    """Choose the cheaper form of each live port's stream: masks bool [C, P, S], moving bool [S].

    A port that does not read the stream (`o{l}`) adds up its few senders onto the base. So does one
    into which some circuit keeps nothing: it must hold the base exactly, since a norm behind it
    would blow up what rounding leaves of a stream of zeros. Where few edges are kept in all, the
    current stream, to which every running node would be added, is not kept. Keys and values that
    are another layer's are read before that layer, where the current stream is no longer known.
    """
    reads = graph.reads & moving
    on = masks & reads
    kept = on.sum((0, 2))
    cut = len(masks) * reads.sum(1) - kept
    everywhere = on.any(2).all(0)
    few = SPARSE * kept[live].sum() < (kept + cut)[live].sum()
    found: list[Sum | None] = []
    for row, port in enumerate(graph.ports):
        source = graph.source_of(port)
        current = not few and port.node.kind is not Kind.POST and source is None
        if not live[row]:
            found.append(None)
        elif not cut[row] and current:
            found.append(Sum(CURRENT, None))
        elif not kept[row]:
            found.append(Sum(BASE, None, source=source))
        elif current and cut[row] < kept[row] and everywhere[row]:
            off = ~masks[:, row] & reads[row]
            found.append(Sum(CURRENT, -off.astype(np.float32)))
        else:
            found.append(Sum(BASE, on[:, row].astype(np.float32), source=source))
    return found


def _layer(
    graph: ComputationGraph, layer: int, rows: list[Sum | None], running: np.ndarray
) -> LayerPlan:
    first = graph.first_heads[layer]
    heads = tuple(int(h) for h in np.flatnonzero(running[first : first + graph.heads_of(layer)]))
    sums: dict[object, int] = {}
    chosen: list[Sum] = []
    inputs: dict[str, Inputs] = {}
    for letter in "qkv" if heads else "":
        owners: dict[int, list[int]] = {}
        for head in heads:
            entry = rows[graph.attention_rows[layer][letter][head]]
            assert entry is not None
            parts = (x if x is None else x.tobytes() for x in (entry.weights, entry.extra))
            key = (entry.start, entry.row, entry.source, *parts)
            if key not in sums:
                sums[key] = len(chosen)
                chosen.append(entry)
            owners.setdefault(sums[key], []).append(head)
        inputs[letter] = Inputs(tuple(owners), tuple(tuple(h) for h in owners.values()))

    def single(kind: Kind, columns: slice) -> Sum | None:
        return rows[graph.port_index[Port(Node(kind, layer))]] if running[columns].any() else None

    own = graph.mlp_columns[layer]
    columns = slice(own.start, own.stop)
    writers = tuple(int(i) for i in np.flatnonzero(running[columns]))
    post = single(Kind.POST, slice(own.start - 1, own.start)) if graph.has_post(layer) else None
    whole = graph.mixer(layer) == WHOLE
    mixer = single(Kind.MIXER, slice(first, first + 1)) if whole else None
    mlp = single(Kind.MLP, columns)
    return LayerPlan(heads, tuple(chosen), inputs, mlp, writers, post, mixer)
