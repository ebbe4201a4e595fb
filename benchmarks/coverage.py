"""How often does a 95% interval of faithfulness cover the true value?

    python benchmarks/coverage.py                      # planted data, and a tiny random model
    python benchmarks/coverage.py --model smollm2-135m --task ioi --pairs 256

Each row draws pairs, or whole groups of pairs, 500 times and makes an interval each time. Planted
data has a known truth. Of a model, what a circuit measures on each of many pairs is the population,
from which pairs are drawn with replacement: its ratio of means is the truth.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

import numpy as np

from edgewise.discovery.uncertainty.bootstrap import faithfulness_estimate
from edgewise.workflow import Selection, discover, make_runner, open_model, open_split, open_task

Draw = Callable[[np.random.Generator], np.ndarray]


def planted(clusters: int, size: int, skewed: bool) -> tuple[Draw, float]:
    """Return what draws full, circuit and empty, [3, examples], and the true faithfulness.

    Groups have an effect of their own. Skewed: the circuit keeps a share of .3 to .8 of an effect
    that is log-normal.
    """

    def draw(rng: np.random.Generator) -> np.ndarray:
        own = rng.normal(size=(clusters, 1)) if size > 1 else np.zeros((clusters, 1))
        x, y, z = rng.normal(size=(3, clusters, size))
        if skewed:
            effect, empty = np.exp(0.8 * x + 0.5 * own), 0.3 * np.exp(0.5 * y)
            found = empty + effect, empty + effect * (0.3 + 0.5 / (1 + np.exp(-1.5 * z))), empty
        else:
            full, empty = 3 + 1.5 * (0.7 * x + 0.7 * own), -1 + 0.7 * y + 0.7 * own
            found = full, 0.8 * full + 0.2 * empty + 0.8 * z, empty
        return np.stack(found).reshape(3, -1)

    return draw, 0.55 if skewed else 0.8


def from_population(values: np.ndarray, groups: np.ndarray, clusters: int, size: int) -> Draw:
    """Return what draws from a population [3, n]: pairs (size 1), or groups and pairs of each."""
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]

    def draw(rng: np.random.Generator) -> np.ndarray:
        if size == 1:
            return values[:, rng.integers(values.shape[1], size=clusters)]
        chosen = rng.integers(len(members), size=clusters)
        return values[:, np.concatenate([rng.choice(members[i], size) for i in chosen])]

    return draw


def truth_of(values: np.ndarray, groups: np.ndarray, grouped: bool) -> float:
    """Return a population's faithfulness; of drawn groups, all count alike."""
    means = values.mean(1)
    if grouped:
        means = np.mean([values[:, groups == group].mean(1) for group in np.unique(groups)], 0)
    return float((means[1] - means[2]) / (means[0] - means[2]))


def covered(draw: Draw, truth: float, clusters: np.ndarray, repetitions: int) -> tuple[float, int]:
    """Return the share of intervals that cover the truth, and in how many draws there is none."""
    hits = undefined = 0
    for repetition in range(repetitions):
        found = faithfulness_estimate(*draw(np.random.default_rng(repetition)), clusters)
        undefined += found.value is None
        hits += found.low <= truth <= found.high
    return hits / max(1, repetitions - undefined), undefined


DESIGNS = ((64, 1), (32, 1), (12, 1), (6, 8), (12, 5), (20, 3))
"""So many groups of so many pairs; of one pair: no groups."""


def planted_rows(repetitions: int) -> Iterator[tuple[str, int, int, float, int]]:
    """Yield what is drawn, groups, pairs of each, coverage, and undefined draws."""
    for skewed in (False, True):
        for clusters, size in DESIGNS:
            draw, truth = planted(clusters, size, skewed)
            labels = np.repeat(np.arange(clusters), size)
            what = f"planted, {'skewed' if skewed else 'normal'}"
            yield what, clusters, size, *covered(draw, truth, labels, repetitions)


def model_rows(
    what: str, values: np.ndarray, groups: np.ndarray, repetitions: int
) -> Iterator[tuple[str, int, int, float, int]]:
    """Yield the same of a population of pairs."""
    for clusters, size in DESIGNS:
        draw = from_population(values, groups, clusters, size)
        truth = truth_of(values, groups, grouped=size > 1)
        labels = np.repeat(np.arange(clusters), size)
        yield what, clusters, size, *covered(draw, truth, labels, repetitions)


def measured(model: str, task: str, pairs: int, top: int) -> tuple[np.ndarray, np.ndarray]:
    """Measure full, circuit and empty on each of many held-out pairs, and number their groups."""
    from edgewise import Circuit

    session = open_model(model)
    split = open_split(session, task, examples=32, test=pairs)
    found = discover(
        session, split.discovery, method="eap-ig", select=Selection(top=top, signed=True)
    )
    assert split.test is not None
    runner, circuit = make_runner(session, split.test), found.file.circuit
    ends = Circuit.full(circuit.graph), circuit, Circuit.empty(circuit.graph)
    groups = np.unique([pair.group for pair in split.test], return_inverse=True)[1]
    return runner.measure_each(ends)[0], groups


def tiny(pairs: int) -> tuple[np.ndarray, np.ndarray]:
    """Measure the same of a tiny random model by the KL divergence; a group is a first token."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from edgewise import Circuit

    torch.manual_seed(0)
    shape = {"vocab_size": 31, "n_positions": 24, "n_embd": 16, "n_layer": 2, "n_head": 2}
    model = GPT2LMHeadModel(GPT2Config(**shape, initializer_range=0.4)).eval()
    session = open_model(model)
    made, _ = open_task(session, "induction", examples=pairs)
    runner = make_runner(session, made, metric="kl")
    found = discover(session, open_task(session, "induction", examples=16)[0], method="eap",
                     select=Selection(top=30))  # fmt: skip
    circuit = found.file.circuit
    ends = Circuit.full(circuit.graph), circuit, Circuit.empty(circuit.graph)
    return runner.measure_each(ends)[0], np.array([pair.clean[0] for pair in made])


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repetitions", type=int, default=500)
    parser.add_argument("--model")
    parser.add_argument("--task", default="ioi")
    parser.add_argument("--pairs", type=int, default=256)
    parser.add_argument("--top", type=int, default=200)
    given = parser.parse_args()
    if given.model is None:
        rows = [*planted_rows(given.repetitions)]
        rows += model_rows("tiny random model, kl", *tiny(2000), given.repetitions)
    else:
        found = measured(given.model, given.task, given.pairs, given.top)
        rows = [*model_rows(f"{given.model}, {given.task}", *found, given.repetitions)]
    print("| drawn from | groups | pairs of each | covered | undefined |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for what, clusters, size, share, undefined in rows:
        of = "–" if size == 1 else clusters
        print(f"| {what} | {of} | {size * clusters if size == 1 else size} "
              f"| {share:.1%} | {undefined} |")  # fmt: skip


if __name__ == "__main__":
    main()
