"""Measure what the paired comparison finds where the truth is known, and where nothing changed.

    OMP_NUM_THREADS=1 python benchmarks/paired.py induction [--runs 400]
    OMP_NUM_THREADS=1 python benchmarks/paired.py tuned ADAPTER EARLIER [--task FILE]

`induction`: the trained model of examples/induction (step 1,000), with one head's output scaled.
Every run has prompts of its own. Printed is the share of runs in which any edge is found, by the
test that `edgewise diff` does.
`tuned`: SmolLM2-135M against an adapter and one of its checkpoints (`examples/fine_tune.py
--save-at 30`), on held-out prompts: how many of the largest changes are found, whether two halves
of the prompts and two checkpoints agree, and the controls.
"""

from __future__ import annotations

import argparse
import copy
import random
from pathlib import Path
from typing import Any

import numpy as np

from edgewise.discovery.uncertainty.paired import (
    PairedTest,
    independent,
    paired_test,
    unpaired_test,
)
from edgewise.experiment.spec import SHARE, ComputeSpec, DiscoverySpec
from edgewise.patching.prompts.pairs import Pair, PromptPairs
from edgewise.session import Session, open_model, open_task
from edgewise.steps.comparison.scored import ScoredModel, score_model

SCORING = DiscoverySpec("eap-ig", metric="logit_diff")
CHECKPOINTS = Path(__file__).parents[1] / "examples/induction/checkpoints"
LARGEST = 50


def induction_pairs(count: int, seed: int, vocabulary: int = 128) -> PromptPairs:
    """Make pairs as examples/induction/pairs.py does."""
    draw, pairs = random.Random(seed), []
    for _ in range(count):
        period = draw.randint(8, 22)
        tokens = draw.sample(range(1, vocabulary), period)
        key, other = draw.sample(range(1, period - 1), 2)
        while abs(key - other) < 2:
            key, other = draw.sample(range(1, period - 1), 2)
        swapped = list(tokens)
        swapped[key], swapped[other] = tokens[other], tokens[key]
        clean, corrupted = ((0, *first, *tokens[: key + 1]) for first in (tokens, swapped))
        pairs.append(Pair(clean, corrupted, (tokens[key + 1],), (tokens[other + 1],)))
    return PromptPairs(tuple(pairs), name="induction", seed=seed)


def scaled(model: Any, layer: int, head: int, factor: float) -> Session:
    """Open a copy of the model one of whose heads writes so many times what it did."""
    copied = copy.deepcopy(model)
    width = copied.config.n_embd // copied.config.n_head
    weight = copied.transformer.h[layer].attn.c_proj.weight
    weight.data[head * width : (head + 1) * width] *= factor
    return open_model(copied)


def scored(session: Session, pairs: PromptPairs, *, rounded: bool = False) -> ScoredModel:
    """Score every edge of a model on each of the pairs."""
    return score_model(session, pairs, SCORING, rounded=rounded, compute=ComputeSpec())


def delta_of(*models: ScoredModel) -> float:
    """Return the smallest change that matters."""
    return SHARE * max(abs(one.full - one.empty) for one in models)


def heads_that_matter(base: Session, pairs: PromptPairs) -> tuple[str, str]:
    """Name the second layer's head of most, and of least, effect on the logits."""
    found = scored(base, pairs).scores.mean()
    sizes = {name: abs(found[f"{name}->logits"]) for name in (f"a1.h{h}" for h in range(4))}
    return max(sizes, key=sizes.__getitem__), min(sizes, key=sizes.__getitem__)


def induction(runs: int, examples: int = 32) -> dict[str, float]:
    """Return, for each change, the share of runs in which any edge is found."""
    base = open_model(str(CHECKPOINTS / "checkpoint-1000"))
    main, idle = heads_that_matter(base, induction_pairs(64, 0))
    pairs = induction_pairs(2 * runs * examples, 1)
    first = PromptPairs(pairs.pairs[: runs * examples], name="induction", seed=1)
    whole = scored(base, pairs)
    values, delta = whole.scores.values, delta_of(whole)
    print(f"{base.graph.edge_count} edges; behaviour {delta / SHARE:.2f} logits; main {main}, "
          f"without function {idle}")  # fmt: skip
    found: dict[str, float] = {}

    def tell(name: str, counts: list[int]) -> None:
        share = float(np.mean([count > 0 for count in counts]))
        found[name] = share
        mean = f"{np.mean(counts):.2f} on average"
        print(f"{name:<28} any edge in {share:.4f} of {runs} runs, {mean}", flush=True)

    parts = [slice(i * examples, (i + 1) * examples) for i in range(2 * runs)]
    tell("same model, other prompts", [
        int(unpaired_test(values[a], values[b], delta=delta).changed.sum())
        for a, b in zip(parts[::2], parts[1::2], strict=True)
    ])  # fmt: skip
    for head, factor in ((main, 0.9), (main, 0.5), (main, 0.0), (idle, 0.0)):
        layer, number = int(head[1]), int(head[4:])
        other = scored(scaled(base.loaded.model, layer, number, factor), first).scores.values
        tell(f"{head} times {factor:g}", [
            int(paired_test(values[part], other[part], delta=delta).changed.sum())
            for part in parts[:runs]
        ])  # fmt: skip
    return found


def alike(a: np.ndarray, b: np.ndarray) -> float:
    """Return the Jaccard index of two sets of edges."""
    return float((a & b).sum() / max(1, (a | b).sum()))


def halvings(examples: int, random: int = 10) -> list[list[np.ndarray]]:
    """Cut examples in two: the first and the last, and at random."""
    draw, half = np.random.default_rng(1), examples // 2
    orders = [np.arange(examples), *(draw.permutation(examples) for _ in range(random))]
    return [[order[:half], order[half:]] for order in orders]


def tuned(adapter: str, earlier: str, task: str, examples: int) -> None:
    """Compare the base with an adapter and one of its checkpoints."""
    found: dict[str, ScoredModel] = {}
    pairs: PromptPairs | None = None
    for name, reference in (("base", "smollm2-135m"), ("tuned", adapter), ("earlier", earlier)):
        session = open_model(reference)
        pairs = pairs or open_task(session, task, examples=examples, seed=7)[0]
        found[name] = scored(session, pairs, rounded=name == "tuned")
    base, last, before = found["base"], found["tuned"], found["earlier"]
    a, b, c = (one.scores.values for one in (base, last, before))
    clusters, delta = independent(base.scores.clusters), delta_of(base, last)
    groups = len(set(clusters.tolist()))
    print(f"{len(a)} prompts, {groups} clusters; {base.full:.2f}, {last.full:.2f}; δ {delta:.3f}")

    def test(x: np.ndarray, y: np.ndarray, rows: Any = slice(None)) -> PairedTest:
        return paired_test(x[rows], y[rows], clusters[rows], delta=delta)

    full, step = test(a, b), test(a, c)
    largest = np.argsort(-np.abs(full.change))[:LARGEST]
    count = full.changed[largest].sum()
    print(f"changed: {full.changed.sum()}; of the {LARGEST} largest changes {count}")
    shared, null, equal = [], 0, True
    for first, second in halvings(len(a)):
        one, other = test(a, b, first), test(a, b, second)
        either = one.changed | other.changed
        equal &= bool((np.sign(one.change[either]) == np.sign(other.change[either])).all())
        shared.append(alike(one.changed, other.changed))
        for x in (a, b):
            sides = clusters[first], clusters[second]
            null += int(unpaired_test(x[first], x[second], sides, delta=delta).changed.sum())
        if len(shared) == 1:
            print(f"first and second half: {one.changed.sum()} and {other.changed.sum()} edges, ")
    drawn = shared[1:]
    print(f"Jaccard {shared[0]:.2f}; of {len(drawn)} random halvings {np.mean(drawn):.2f} "
          f"({min(drawn):.2f} to {max(drawn):.2f}); signs all equal: {equal}")  # fmt: skip
    print(f"edges that change from one half to the other, all halvings, both models: {null}")
    print(f"earlier: {step.changed.sum()}, Jaccard {alike(full.changed, step.changed):.2f}")
    assert last.rounded is not None
    print(f"rounded weights: {test(b, last.rounded.values).changed.sum()}")
    for share in (0.5, 0.9, 0.99, 1.0):
        print(f"detectable in {share:.0%} of all edges: {np.quantile(full.detectable, share):.3f}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("induction", "tuned"))
    parser.add_argument("models", nargs="*")
    parser.add_argument("--runs", type=int, default=400)
    parser.add_argument("--task", default="entity-tracking")
    parser.add_argument("--examples", type=int, default=64)
    given = parser.parse_args()
    if given.what == "induction":
        induction(given.runs)
    else:
        tuned(*given.models, given.task, given.examples)


if __name__ == "__main__":
    main()
