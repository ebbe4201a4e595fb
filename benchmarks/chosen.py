"""Measure the exact effects of chosen edges: their time, in forward passes of the bare model.

    OMP_NUM_THREADS=1 python benchmarks/chosen.py [--task ioi] [--share 1]

The edges: all into `logits` and MLPs, 2,500 drawn of each of queries, keys and values, the union of
the top 1,000 of several methods, and others drawn until there are 15,000. With `--share`
only the edges of every so many ports are asked about (1 of 10: `--share 10`), which stand for all.

Processor seconds of this process. The forward pass, of the same batch of clean prompts with the
original transformers model, is timed again and again between pieces of the work.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import torch

from edgewise.discovery.measures.leaving_out import single_questions
from edgewise.discovery.registry import get_method
from edgewise.graphs.lift.lifting import describe
from edgewise.graphs.load.loading import load
from edgewise.graphs.scores import Scores
from edgewise.patching.incremental.search import make_search
from edgewise.patching.run.runner import Runner
from edgewise.patching.tasks import make_task

DRAWN, LEADING, EDGES = 2500, 1000, 15_000
METHODS = (("eap", {}), ("eap-ig", {}), ("eap", {"rule": "relp"}), ("eap", {"rule": "gim"}),
           ("clean-corrupted", {}), ("eap", {"local": True}), ("conductance", {}))  # fmt: skip


def chosen(runner: Runner) -> np.ndarray:
    """Choose edges as the study did, bool [ports, senders]."""
    graph, rng = runner.graph, np.random.default_rng(0)
    kinds = np.array([port.kind for port in graph.ports])
    found = graph.reads & np.isin(kinds, ("logits", "mlp"))[:, None]
    for letter in "qkv":
        places = np.argwhere(graph.reads & (kinds == letter)[:, None])
        drawn = places[rng.choice(len(places), min(DRAWN, len(places)), replace=False)]
        found[drawn[:, 0], drawn[:, 1]] = True
    for name, options in METHODS:
        scores = get_method(name)(runner, **options).scores
        found |= scores.top(LEADING).kept
    rest = np.argwhere(graph.reads & ~found)
    more = rest[rng.choice(len(rest), max(0, EDGES - int(found.sum())), replace=False)]
    found[more[:, 0], more[:, 1]] = True
    return found


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--task", default="ioi")
    parser.add_argument("--length", type=int, default=14)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--share", type=int, default=1)
    parser.add_argument("--edges", default=None, help="a file of numpy's, of an earlier choice")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    loaded = load(asked.model)
    pairs = make_task(
        asked.task, tokenizer=loaded.tokenizer, examples=asked.pairs, length=asked.length
    ).pairs
    lifted, batch = describe(loaded.model), pairs.batch()
    runner = Runner.create(lifted, pairs, metric="logit_diff", engine="torch")

    def forward() -> float:
        begun = time.process_time()
        with torch.no_grad():
            loaded.model(input_ids=batch.clean, attention_mask=batch.mask.long(), use_cache=False)
        return time.process_time() - begun

    if asked.edges is not None:
        try:
            among = np.load(asked.edges)
        except FileNotFoundError:
            np.save(asked.edges, among := chosen(runner))
    else:
        among = chosen(runner)
    print(f"{int(among.sum()):,} edges chosen")
    if asked.share > 1:
        number = np.cumsum(among.any(1)) % asked.share
        among &= (number == 0)[:, None]
    forward()
    passes, seconds = [forward() for _ in range(5)], 0.0
    begun = time.process_time()
    search = make_search(runner)
    full = search.loss.value()
    seconds += time.process_time() - begun
    questions = list(single_questions(search, runner.graph, among))
    values = np.full(among.shape, np.nan)
    for i, (row, senders, single) in enumerate(questions):
        begun = time.process_time()
        values[row, senders] = search.ask((row,), single).values() - full
        seconds += time.process_time() - begun
        if i % 20 == 0:
            passes.append(forward())
    one, asked_about = statistics.median(passes), int(among.sum())
    print(f"forward pass {one:.3f} processor seconds")
    print(f"{asked_about:,} edges: {seconds:.1f} s = {seconds / one:.0f} forward passes, "
          f"{seconds / one / asked_about:.4f} each")  # fmt: skip
    for name, options in METHODS:
        said = " ".join((name, *(f"--{k} {v}" for k, v in options.items())))
        for number in (200, LEADING):
            part = overlap(runner, values, name, options, number)
            print(f"{said:20} {part:.3f} of the exact top {number:,} of the edges measured")


def overlap(
    runner: Runner, values: np.ndarray, name: str, options: dict[str, object], number: int
) -> float:
    """Return which part of the largest exact effects is among a method's largest scores."""
    exact = Scores(runner.graph, values).top(number).kept
    scores = get_method(name)(runner, **options).scores
    return float((exact & scores.top(number).kept).sum() / exact.sum())


if __name__ == "__main__":
    main()
