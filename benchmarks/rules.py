"""Measure what gradient rules cost beside the plain gradient.

    OMP_NUM_THREADS=1 python benchmarks/rules.py [--examples 8] [--method eap] [--repeat 7]

All rules take turns, in one process; printed are the medians of the processor's seconds, which tell
more than the clock where other programs run too, and their ratios to plain gradients in each turn.
Forward runs that all share are made before.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from edgewise.discovery.registry import get_method
from edgewise.patching.gradients.rules import QK, RULES
from edgewise.session import make_runner, open_model, open_task


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--task", default="ioi")
    parser.add_argument("--examples", type=int, default=8)
    parser.add_argument("--method", default="eap")
    parser.add_argument("--repeat", type=int, default=7)
    given = parser.parse_args()
    session = open_model(given.model)
    pairs, _ = open_task(session, given.task, examples=given.examples)
    runner = make_runner(session, pairs, metric="logit_diff", engine="torch")
    for chunk in runner.chunks():
        _ = chunk.clean, chunk.base
    print(f"{given.model}, {given.task}, {len(pairs)} pairs, {torch.get_num_threads()} threads")
    chosen = [{"rule": name} for name in RULES]
    chosen += [{"rule": one.name, "qk": list(QK)[1]} for one in RULES.values()
               if one.chooses_patterns]  # fmt: skip
    seconds: list[list[float]] = []
    for _ in range(given.repeat + 1):
        turn = []
        for options in chosen:
            begun = time.process_time()
            get_method(given.method)(runner, **options)
            turn.append(time.process_time() - begun)
        seconds.append(turn)
    for options, own in zip(chosen, zip(*seconds[1:], strict=True), strict=True):
        ratios = [value / turn[0] for value, turn in zip(own, seconds[1:], strict=True)]
        name = " ".join(options.values())
        print(
            f"{given.method} {name:14} {statistics.median(own):6.3f} s   "
            f"{statistics.median(ratios):.3f} of plain gradients"
        )


if __name__ == "__main__":
    main()
