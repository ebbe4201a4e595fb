"""Compare ways to choose a circuit of all edges' scores, over all built-in tasks.

    python benchmarks/selection.py [--model smollm2-135m] [--pairs 64] [--test 64] [--tasks ioi]
        [--default-only | --greedy 100 200 500]

Scores are those of the default method. Every circuit is measured on as many pairs that were not
seen. Sizes: 200 edges by |score|, by score, and by score on ways from the embedding to the logits;
the fewest that reach .9 in the sample, by |score| and by score on ways; and those that a discovery
keeps if nothing is said (`Selection.usual`). With --greedy, at given sizes: edges by score and by
|score|, as they are, on ways alone, joining greedily from the logits back, and both. Prints one
Markdown row for each task and way: edges, faithfulness in the sample, and held out with its 95%
interval.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

import torch

from edgewise.discovery.registry import Discovery, scoring_method
from edgewise.discovery.smallest import least_size
from edgewise.discovery.uncertainty.bootstrap import Estimate, faithfulness_estimate
from edgewise.experiment.spec import Selection
from edgewise.experiment.task import TaskSpec
from edgewise.graphs.circuit import Circuit
from edgewise.graphs.example_scores import clusters_of
from edgewise.patching.run.runner import Runner
from edgewise.patching.tasks import TASKS
from edgewise.session import make_runner, open_model, open_split
from edgewise.steps.found.selection import selected

MOST = 1 << 14  # edges of a size that is looked for in the sample


def measured(runner: Runner, circuit: Circuit) -> Estimate:
    """Estimate a circuit's faithfulness on a runner's pairs."""
    graph = runner.graph
    full, kept, empty = runner.measure_each([Circuit.full(graph), circuit, Circuit.empty(graph)])[0]
    clusters = clusters_of(runner.pairs.groups)
    return faithfulness_estimate(full, kept, empty, clusters, runner.floor)


def ways(
    runner: Runner, found: Discovery, *, default_only: bool
) -> Iterator[tuple[str, Circuit | None]]:
    """Yield names of ways to choose, and the circuits; None where more than `MOST` are needed."""
    yield "by default", selected(runner, found, Selection.usual()).circuit
    if default_only:
        return
    for name, how in (
        ("top 200, absolute", Selection(top=200)),
        ("top 200, signed", Selection(top=200, signed=True)),
        ("top 200, signed, connected", Selection(top=200, signed=True, connected=True)),
    ):
        yield name, selected(runner, found, how).circuit
    for name, absolute, connected in (
        (".9 in sample, absolute", True, False),
        (".9 in sample, signed, connected", False, True),
    ):

        def top(k: int, absolute: bool = absolute, connected: bool = connected) -> Circuit:
            circuit = found.scores.top(k, absolute=absolute)
            return circuit.prune_dangling() if connected else circuit

        def reached(k: int) -> bool:
            value = measured(runner, top(k)).value
            return value is not None and value >= 0.9

        size = least_size(reached, MOST)
        yield name, top(size) if size < MOST else None


def joining(
    runner: Runner, found: Discovery, sizes: list[int]
) -> Iterator[tuple[str, Circuit | None]]:
    """Yield names of ways to choose so many edges, and the circuits."""
    for signed in (True, False):
        for size in sizes:
            for greedy, connected in ((False, False), (False, True), (True, False), (True, True)):
                how = Selection(top=size, signed=signed, greedy=greedy, connected=connected)
                name = [*["signed"] * signed, *["greedy"] * greedy, *["on ways"] * connected]
                circuit = selected(runner, found, how).circuit
                yield f"top {size} {', '.join(name) or 'absolute'}", circuit


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--test", type=int)
    parser.add_argument("--task-options", default="", help="such as length=14")
    parser.add_argument("--default-only", action="store_true")
    parser.add_argument("--greedy", nargs="+", type=int, default=[])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    session = open_model(options.model)
    print("| task | way | edges | in sample | held out | 95% interval |")
    print("| --- | --- | --- | --- | --- | --- |")
    for task in options.tasks:
        start = time.perf_counter()
        own = dict(one.split("=") for one in options.task_options.split())
        settings = {key: int(x) if x.isdecimal() else x for key, x in own.items()}
        asked = TaskSpec(task, examples=options.pairs, test=options.test, options=settings)
        split = open_split(session, asked)
        runner = make_runner(session, split.discovery)
        others = make_runner(session, split.test or split.discovery)
        found = scoring_method()(runner, per_example=True)
        chosen = ways(runner, found, default_only=options.default_only)
        if options.greedy:
            chosen = joining(runner, found, options.greedy)
        for name, circuit in chosen:
            if circuit is None:
                print(f"| {task} | {name} | over {MOST:,} | | | |", flush=True)
                continue
            here, there = measured(runner, circuit), measured(others, circuit)
            ends = "" if there.interval is None else "{:.2f} to {:.2f}".format(*there.interval)
            values = ["undefined" if x.value is None else f"{x.value:.2f}" for x in (here, there)]
            cells = [task, name, f"{len(circuit):,}", *values, ends]
            print("|", " | ".join(cells), "|", flush=True)
        pairs = f"{len(runner.pairs)} pairs, {len(others.pairs)} held out"
        print(f"<!-- {task}: {pairs}, {time.perf_counter() - start:.0f} s -->", flush=True)


if __name__ == "__main__":
    main()
