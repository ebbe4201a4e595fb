"""Ask which edges changed relative to the rest. Run by hand, after the experiment of the README.

    python examples/fine-tuned/shares.py fine-tuned
The tuned model does the task and the base hardly, so nearly every score grew. Here each model's
scores are divided by the sum of their mean absolute values, and tested as `diff` does.
"""

import sys
from pathlib import Path

import numpy as np

from edgewise import read_circuit
from edgewise.discovery.uncertainty.paired import independent, paired_test
from edgewise.steps.comparison.scored import ScoredModel

folder, names = Path(sys.argv[1] if len(sys.argv) > 1 else "fine-tuned"), ("base", "tuned")
graph = read_circuit(folder / "circuits" / "base.json").circuit.graph
models = [ScoredModel.read(folder / "examples" / f"{name}.safetensors", graph) for name in names]
clusters = independent(models[0].scores.clusters)
edges = [graph.edge_at(*place) for place in np.argwhere(graph.reads)]
scores = [one.scores.values.astype(float) for one in models]  # [examples, edges]
totals = [np.abs(values.mean(0)).sum() for values in scores]
print("sum of |scores|:", *(f"{name} {t:.0f}" for name, t in zip(names, totals, strict=True)))
behaviour = max(abs(one.full - one.empty) for one in models)

for what, (a, b) in {
    "scores": scores,
    "shares": [values / total for values, total in zip(scores, totals, strict=True)],
}.items():
    delta = 0.005 * behaviour if what == "scores" else 0.005 * behaviour / max(totals)
    changed = paired_test(a, b, clusters, delta=delta).changed
    size = np.abs(b.mean(0)) - np.abs(a.mean(0))
    more, less = int((changed & (size > 0)).sum()), int((changed & (size < 0)).sum())
    print(
        f"\n{what}: {more + less:,} of {len(edges):,} edges changed: {more:,} more, {less:,} less"
    )
    for sign, word in ((-1, "most lost"), (1, "most gained")):
        order = [i for i in np.argsort(-sign * size) if changed[i]][:8]
        print(f"  {word}:", ", ".join(str(edges[i]) for i in order))

print("\nshare of all |scores| at the edges into and out of a node, %")
table = []
for values, total in zip(scores, totals, strict=True):
    matrix = np.zeros(graph.reads.shape)
    matrix[graph.reads] = np.abs(values.mean(0)) / total
    found = {str(node): matrix[:, i].sum() for i, node in enumerate(graph.senders)}
    for port, row in zip(graph.ports, matrix, strict=True):
        found[str(port.node)] = found.get(str(port.node), 0) + row.sum()
    table.append(found)
changes = {node: 100 * (table[1][node] - table[0][node]) for node in table[0]}
ranked = sorted(changes, key=changes.__getitem__)
for node in (*ranked[:6], *ranked[-10:]):
    print(f"{node:8} {100 * table[0][node]:5.1f} {100 * table[1][node]:5.1f} {changes[node]:+5.1f}")
