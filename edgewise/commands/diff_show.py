"""What `edgewise diff` prints beside the counts: changes, scores, stability, function, roles."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from . import show

if TYPE_CHECKING:
    from ..graphs.circuit import Circuit
    from ..graphs.comparison import Pair
    from ..graphs.files import DiffFile

MOST_CHANGES, MOST_ROWS, MOST_NODES = 5, 12, 30
"""How many are printed: shared edges whose score changed, edges of each place, lone nodes."""


def p_text(value: float) -> str:
    """Write a probability as people read it.

    >>> p_text(0.04312), p_text(1e-9), p_text(0.0), p_text(1.0)
    ('0.043', '1e-09', '<1e-300', '1')
    """
    if value == 0:
        return "<1e-300"
    return f"{value:.2g}" if value < 0.9995 else "1"


def print_lone(found: DiffFile) -> None:
    """Print by name the nodes that only one circuit has, and its strongest edges.

    Beside a comparison such edges are printed with their change instead.
    """
    nodes, sides = found.diff.nodes, (("A", "only_a"), ("B", "only_b"))
    if nodes["only_a"] or nodes["only_b"]:
        show.line()
        for name, key in sides:
            words = " ".join(map(str, nodes[key][:MOST_NODES])) or "none"
            if (more := len(nodes[key]) - MOST_NODES) > 0:
                words += f" and {more:,} more"
            show.facts((f"nodes only in {name}", words))
    if found.comparison is not None:
        return
    for (name, key), scores in zip(sides, (found.scores_a, found.scores_b), strict=True):
        lone: Circuit = getattr(found.diff, key)
        values = [(str(edge), float(scores[lone.graph.locate(edge)])) for edge in lone.edges]
        rows = [(edge, None if math.isnan(value) else value) for edge, value in values]
        rows.sort(key=lambda row: -abs(row[1] or 0.0))
        if rows:
            show.table((f"edges only in {name}{_of(rows)}", "score"), rows[:MOST_ROWS])


def _of(rows: Sequence[object]) -> str:
    return f", {MOST_ROWS} of {len(rows):,}" if len(rows) > MOST_ROWS else ""


def print_changes(found: DiffFile) -> None:
    """Print which edges changed on the same prompts in both models, if that was tested."""
    from ..graphs.comparison import PLACES

    compared = found.compared
    if compared is None:
        return
    measured = compared.measured
    show.line()
    show.line(
        f"the same prompts in both models: {measured.scores} scores of {measured.edges_tested:,} "
        f"edges by {measured.metric}"
    )
    show.sentences([*compared.sentences(), *filter(None, [compared.controls()])])
    show.note(*(f"{words}." for words in compared.warnings()))
    columns = ("score A", "score B", "change", "95% from", "to", "q", "changed")
    for place, words in PLACES.items():
        lone = place in ("only_a", "only_b")  # of the others only those that changed are listed
        edges = compared.rows[place] if lone else compared.changed(place)
        rows = [
            (one.edge, one.mean_a, one.mean_b, one.change, one.low, one.high, p_text(one.q),
             one.q < measured.level)
            for one in edges[:MOST_ROWS]
        ]  # fmt: skip
        if rows:
            show.table((f"{words}{_of(edges)}", *columns), rows)


def print_function(found: DiffFile) -> None:
    """Print what the edges that changed do, if any did and that was measured."""
    compared, function = found.compared, found.function
    if compared is None or function is None:
        return
    show.line()
    show.line(f"what they do, by {function.metric} on {compared.measured.prompts}")
    show.sentences(function.sentences(compared.measured.delta))


def print_scores(found: DiffFile) -> None:
    """Print how alike the scores are, and the shared edges whose score changed most."""
    alike = found.scores
    over = {
        "all edges": f"over all {alike.edges:,} edges",
        "some edges": f"over the {alike.edges:,} edges with a score in both",
        "shared edges": f"over the {alike.edges:,} shared edges, as not both circuits have a "
        "scores file beside them",
    }
    rank, absolute = map(show.number_text, (alike.spearman, alike.spearman_absolute))
    correlation = f"{rank}, of absolute scores {absolute} ({over[alike.over]})"
    overlap = show.number_text(alike.weighted_overlap)
    show.line()
    show.facts(("rank correlation", correlation), ("weighted overlap", overlap))
    rows = [(str(edge), *numbers) for edge, *numbers in found.changes[:MOST_CHANGES]]
    if rows:
        show.table(("largest changes of score", "A", "B", "B - A"), rows)


def print_floor(found: DiffFile) -> None:
    """Print how stable the two sets of edges are, if the discovery was repeated."""
    import numpy as np

    floor = found.floor
    if floor is None:
        return
    measured = floor.measured
    show.line()
    show.line(
        f"noise floor of the sets: {measured.repetitions} discoveries in each model, "
        f"{measured.examples} pairs each"
    )
    show.sentences(floor.sentences())
    rows = [
        (name, *(float(pick(values)) for pick in (np.mean, np.min, np.max)))
        for name, values in measured.likeness()
        if len(values)
    ]
    own = found.diff.summary().edges.jaccard
    show.table(("Jaccard of circuits", "mean", "least", "most"), [*rows, ("this diff", own)])
    sentence = f"likeness within a model exceeds that between: p = {p_text(measured.jaccard.p)}"
    if (least := measured.least_p) >= measured.level:
        sentence += f"; {measured.repetitions} repetitions cannot give less than {p_text(least)}"
    show.line(sentence)


def print_cross(found: DiffFile) -> None:
    """Print the faithfulness of the circuits in both models, if it was measured."""
    from ..graphs.comparison import ROWS

    cross = found.cross
    if cross is None:
        return

    def shares(
        pair: tuple[float | None, float | None],
        intervals: tuple[Pair | None, Pair | None] = (None, None),
    ) -> Iterator[str]:
        for value, interval in zip(cross.told(pair), intervals, strict=True):
            found = "undefined" if value is None else show.ratio(value)
            yield f"{found} {show.ends(interval)}" if interval and value is not None else found

    rows = [
        (ROWS[row.circuit], row.edges, *shares(row.faithfulness, row.interval), *row.value)
        for row in cross.rows
    ]
    ends = (("all edges", "", 1.0, 1.0, *cross.full), ("no edge", 0, 0.0, 0.0, *cross.empty))
    drawn = [
        (words, cross.random.edges, *shares((a.value, b.value), (a.interval, b.interval)), "", "")
        for words, (a, b) in cross.random.told()
    ]
    metric, (a, b) = cross.metric, cross.models
    columns = ("edges", "f in A", "f in B", f"{metric} in A", f"{metric} in B")
    title = f"function in model A ({a}) and B ({b})"
    show.table(("circuit", *columns), [*rows, *ends, *drawn], title=title)


def print_roles(found: DiffFile) -> None:
    """Print what the circuits' heads do in either model, if it was measured."""
    if found.roles is None:
        return
    inside = [set(circuit.nodes) for circuit in (found.diff.a, found.diff.b)]
    rows = [
        (
            str(a.node),
            "".join(name for name, one in zip("AB", inside, strict=True) if a.node in one),
            a.label or "-",
            b.label or "-",
        )
        for a, b in found.roles.heads
        if a.label or b.label
    ]
    title = f"roles: {len(rows)} of {len(found.roles.heads)} heads have one in A or B"
    if rows:
        show.table(("head", "in", "role in A", "role in B"), rows, title, left=(0, 1, 2, 3))
    else:
        show.line()
        show.line(title)
