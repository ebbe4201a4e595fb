"""Measure circuits of many sizes, and how alike circuits of other prompts are. Run by hand.

    python benchmarks/fine_tuned.py FOLDER [sizes] [ioi] [alike]
FOLDER: of the experiment of examples/fine-tuned. `sizes`: each model's strongest edges by its
own scores, on its held-out pairs (20 processor minutes); `ioi`: circuits for another task (15);
`alike`: 8 discoveries on 32 new pairs each, in either model (10).
"""

import sys
from itertools import combinations, product
from pathlib import Path

import numpy as np

from edgewise import Selection, open_model, open_split, read_scores
from edgewise.discovery.evaluation import evaluate_by
from edgewise.graphs.circuit import Circuit
from edgewise.patching.metrics.functions import as_metric
from edgewise.workflow import discover, make_runner

SOURCES = {
    "base": "smollm2-135m",
    "tuned": str(Path(__file__).parents[1] / "examples/adapters/entity-tracking"),
}
METRICS = [as_metric(name) for name in ("logit_diff", "kl", "accuracy")]


def scores_of(session, pairs):
    """Score every edge as the experiment does."""
    return discover(session, pairs, method="eap-ig", select=Selection(top=200)).scores.scores


def measure(session, pairs, scores, circuits):
    """Print what circuits keep of the behaviour, with 95% intervals over prompts."""
    runner = make_runner(session, pairs)
    for name, circuit in circuits.items():
        difference, kl, accuracy = evaluate_by(runner, circuit, METRICS)
        told = [
            f"{one.value:.2f} [{one.low:.2f}, {one.high:.2f}]" if one.interval else "undefined"
            for one in (found.estimate("faithfulness") for found in (difference, kl))
        ]
        negative = (scores.values[circuit.kept] < 0).mean()
        print(
            f"{name:24} {len(circuit):6,} edges, {negative:3.0%} negative; logit_diff "
            f"{difference.value_circuit:6.2f} of {difference.value_full:.2f}: {told[0]}; "
            f"kl {told[1]}; accuracy {accuracy.value_circuit:.2f}",
            flush=True,
        )


def sizes(folder):
    """Measure each model's strongest edges, by score and by |score|."""
    for name, source in SOURCES.items():
        session = open_model(source)
        pairs = open_split(session, "entity-tracking", examples=64).test
        scores = read_scores(folder / "circuits" / f"{name}.json").scores
        print(f"\n{name}, its own strongest edges, on held-out pairs:")
        how = product((100, 200, 500, 1000, 2000, 4000), ("absolute", "signed"))
        circuits = {f"{k} {size:,}": scores.top(size, absolute=k == "absolute") for size, k in how}
        measure(session, pairs, scores, circuits)


def ioi():
    """Measure circuits of 2,500 edges for another task in the tuned model, also the base's."""
    scores = {}
    for name, source in SOURCES.items():
        session = open_model(source)
        split = open_split(session, "ioi", examples=64)
        scores[name] = scores_of(session, split.discovery)
    tuned, positive = scores["tuned"], scores["tuned"].values > 0
    own, other = tuned.top(2500), scores["base"].top(2500)
    print("\nioi, in the tuned model, on held-out pairs:")
    circuits = {
        "tuned's own, absolute": own,
        "of these, the positive": Circuit(own.graph, own.kept & positive),
        "of these, the negative": Circuit(own.graph, own.kept & ~positive),
        "base's, absolute": other,
        "both together": Circuit(own.graph, own.kept | other.kept),
        "tuned's own, signed 500": tuned.top(500, absolute=False),
        "tuned's own, signed 132": tuned.top(132, absolute=False),
    }
    measure(session, split.test, tuned, circuits)


def jaccard(a, b):
    """Return shared edges over edges of either."""
    return len(a & b) / len(a | b)


def alike():
    """Repeat the discovery on new pairs; compare two circuits of a model, and one of each."""
    found = {}
    for first, (name, source) in zip((1, 9), SOURCES.items(), strict=True):
        session = open_model(source)
        found[name] = []
        for seed in range(first, first + 8):
            pairs = open_split(session, "entity-tracking", examples=32, seed=seed, test=0)
            found[name].append(scores_of(session, pairs.discovery))
    print("\nmean Jaccard index (least to most) of circuits on 8 x 32 pairs:")
    for size, how in product((50, 200, 1000, 4000), ("absolute", "signed")):
        base, tuned = (
            [scores.top(size, absolute=how == "absolute") for scores in found[name]]
            for name in SOURCES
        )
        both = [jaccard(*pair) for pair in product(base, tuned)]
        own = [[jaccard(*x) for x in combinations(y, 2)] for y in (base, tuned)]
        told = (f"{np.mean(x):.2f} ({min(x):.2f}-{max(x):.2f})" for x in (*own, both))
        print(f"{how:8} {size:5,}  two of base {{}}, of tuned {{}}, one of each {{}}".format(*told))
        if (how, size) == ("signed", 200):
            every = [np.logical_and.reduce([one.kept for one in own]) for own in (base, tuned)]
            some = [np.logical_or.reduce([one.kept for one in own]) for own in (base, tuned)]
            for words, kept in {
                "in all 16": every[0] & every[1],
                "in all of base's and none of tuned's": every[0] & ~some[1],
                "in all of tuned's and none of base's": every[1] & ~some[0],
            }.items():
                edges = list(Circuit(base[0].graph, kept).edges)
                print(f"  {len(edges)} {words}: {' '.join(map(str, edges))}")


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "fine-tuned")
    for part in sys.argv[2:] or ("sizes", "ioi", "alike"):
        sizes(folder) if part == "sizes" else {"ioi": ioi, "alike": alike}[part]()
