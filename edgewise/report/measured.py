"""What a report tells of measurements beside a diff: noise floor, cross-evaluation, head roles.

Each part takes a diff file and the two models' names, and is empty where nothing was measured. No
sentence claims more than the numbers beside it: an edge is called changed only if it passes the
noise floor, and whether edges matter is said of the very circuits that were run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..graphs.comparison import ROWS, CrossEvaluation, Floor, FloorRow
from .markdown import code, escaped, number, paragraphs, ratio_text, table

if TYPE_CHECKING:
    from ..graphs.files import DiffFile
    from ..graphs.roles import HeadRoles

LISTED = 30
"""How many changed edges of each place are listed."""

MATTERS = 0.05
"""Differences of faithfulness below this are called little."""

Names = tuple[str, str]


# -- noise floor --------------------------------------------------------------------------------


def floor_part(file: DiffFile, names: Names) -> str:
    """Tell a diff beside its noise floor."""
    floor = file.floor
    if floor is None:
        return ""
    a, b = (escaped(name) for name in names)
    found = floor.measured
    places = {
        "only_b": f"Appeared in {b} and changed beyond the noise floor",
        "only_a": f"Vanished from {a} and changed beyond the noise floor",
        "shared": "In both circuits, with a score that changed beyond the noise floor",
        "outside": "In neither circuit, with a score that changed beyond the noise floor",
    }
    return paragraphs(
        [
            "### Beside the noise floor",
            f"The discovery was repeated {found.repetitions} times in each model, each time on "
            f"{found.examples} pairs of its own.",
            _likeness(floor, file.diff.summary().edges.jaccard, (a, b)),
            "\n".join(f"* {sentence}." for sentence in floor.sentences((a, b))),
            f"Tested (A is {a}, B is {b}): {escaped(found.test)}. Of the "
            f"edges that pass at q < {floor.level:g}, at most a share of {floor.level:g} is "
            "expected to pass by chance.",
            *(_changed(floor, place, words, (a, b)) for place, words in places.items()),
        ]
    )


def _likeness(floor: Floor, own: float, names: Names) -> str:
    """Compare the overlap within a model with that between the models."""
    a, b = names
    words = (f"two repetitions in {a}", f"two repetitions in {b}", f"one in {a}, one in {b}")
    found = [values for _, values in floor.measured.likeness()]
    rows = [
        (name, *(f"{pick(values):.3f}" for pick in (np.median, np.min, np.max)), f"{len(values):,}")
        for name, values in zip(words, found, strict=True)
        if len(values)
    ]
    rows.append(("the two circuits of this diff", f"{own:.3f}", "", "", ""))
    p = floor.measured.jaccard.p
    medians = [f"{np.median(values):.3f}" if len(values) else "–" for values in found]
    verdict = (
        "so the circuits of the two models differ by more than other prompts make circuits of one "
        "model differ"
        if p < floor.level
        else "so as sets of edges the circuits of the two models are not shown to differ by more "
        "than other prompts make circuits of one model differ"
    )
    if p >= floor.level and floor.measured.least_p >= floor.level:
        verdict += (
            f" ({floor.measured.repetitions} repetitions cannot show it: their least p is "
            f"{floor.measured.least_p:.2g})"
        )
    return paragraphs(
        [
            table(["Jaccard index of", "median", "least", "most", "pairs"], rows, right=1),
            f"Two repetitions in {a} overlap by {medians[0]} (median), two in {b} by {medians[1]}, "
            f"one of each by {medians[2]} (p = {p:.2g}), {verdict}.",
        ]
    )


def _changed(floor: Floor, place: str, words: str, names: Names) -> str:
    """List the changed edges of a place, those of least q first."""
    rows = floor.changed(place)
    if not rows:
        return ""
    head = [
        "edge", *(f"kept in {name}" for name in names), *(f"score in {name}" for name in names),
        "p", "q",
    ]  # fmt: skip
    more = f" ({LISTED} of {len(rows):,})" if len(rows) > LISTED else f" ({len(rows):,})"
    return f"{words}{more}:\n\n" + table(head, map(_floor_cells, rows[:LISTED]), right=1)


def _floor_cells(row: FloorRow) -> list[str]:
    survival = [f"{share:.0%}" for share in (row.survival_a, row.survival_b)]
    return [
        code(row.edge), *survival, number(row.mean_a), number(row.mean_b),
        f"{row.p:.2g}", f"{row.q:.2g}",
    ]  # fmt: skip


# -- cross-evaluation ---------------------------------------------------------------------------


def cross_part(file: DiffFile, names: Names) -> str:
    """Tell how each model's circuit works in the other."""
    cross, floor = file.cross, file.floor
    if cross is None:
        return ""
    sentences = (_cross_sentence(cross, names, model, floor) for model in (0, 1))
    return paragraphs(["### Function", _cross_table(cross, names), *sentences])


def _cross_table(cross: CrossEvaluation, names: Names) -> str:
    a, b = (escaped(name) for name in names)
    called = {**ROWS, "A": f"circuit of {a}", "B": f"circuit of {b}"}
    rows = [
        (called[row.circuit], f"{row.edges:,}", *map(ratio_text, row.faithfulness),
         *map(number, row.value))
        for row in cross.rows
    ]  # fmt: skip
    rows += [
        (words, f"{cross.random.edges:,}", *map(ratio_text, found), "", "")
        for words, found in cross.random.ends()
    ]
    rows.append(("all edges", "", "1.000", "1.000", *map(number, cross.full)))
    rows.append(("no edge", "0", "0.000", "0.000", *map(number, cross.empty)))
    metric = code(cross.metric)
    head = [
        "run in both models", "edges", f"faithfulness in {a}", f"in {b}", f"{metric} in {a}",
        f"in {b}",
    ]  # fmt: skip
    return table(head, rows, right=1)


def _cross_sentence(cross: CrossEvaluation, names: Names, model: int, floor: Floor | None) -> str:
    """Say of one model how the other's circuit does there, beside its own and random ones."""
    here, there = (escaped(names[i]) for i in (model, 1 - model))
    own, other, both = (
        cross.row(key).faithfulness[model] for key in ("AB"[model], "BA"[model], "both")
    )
    drawn = cross.random.faithfulness[model]
    beside = (
        f"; {len(drawn)} random circuits keep {_percent(min(drawn))} to {_percent(max(drawn))}"
        if drawn
        else ""
    )
    return (
        f"In **{here}**, the circuit of {there} keeps {_percent(other)} of the difference between "
        f"all edges and none, {here}'s own {_percent(own)}{beside}. "
        f"{_meaning(own, other, both, drawn, floor)}"
    )


def _meaning(
    own: float, other: float, both: float, drawn: Sequence[float], floor: Floor | None
) -> str:
    """Say what follows for the edges in which two circuits differ, and no more.

    The nearer a circuit's faithfulness is to 1, from either side, the better it does.
    """
    nearest = min(abs(1 - own), abs(1 - other))
    if drawn and min(abs(1 - value) for value in drawn) <= nearest:
        return "A random circuit does as well there, so nothing follows for their edges."
    far = " Neither comes within half of the whole model, so both miss much of what it does."
    return _verdict(own, other, both, floor) + (far if nearest > 0.5 else "")


def _verdict(own: float, other: float, both: float, floor: Floor | None) -> str:
    """Say whether it matters which of two circuits is run, and what they keep without the rest.

    Two circuits that do equally well may each need what the other lacks; only if what they share
    does as well do the edges in which they differ matter little.
    """
    if abs(own - other) < MATTERS:
        if max(abs(own - both), abs(other - both)) < MATTERS:
            return "There the edges in which the two circuits differ matter little."
        return (
            "There the two circuits do about equally well, but what they share keeps "
            f"{_percent(both)}: the edges in which they differ matter, and those of either circuit "
            "do about as much."
        )
    better = "its own" if abs(1 - own) <= abs(1 - other) else "the other model's"
    words = (
        f"There the two circuits lie {round(100 * abs(own - other))} points apart, {better} nearer "
        "to the whole model: the edges in which they differ matter"
    )
    if floor is None:
        return f"{words}; whether the models differ in them is not known without a noise floor."
    if not floor.changed("only_a") and not floor.changed("only_b"):
        return (
            f"{words}; but none of them changed beyond the noise floor, so this is told of two "
            "single circuits, not of the models."
        )
    return f"{words}."


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%".replace("-0%", "0%")


# -- roles --------------------------------------------------------------------------------------


def roles_part(file: DiffFile, names: Names) -> str:
    """Tell which heads measurably do something else in the other model."""
    if file.roles is None:
        return ""
    both = file.roles.heads
    changed = [(one, other) for one, other in both if one.role != other.role]
    rows = [[code(str(one.node)), _role(one), _role(other)] for one, other in changed]
    a, b = (escaped(name) for name in names)
    words = (
        f"Of {len(both):,} heads measured in both models, {len(changed):,} have another role in "
        f"{b} than in {a}. A role says that a measured value passes a threshold, not what a head "
        "is for; a value near the threshold may pass it by chance."
    )
    found = table(["head", f"in {a}", f"in {b}"], rows) if rows else ""
    limits = "\n".join(f"* {escaped(note)}" for note in file.roles.notes(names))
    return paragraphs(["### What heads do", words, found, limits])


def _role(head: HeadRoles) -> str:
    return escaped(head.label or "none")
