"""Measure how long the stability of edges takes, of scores on each example; no model is run.

    OMP_NUM_THREADS=2 python benchmarks/stability.py [NAME.examples.safetensors] [--top 200]

Without a file, scores are drawn at random: of 123,211 edges (SmolLM2-135M) on 64 examples, with
sizes as unequal as real ones. Printed are seconds, peak memory, and how alike the circuits are.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np

from edgewise.discovery.uncertainty.stability import (
    INNER,
    OUTER,
    RESAMPLES,
    EdgeRule,
    stability,
    stable,
    stable_likeness,
)
from edgewise.graphs.example_scores import ExampleScores
from edgewise.graphs.files import read_example_scores
from edgewise.graphs.graph import ComputationGraph


def drawn(examples: int) -> ExampleScores:
    """Draw scores whose sizes differ by orders of magnitude."""
    graph, rng = ComputationGraph(30, 9, 3), np.random.default_rng(0)
    size = np.exp(2.5 * rng.normal(size=graph.edge_count)).astype(np.float32)
    noise = rng.normal(size=(examples, graph.edge_count)).astype(np.float32)
    values = size / size.max() * (noise + rng.normal(size=graph.edge_count).astype(np.float32))
    return ExampleScores(graph, values.astype(np.float16), ("",) * examples)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", nargs="?")
    parser.add_argument("--top", type=int, default=200)
    parser.add_argument("--least", type=float, default=0.9)
    parser.add_argument("--signed", action="store_true")
    parser.add_argument("--connected", action="store_true")
    given = parser.parse_args()
    examples = drawn(64) if given.file is None else read_example_scores(given.file).scores
    scores, how = examples.mean(), {"absolute": not given.signed, "connected": given.connected}
    circuit = scores.top(given.top, **how)
    rule = EdgeRule.of(circuit, scores, **how, above=None)
    begun = time.perf_counter(), time.process_time()
    found = stability(examples, rule)
    took = time.perf_counter() - begun[0], time.process_time() - begun[1]
    left = stable(circuit, found, given.least, connected=given.connected)
    print(f"{len(examples)} examples, {examples.graph.edge_count:,} edges, {rule}")
    print(f"{RESAMPLES:,} resamples: {took[0]:.1f} s, of the processor {took[1]:.1f} s")
    print(f"clusters {found.clusters}, drawn {found.drawn}, {found.likeness}")
    begun = time.perf_counter(), time.process_time()
    likeness = stable_likeness(examples, rule, given.least)
    took = time.perf_counter() - begun[0], time.process_time() - begun[1]
    print(f"{len(left):,} of {len(circuit):,} edges have a stability of {given.least:g} or more")
    print(
        f"the same of new resamples ({OUTER} x {INNER}): {likeness}, "
        f"{took[0]:.1f} s, of the processor {took[1]:.1f} s"
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"peak memory {peak:.2f} GB")


if __name__ == "__main__":
    main()
