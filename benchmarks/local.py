"""Measure scores with owners recomputed, and screening: their time, and how near exact they are.

    OMP_NUM_THREADS=1 python benchmarks/local.py [--rounds 3] [--exact 300]

Processor seconds of this process; the forward pass, of the same batch of clean prompts with the
original transformers model, is timed before each piece of work. Each method gets a runner of its
own, so that the clean and corrupted runs are part of its time. With `--exact N` the exact effects
of some edges are asked for: the N of largest absolute score by each method, and N drawn from the
others, which stand for all of them.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from edgewise.discovery.measures.leaving_out import single_questions
from edgewise.discovery.registry import get_method
from edgewise.graphs.lift.lifting import describe
from edgewise.graphs.load.loading import load
from edgewise.patching.incremental.search import make_search
from edgewise.patching.run.runner import Runner
from edgewise.patching.tasks import make_task

WORK: dict[str, tuple[str, dict[str, Any]]] = {
    "eap": ("eap", {}),
    "eap-ig": ("eap-ig", {}),
    "eap --local": ("eap", {"local": True}),
    "clean-corrupted --local": ("clean-corrupted", {"local": True}),
    "eap-ig --local": ("eap-ig", {"local": True}),
    "screen": ("screen", {}),
    "conductance": ("conductance", {}),
    "information-flow-routes": ("information-flow-routes", {}),
}


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the processor seconds that some work takes, and what it gives."""
    begun = time.process_time()
    found = work()
    return time.process_time() - begun, found


def exactly(runner: Runner, among: np.ndarray) -> np.ndarray:
    """Return the exact effects of some edges, NaN elsewhere."""
    search, values = make_search(runner), np.full(among.shape, np.nan)
    full = search.loss.value()
    for row, senders, single in single_questions(search, runner.graph, among):
        values[row, senders] = search.ask((row,), single).values() - full
    return values


def correlation(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> float:
    """Return Pearson's correlation of weighted values."""
    x, y = (v - np.average(v, weights=weights) for v in (x, y))
    both = np.average(x * y, weights=weights)
    sizes = (np.average(v**2, weights=weights) for v in (x, y))
    return float(both / np.sqrt(np.prod([*sizes])))


def compare(runner: Runner, scores: dict[str, np.ndarray], number: int) -> None:
    """Print how far each method's scores are from exact effects."""
    reads = runner.graph.reads
    every = {name: values[reads] for name, values in scores.items()}
    top = np.zeros(runner.graph.edge_count, dtype=bool)
    for values in every.values():
        top[np.argsort(-np.abs(values), kind="stable")[:number]] = True
    rest = np.flatnonzero(~top)
    drawn = np.random.default_rng(0).choice(rest, min(number, len(rest)), replace=False)
    asked = top.copy()
    asked[drawn] = True
    among = np.zeros_like(reads)
    among[reads] = asked
    exact = exactly(runner, among)[reads][asked]
    weights = np.where(top[asked], 1.0, len(rest) / len(drawn))
    largest = np.arange(len(exact)) == np.abs(exact).argmax()
    print(f"{len(exact)} edges measured, {int(top.sum())} of them leading by some method")
    for name, values in every.items():
        found = values[asked]
        with_all = correlation(found, exact, weights)
        without = correlation(found[~largest], exact[~largest], weights[~largest])
        ranks = [np.argsort(np.argsort(v[~top[asked]])) for v in (found, exact)]
        order = float(np.corrcoef(ranks)[0, 1])
        signs = float((np.sign(found) == np.sign(exact))[top[asked]].mean())
        print(
            f"{name:24} Pearson {with_all:.3f}, without the largest {without:.3f}, "
            f"Spearman of drawn edges {order:.3f}, sign of leading edges {signs:.3f}"
        )


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--exact", type=int, default=0)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--corruption", default="third-name")
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--length", type=int, default=14)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    loaded = load(asked.model)
    options = {"length": asked.length, "corruption": asked.corruption}
    pairs = make_task("ioi", tokenizer=loaded.tokenizer, examples=asked.pairs, **options).pairs
    lifted, batch = describe(loaded.model), pairs.batch()

    def forward() -> None:
        with torch.no_grad():
            loaded.model(input_ids=batch.clean, attention_mask=batch.mask.long(), use_cache=False)

    def score(name: str) -> np.ndarray:
        method, given = WORK[name]
        runner = Runner.create(lifted, pairs, metric="logit_diff", engine="torch")
        found: np.ndarray = get_method(method)(runner, **given).scores.values
        return found

    forward()
    passes: list[float] = []
    times: dict[str, list[float]] = {name: [] for name in WORK}
    scores: dict[str, np.ndarray] = {}
    for _ in range(asked.rounds):
        for name in WORK:
            passes += [timed(forward)[0] for _ in range(3)]
            seconds, scores[name] = timed(lambda name=name: score(name))  # type: ignore[misc]
            times[name].append(seconds)
    one = statistics.median(passes)
    print(f"forward pass {one:.3f} processor seconds, {asked.threads} thread(s)")
    for name, seconds in times.items():
        middle = statistics.median(seconds)
        print(f"{name:24} {middle:6.2f} s = {middle / one:5.1f} forward passes")
    if asked.exact:
        compare(Runner.create(lifted, pairs, metric="logit_diff"), scores, asked.exact)


if __name__ == "__main__":
    main()
