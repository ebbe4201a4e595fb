"""Follow a circuit over the checkpoints of a training run: induction appears and is tidied up.

Writes induction.json (for `edgewise draw` and others) and induction.svg into the current folder.
"""

from pathlib import Path

from edgewise import Selection, timeline, write_timeline
from edgewise.experiment.task import TaskSpec
from edgewise.visualize.charts.timeline import draw_timeline, measured_lines, measured_words

here = Path(__file__).resolve().parent
found = timeline(
    str(here / "checkpoints"),
    TaskSpec(file=str(here / "pairs.jsonl"), test=24),  # found on 24 pairs, measured on the others
    method="eap-ig",
    select=Selection(above=0.4),
    measure=["accuracy"],
)
write_timeline("induction.json", found)

line = found.timeline
for i, told in enumerate(found.measured("logit_diff", "held_out")):
    print(
        f"step {line.labels[i]:>4}: logit difference {told['full']:5.2f}, of "
        f"{len(line.circuits[i]):2} edges alone {told['circuit']:5.2f}; {len(line.born(i))} new, "
        f"{len(line.died(i))} gone"
    )
for life in line.edges:
    spans = ", ".join(f"{line.labels[a]} to {line.labels[b]}" for a, b in life.spans)
    print(f"{life.thing!s:16} {spans:12} |score| up to {line.peak(life.thing):.2f}")

draw_timeline(
    line, "induction.svg", curves=measured_lines(found), axis="logit difference",
    title="Induction", caption=measured_words(found).strip(),
)  # fmt: skip
