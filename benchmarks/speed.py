"""Measure the speed of attribution and of masked runs, in forward passes of the bare model.

    python benchmarks/speed.py [--model smollm2-135m | gpt2-small-shape] [--threads 2] [--pairs 8]

Everything is timed in one process with one thread count, in rounds that alternate with the bare
forward pass, so that a busy machine slows both. A figure is the median over rounds of
(time of the work) / (time of one Hugging Face forward pass of the same batch of clean prompts).
`processor` counts processor seconds of all threads in place of the wall clock.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from edgewise.discovery.registry import get_method
from edgewise.graphs.circuit import Circuit
from edgewise.graphs.lift.lifting import describe
from edgewise.graphs.load.loading import load
from edgewise.patching.prompts.pairs import Pair, PromptPairs
from edgewise.patching.run.runner import Runner
from edgewise.patching.tasks import make_task


def subject(name: str, pairs: int) -> tuple[Any, PromptPairs]:
    """Return a model and prompt pairs."""
    if name == "gpt2-small-shape":
        from transformers import GPT2Config, GPT2LMHeadModel

        torch.manual_seed(0)
        model = GPT2LMHeadModel(GPT2Config()).eval()
        return model, make_task(
            "induction", vocab_size=50257, examples=pairs, period=8, repeat=7
        ).pairs
    loaded = load(name)
    return loaded.model, make_task(
        "ioi", tokenizer=loaded.tokenizer, examples=pairs, length=14
    ).pairs


def worst_case(pairs: PromptPairs) -> PromptPairs:
    """Make the first tokens differ, so that no position can be left out."""
    return PromptPairs(
        tuple(
            Pair(p.clean, (p.clean[0] + 1, *p.corrupted[1:]), p.answers, p.distractors)
            for p in pairs
        ),
        name=f"{pairs.name}, first token differs",
    )


def measure(works: dict[str, Callable[[], Any]], rounds: int, clock: Callable[[], float]) -> None:
    """Time each work beside the first one, `forward`, and print ratios."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        work()
    for _ in range(rounds):
        for name, work in works.items():
            start = clock()
            work()
            times[name].append(clock() - start)
    base = times["forward"]
    print(f"forward pass: {statistics.median(base):.3f} s")
    for name, taken in times.items():
        ratios = [t / f for t, f in zip(taken, base, strict=True)]
        print(f"  {name:44s} {statistics.median(ratios):7.2f} forwards  (min {min(ratios):.2f})")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clock", choices=["wall", "processor"], default="wall")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model, pairs = subject(options.model, options.pairs)
    lifted = describe(model)
    batch = pairs.batch()
    after_load = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    works: dict[str, Callable[[], Any]] = {}

    @torch.no_grad()
    def forward() -> None:
        model(input_ids=batch.clean, attention_mask=batch.mask.long(), use_cache=False)

    works["forward"] = forward
    for kind in (pairs, worst_case(pairs)):
        for name, settings in (("eap", {}), ("eap-ig", {"steps": 5})):
            works[f"{name} ({kind.name})"] = lambda n=name, k=kind, o=settings: get_method(n)(
                Runner.create(lifted, k), **o
            )
    runner = Runner.create(lifted, pairs)
    scores = get_method("eap")(runner).scores
    for share in (1.0, 0.5, 0.1, 0.01, 0.001):
        circuit: Circuit = scores.top(round(share * lifted.graph.edge_count))
        works[f"masked run, {share:.1%} of the edges"] = lambda c=circuit: runner.loss(c)
    length = batch.clean.shape[1]
    print(f"{options.model}, {len(pairs)} pairs of {length} tokens, {options.threads} threads")
    measure(
        works, options.rounds, time.perf_counter if options.clock == "wall" else time.process_time
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"peak memory {peak:.2f} GB ({after_load:.2f} GB after loading)")


if __name__ == "__main__":
    main()
