"""Measure what scores on each example cost beside the scores alone, and what stability costs.

    OMP_NUM_THREADS=2 python benchmarks/examples.py [--examples 64] [--methods eap,eap-ig]

Each method is run without and with scores on each example in turn, in one process; printed are the
seconds of both, by the wall clock and of the processor, and their ratio. Forward runs that both
share are made before. A processor's seconds tell more where other programs run too.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from edgewise.discovery.registry import get_method
from edgewise.session import make_runner, open_model, open_task


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--task", default="ioi")
    parser.add_argument("--examples", type=int, default=64)
    parser.add_argument("--methods", default="eap,eap-ig")
    parser.add_argument("--repeat", type=int, default=3)
    given = parser.parse_args()
    session = open_model(given.model)
    pairs, _ = open_task(session, given.task, examples=given.examples)
    runner = make_runner(session, pairs)
    for chunk in runner.chunks():
        _ = chunk.clean, chunk.base
    graph = runner.graph
    print(
        f"{given.model}, {given.task}, {len(pairs)} pairs, {graph.edge_count:,} edges, "
        f"{torch.get_num_threads()} threads"
    )
    for name in given.methods.split(","):
        ratios = []
        for _ in range(given.repeat):
            wall, processor = [], []
            for more in ({}, {"per_example": True}):
                begun = time.perf_counter(), time.process_time()
                get_method(name)(runner, **more)
                wall.append(time.perf_counter() - begun[0])
                processor.append(time.process_time() - begun[1])
            ratios.append((wall[1] / wall[0], processor[1] / processor[0]))
            print(
                f"{name:16} wall {wall[0]:7.2f} s {wall[1]:7.2f} s   "
                f"processor {processor[0]:7.2f} s {processor[1]:7.2f} s   "
                f"ratios {ratios[-1][0]:.3f} {ratios[-1][1]:.3f}",
                flush=True,
            )
        middle = [statistics.median(column) for column in zip(*ratios, strict=True)]
        print(
            f"{name:16} median ratios: wall {middle[0]:.3f}, processor {middle[1]:.3f}", flush=True
        )


if __name__ == "__main__":
    main()
