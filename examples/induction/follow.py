"""Follow a circuit over the checkpoints of a training run: induction appears and is tidied up.

Writes induction.json (for `edgewise draw` and others) and induction.svg into the current folder.
"""

from pathlib import Path

from edgewise import Selection, timeline, write_timeline
from edgewise.visualize.charts.timeline import MetricLine, draw_timeline

here = Path(__file__).resolve().parent
found = timeline(
    str(here / "checkpoints"),
    str(here / "pairs.jsonl"),
    method="eap-ig",
    select=Selection(above=0.4),
    measure=["accuracy"],
)
write_timeline("induction.json", found)

line = found.timeline
for i, label in enumerate(line.labels):
    full, kept = (found.values("logit_diff", what)[i] for what in ("full", "circuit"))
    print(
        f"step {label:>4}: logit difference {full:5.2f}, of {len(line.circuits[i]):2} edges alone "
        f"{kept:5.2f}; {len(line.born(i))} new, {len(line.died(i))} gone"
    )
for life in line.edges:
    spans = ", ".join(f"{line.labels[a]} to {line.labels[b]}" for a, b in life.spans)
    print(f"{life.thing!s:16} {spans:12} |score| up to {line.peak(life.thing):.2f}")

curves = [
    MetricLine(f"of the {words}", found.values("logit_diff", what), colour)
    for words, what, colour in (
        ("full model", "full", "#1a1a1a"),
        ("circuit", "circuit", "#0072b2"),
        ("model without any edge", "empty", "#8a8a8a"),
    )
]
draw_timeline(line, "induction.svg", curves=curves, axis="logit difference", title="Induction")
