"""What `edgewise diff` prints beside the counts: scores, noise floor, cross-evaluation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from . import show

if TYPE_CHECKING:
    from ..graphs.circuit import Circuit
    from ..graphs.files import DiffFile
    from ..graphs.names import Node
    from ..steps.noise_floor import Floor

MOST_CHANGES = 5
"""How many shared edges are printed with the change of their score."""

MOST_ROWS = 12
"""How many edges of each place are printed."""

MOST_NODES = 30
"""How many nodes that only one circuit has are printed."""


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

    Beside a noise floor such edges are printed with what the repetitions say of them instead.
    """
    nodes, sides = found.diff.nodes, (("A", "only_a"), ("B", "only_b"))
    if nodes["only_a"] or nodes["only_b"]:
        show.line()
        show.facts((f"nodes only in {name}", _names(nodes[key])) for name, key in sides)
    if "noise_floor" in found.extra:
        return
    for (name, key), scores in zip(sides, (found.scores_a, found.scores_b), strict=True):
        lone: Circuit = getattr(found.diff, key)
        rows = [(str(edge), _score(scores[lone.graph.locate(edge)])) for edge in lone.edges]
        rows.sort(key=lambda row: -abs(row[1] or 0.0))
        if rows:
            show.table((f"edges only in {name}{_of(rows)}", "score"), rows[:MOST_ROWS])


def _names(nodes: Sequence[Node]) -> str:
    more = f" and {len(nodes) - MOST_NODES:,} more" if len(nodes) > MOST_NODES else ""
    return (" ".join(str(node) for node in nodes[:MOST_NODES]) or "none") + more


def _score(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _of(rows: Sequence[object]) -> str:
    """Say how many rows of a table are printed, if not all are."""
    return f", {MOST_ROWS} of {len(rows):,}" if len(rows) > MOST_ROWS else ""


def print_scores(found: DiffFile) -> None:
    """Print how alike the scores are, and the shared edges whose score changed most."""
    alike = found.scores
    over = {
        "all edges": f"over all {alike.edges:,} edges",
        "some edges": f"over the {alike.edges:,} edges with a score in both",
        "shared edges": f"over the {alike.edges:,} shared edges, as not both circuits have a "
        "scores file beside them",
    }
    rank = show.number_text(alike.spearman)
    absolute = show.number_text(alike.spearman_absolute)
    show.line()
    show.facts(
        [
            ("rank correlation", f"{rank}, of absolute scores {absolute} ({over[alike.over]})"),
            ("weighted overlap", show.number_text(alike.weighted_overlap)),
        ]
    )
    rows = [(str(edge), *numbers) for edge, *numbers in found.changes[:MOST_CHANGES]]
    if rows:
        show.table(("largest changes of score", "A", "B", "B - A"), rows)


def print_floor(found: DiffFile) -> None:
    """Print what the noise floor says, if it was measured."""
    from ..steps.noise_floor import PLACES, Floor

    floor = Floor.of(found)
    if floor is None:
        return
    block = floor.block
    show.line()
    show.line(
        f"noise floor: {block['repetitions']} discoveries in each model, {block['examples']} pairs "
        f"each; {block['scores']} scores tested, {block['edges_tested']:,} edges"
    )
    for sentence in floor.sentences():
        show.line(f"  {sentence}")
    rows = [(name, *numbers) for name, *numbers, _ in floor.likeness()]
    own = found.diff.summary().edges.jaccard
    show.table(("Jaccard of circuits", "mean", "least", "most"), [*rows, ("this diff", own)])
    least = floor.least_p
    bound = (
        f"; {block['repetitions']} repetitions cannot give less than {p_text(least)}"
        if least >= floor.level
        else ""
    )
    show.line(
        "likeness within a model exceeds that between: "
        f"p = {p_text(float(block['jaccard']['p']))}{bound}"
    )
    for place, words in PLACES.items():
        _print_edges(floor, place, words)


def _print_edges(floor: Floor, place: str, words: str) -> None:
    """Print the edges of a place, those of least q first; shared ones if they changed."""
    lone = place in ("only_a", "only_b")
    rows = floor.rows[place] if lone else floor.changed(place)
    if not rows:
        return
    shown = [
        (
            row.edge,
            f"{row.survival_a:.0%}",
            f"{row.survival_b:.0%}",
            row.mean_a,
            row.mean_b,
            p_text(row.p),
            p_text(row.q),
            "yes" if row.q < floor.level else "no",
        )
        for row in rows[:MOST_ROWS]
    ]
    columns = ("kept in A", "kept in B", "score A", "score B", "p", "q", "changed")
    show.table((f"{words}{_of(rows)}", *columns), shown)


def print_cross(found: DiffFile) -> None:
    """Print the faithfulness of the circuits in both models, if it was measured."""
    from ..steps.cross_evaluation import ROWS

    block = found.extra.get("cross")
    if block is None:
        return
    metric = block["metric"]
    rows = [
        (ROWS.get(row["circuit"], row["circuit"]), row["edges"], *row["faithfulness"],
         *row["value"])
        for row in block["rows"]
    ]  # fmt: skip
    rows.append(("all edges", "", 1.0, 1.0, *block["full"]))
    rows.append(("no edge", 0, 0.0, 0.0, *block["empty"]))
    drawn = block["random"]
    for what, pick in (("least", min), ("most", max)):
        if drawn["circuits"]:
            values = [pick(values) for values in drawn["faithfulness"]]
            name = f"{drawn['circuits']} random ones, {what} faithful"
            rows.append((name, drawn["edges"], *values, "", ""))
    columns = ("edges", "f in A", "f in B", f"{metric} in A", f"{metric} in B")
    a, b = block["models"]
    show.table(("circuit", *columns), rows, title=f"function in model A ({a}) and B ({b})")


def print_roles(found: DiffFile) -> None:
    """Print what the circuits' heads do in either model, if it was measured."""
    block = found.extra.get("roles")
    if block is None:
        return
    a, b = ({row["head"]: row for row in block[side]} for side in ("a", "b"))
    inside = [{str(node) for node in circuit.nodes} for circuit in (found.diff.a, found.diff.b)]
    rows = []
    for head in a:
        if a[head]["label"] or b[head]["label"]:
            where = "".join(name for name, one in zip("AB", inside, strict=True) if head in one)
            rows.append((head, where, a[head]["label"] or "-", b[head]["label"] or "-"))
    title = f"roles: {len(rows)} of {len(a)} heads have one in A or B"
    if rows:
        show.table(("head", "in", "role in A", "role in B"), rows, title, left=(0, 1, 2, 3))
    else:
        show.line()
        show.line(title)
