"""Ask which edges changed relative to the rest. Run by hand, after the experiment of the README.

    python examples/fine-tuned/shares.py fine-tuned
The tuned model does the task and the base hardly, so nearly every score grew. Here each
repetition's scores are divided by the sum of their absolute values, and tested as `diff` does.
"""

import sys
from pathlib import Path

import numpy as np

from edgewise import read_circuit
from edgewise.discovery.significance import q_values, welch
from edgewise.steps.repeat import Repeats

folder, names = Path(sys.argv[1] if len(sys.argv) > 1 else "fine-tuned"), ("base", "tuned")
graph = read_circuit(folder / "circuits" / "base.json").circuit.graph
repeats = [Repeats.read(folder / "repetitions" / f"{name}.safetensors", graph) for name in names]
edges = [graph.edge_at(*place) for place in np.argwhere(graph.reads)]
scores = [one.scores[:, graph.reads].astype(float) for one in repeats]  # [repetitions, edges]
totals = [np.abs(values).sum(1, keepdims=True) for values in scores]
print(
    "sum of |scores|:", *(f"{name} {t.mean():.0f}" for name, t in zip(names, totals, strict=True))
)

for what, (a, b) in {
    "scores": scores,
    "shares": [values / total for values, total in zip(scores, totals, strict=True)],
}.items():
    changed = q_values(welch(a, b)) < 0.05
    size = np.abs(b.mean(0)) - np.abs(a.mean(0))
    more, less = int((changed & (size > 0)).sum()), int((changed & (size < 0)).sum())
    print(
        f"\n{what}: {more + less:,} of {len(edges):,} edges changed: {more:,} more, {less:,} less"
    )
    for sign, word in ((-1, "most lost"), (1, "most gained")):
        order = [i for i in np.argsort(-sign * size) if changed[i]][:8]
        print(f"  {word}:", ", ".join(str(edges[i]) for i in order))
    within = [(q_values(welch(x[:4], x[4:])) < 0.05).sum() for x in (a, b)]
    print(f"  the first half of one model's repetitions against the second: {sum(within)}")

print("\nshare of all |scores| at the edges into and out of a node, %")
table = []
for values, total in zip(scores, totals, strict=True):
    matrix = np.zeros(graph.reads.shape)
    matrix[graph.reads] = (np.abs(values) / total).mean(0)
    found = {str(node): matrix[:, i].sum() for i, node in enumerate(graph.senders)}
    for port, row in zip(graph.ports, matrix, strict=True):
        found[str(port.node)] = found.get(str(port.node), 0) + row.sum()
    table.append(found)
changes = {node: 100 * (table[1][node] - table[0][node]) for node in table[0]}
ranked = sorted(changes, key=changes.__getitem__)
for node in (*ranked[:6], *ranked[-10:]):
    print(f"{node:8} {100 * table[0][node]:5.1f} {100 * table[1][node]:5.1f} {changes[node]:+5.1f}")
