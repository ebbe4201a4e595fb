"""How much of a behaviour few edges keep on pairs that were not seen, by method and selection.

    OMP_NUM_THREADS=1 python benchmarks/small.py [--tasks ioi greater-than] [--edges 200]
        [--pairs 64] [--test 64] [--ways eap-ig eap-ig:local=true refine:metric=logit_diff]

A way is a method with options, as `edgewise methods --compare` takes them, and `metric=NAME` for
another metric than its own. Of one that scores all edges so many are kept by score, by score on
ways from the embedding to the logits, and by |score|; a search keeps what its options let it.
Every circuit is measured by `logit_diff`. Prints one Markdown row for each: edges, faithfulness in
the sample and held out with its 95% interval, processor seconds.
"""

from __future__ import annotations

import argparse
import time
import warnings

import torch

from edgewise.discovery.evaluation import measure
from edgewise.discovery.registry import get_method
from edgewise.experiment.spec import Selection
from edgewise.experiment.task import TaskSpec
from edgewise.session import make_runner, open_model, open_split
from edgewise.steps.claims.asked import AskedMethod
from edgewise.steps.found.selection import selected

SELECTIONS = {
    "signed": {"signed": True},
    "signed, on ways": {"signed": True, "connected": True},
    "absolute": {},
}


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--tasks", nargs="+", default=["ioi", "greater-than"])
    parser.add_argument("--edges", type=int, default=200)
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--test", type=int, default=64)
    parser.add_argument("--ways", nargs="+", default=["eap-ig", "eap-ig:local=true"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    session = open_model(options.model)
    print("| task | way | edges kept | edges | in sample | held out | 95% | seconds |")
    print("| --- | --- | --- | ---: | ---: | ---: | --- | ---: |", flush=True)
    for task in options.tasks:
        split = open_split(session, TaskSpec(task, examples=options.pairs, test=options.test))
        judged = make_runner(session, split.discovery, metric="logit_diff")
        others = make_runner(session, split.test or split.discovery, metric="logit_diff")
        for way in options.ways:
            name, *given = way.split(":")
            metric = next((x[7:] for x in given if x.startswith("metric=")), None)
            rest = [x for x in given if not x.startswith("metric=")]
            asked = AskedMethod.parse(":".join([name, *rest]))
            by = metric or get_method(name).default_metric
            runner, begun = make_runner(session, split.discovery, metric=by), time.process_time()
            found = asked.chosen(runner, **asked.options)
            seconds = time.process_time() - begun
            circuits = {"its own": found.circuit}
            if found.circuit is None:
                circuits = {
                    key: selected(runner, found, Selection(top=options.edges, **how)).circuit
                    for key, how in SELECTIONS.items()
                }
            for how, circuit in circuits.items():
                assert circuit is not None
                here, there = (
                    measure(one, circuit).estimate("faithfulness") for one in (judged, others)
                )
                low, high = there.interval or (float("nan"), float("nan"))
                cells = [task, way, how, str(len(circuit)), f"{here.value:.2f}"]
                cells += [f"{there.value:.2f}", f"{low:.2f} to {high:.2f}", f"{seconds:.0f}"]
                print("|", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
