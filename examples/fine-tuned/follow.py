"""Follow a circuit along fine-tuning. Run by hand, after the first command of the README: minutes.

    python examples/fine-tuned/follow.py checkpoints
CHECKPOINTS is what `fine_tune.py --out` was given. Writes fine-tuned.json, for
`edgewise draw`.
"""

import sys
from pathlib import Path

from edgewise import Selection, timeline, write_timeline
from edgewise.experiment.task import TaskSpec
from edgewise.graphs.diff import rank_correlation
from edgewise.store.results import Results

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "checkpoints")
steps = sorted(folder.glob("step-[1-9]*"), key=lambda path: int(path.name[5:]))
found = timeline(
    ["smollm2-135m", *map(str, steps), str(folder)],
    TaskSpec("entity-tracking", examples=64),
    select=Selection(top=200, signed=True),
    measure=["kl", "accuracy"],
    labels=["base", *(path.name[5:] for path in steps), "end"],
    results=Results(),
)
write_timeline("fine-tuned.json", found)

line, full = found.timeline, found.values("logit_diff", "full")
last, real = len(line) - 1, line.graph.reads  # [ports, senders]
print("step  accuracy  logit difference  born  died  Jaccard: before  base  end  ranks as at end")
for i, label in enumerate(line.labels):
    before, base, end = (line.change(j, i).edges.jaccard for j in (max(i - 1, 0), 0, last))
    ranks = rank_correlation(line.scores[i][real], line.scores[last][real])
    print(
        f"{label:>4}  {found.values('accuracy', 'full')[i]:8.2f}  {full[i]:16.2f}  "
        f"{len(line.born(i)):4}  {len(line.died(i)):4}  {before:15.2f}  {base:4.2f}  {end:3.2f}  "
        f"{ranks:15.2f}"
    )

top = sorted(
    line.circuits[last].edges, key=lambda edge: -line.scores[last][line.graph.locate(edge)]
)
print("\nthe end's largest scores, at every checkpoint:")
for edge in top[:10]:
    values = (f"{scores[line.graph.locate(edge)]:6.2f}" for scores in line.scores)
    print(f"{edge!s:16} {' '.join(values)}")
