"""Compare circuits of `refine` with the edges of largest EAP-IG score, at equal size.

    python benchmarks/refine.py [--model smollm2-135m] [--task ioi] [--pairs 8] [--edges 50 100]

Both choose edges on the same prompt pairs, by KL divergence. They are measured on these pairs and
on as many others (another seed) that neither has seen. Prints one Markdown row for each size.
"""

from __future__ import annotations

import argparse
import time

import torch

from edgewise.discovery.evaluation import measure
from edgewise.discovery.registry import get_method
from edgewise.graphs.circuit import Circuit
from edgewise.graphs.lift.lifting import describe
from edgewise.graphs.load.loading import load
from edgewise.patching.run.runner import Runner
from edgewise.patching.tasks import make_task

COLUMNS = (
    "edges", "KL, top EAP-IG", "KL, refine", "f, top EAP-IG", "f, refine",
    "others: f, top EAP-IG", "others: f, refine", "questions", "seconds",
)  # fmt: skip


def measured(runner: Runner, circuit: Circuit) -> tuple[float, float]:
    """Return a circuit's loss and faithfulness."""
    found = measure(runner, circuit)
    assert found.faithfulness is not None
    return found.loss_circuit, found.faithfulness


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--task", default="ioi")
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--metric", default="kl")
    parser.add_argument("--edges", type=int, nargs="+", default=[50, 100, 200, 500])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    loaded = load(options.model)
    lifted = describe(loaded.model)
    runner, others = (
        Runner.create(
            lifted,
            make_task(
                options.task, tokenizer=loaded.tokenizer, examples=options.pairs, seed=seed
            ).pairs,
            metric=options.metric,
        )
        for seed in (0, 1)
    )
    scores = get_method("eap-ig")(runner).scores
    print("|", " | ".join(COLUMNS), "|")
    print("|", " | ".join(["---"] * len(COLUMNS)), "|")
    for n in options.edges:
        start = time.perf_counter()
        found = get_method("refine")(runner, edges=n, start=scores)
        seconds = time.perf_counter() - start
        assert found.circuit is not None
        plain, ours = (measured(runner, c) for c in (scores.top(n), found.circuit))
        unseen = [measured(others, c)[1] for c in (scores.top(n), found.circuit)]
        values = (plain[0], ours[0], plain[1], ours[1], *unseen)
        cells = [f"{len(found.circuit)}", *(f"{value:.3f}" for value in values)]
        print("|", " | ".join([*cells, f"{found.questions:,}", f"{seconds:.0f}"]), "|", flush=True)


if __name__ == "__main__":
    main()
