"""Compare all methods of edges on two tasks, as docs/methods.md shows it.

    OMP_NUM_THREADS=1 python benchmarks/methods.py [--tasks ioi greater-than] [--model smollm2-135m]
        [--examples 64] [--test 64] [--exact-pairs 8] [--methods eap eap-ig:steps=10] [--into DIR]
        [--level node] [--keep DIR] [--only-run]

Writes DIR/methods-TASK.json, which `python docs/generate.py` makes tables of, and
DIR/methods-TASK.svg. Methods see the same pairs and are measured on others. Searches have options
that end within an hour; masks, ACDC and refine are run by the metrics that they are meant for.
Exact effects of all edges are of a few of the pairs alone, since of all they would take hours, and
stand in the table as scores of their own. Takes some two hours on one core. At level node it
compares those that score nodes, and writes DIR/methods-TASK-nodes.json. With --keep what each
method found is kept as it comes, so that a stopped comparison goes on, and two processes can share
the methods (--only-run: run them, and compare nothing).
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from edgewise.discovery.registry import get_method
from edgewise.experiment.spec import DiscoverySpec
from edgewise.experiment.task import TaskSpec
from edgewise.graphs.circuit import Circuit
from edgewise.graphs.files.tables.methods import write_methods
from edgewise.graphs.graph import ComputationGraph
from edgewise.graphs.scores import Scores
from edgewise.patching.prompts.splits import PromptSplit
from edgewise.progress import reporting
from edgewise.session import Session, make_runner, open_model, open_split
from edgewise.steps.claims.asked import AskedMethod, Asking, FoundMethod, GivenScores
from edgewise.steps.claims.methods import compare_methods, run_method
from edgewise.visualize.charts.methods import draw_methods
from edgewise.visualize.svg import to_svg

TRAINED = "updates=120:minibatch=8:metric=kl"

USUAL = (
    "eap", "eap:local=true", "eap:rule=relp", "eap:rule=gim", "clean-corrupted", "eap-ig",
    "eap-ig:local=true", "eap-ig:rule=gim", "conductance",
    "eap-ig-activations:steps=1:midpoint=true", "information-flow-routes", "screen",
    f"edge-pruning:edges=1000:{TRAINED}",
    f"ugs:edges=1000:{TRAINED}", f"subnetwork-probing:{TRAINED}", "acdc:threshold=0.01:metric=kl",
    "refine:edges=200:sweeps=0:stop_on=16",
)  # fmt: skip

OF_NODES = ("eap", "eap-ig", "conductance", "atp-star", "atp-star:single=true")


def exact_scores(session: Session, split: PromptSplit, pairs: int) -> GivenScores:
    """Return exact effects of all edges on the first pairs."""
    few = replace(split.discovery, pairs=split.discovery.pairs[:pairs])
    with reporting() as progress:
        found = get_method("exact")(make_runner(session, few, metric="logit_diff"), progress)
    return GivenScores(f"exact, {len(few)} pairs", found.scores)


def kept_method(path: Path, graph: ComputationGraph) -> FoundMethod:
    """Read what a method found."""
    with np.load(path) as file:
        scores = Scores(graph, file["values"], str(file["level"]))
        circuit = Circuit(graph, file["kept"]) if "kept" in file else None
        cost = {key: float(file[key]) for key in ("seconds", "peak", "alike") if key in file}
        peak = cost.pop("peak", None)
        return FoundMethod(
            str(file["label"]), scores, circuit, peak=None if peak is None else int(peak), **cost
        )


def keep_method(path: Path, found: FoundMethod) -> None:
    """Write what a method found."""
    path.parent.mkdir(parents=True, exist_ok=True)
    told = {key: getattr(found, key) for key in ("seconds", "peak", "alike")}
    told = {key: value for key, value in told.items() if value is not None}
    if found.circuit is not None:
        told["kept"] = found.circuit.kept
    values, level = found.scores.values, found.scores.level
    np.savez(path, values=values, level=level, label=found.label, **told)


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--tasks", nargs="+", default=["ioi", "greater-than"])
    parser.add_argument("--examples", type=int, default=64)
    parser.add_argument("--test", type=int, default=64)
    parser.add_argument("--exact-pairs", type=int, default=8, help="0: no exact effects of all")
    parser.add_argument("--drawn", type=int, default=300)
    parser.add_argument("--methods", nargs="+", help="default: all that are suited")
    parser.add_argument("--level", choices=("edge", "node"), default="edge")
    parser.add_argument("--into", type=Path, default=Path("docs/data"))
    parser.add_argument("--keep", type=Path, help="a folder for what methods find")
    parser.add_argument("--only-run", action="store_true", help="needs --keep")
    given = parser.parse_args()
    nodes = given.level == "node"
    given.methods = given.methods or (OF_NODES if nodes else USUAL)
    given.into.mkdir(parents=True, exist_ok=True)
    session = open_model(given.model)
    for task in given.tasks:
        begun = time.perf_counter()
        split = open_split(session, TaskSpec(task, examples=given.examples, test=given.test))
        spec = DiscoverySpec.usual(level=given.level)
        asked: list[AskedMethod | GivenScores | FoundMethod] = []
        for one in map(AskedMethod.parse, given.methods):
            if given.keep is None:
                asked.append(one)
                continue
            path = given.keep / f"{task}-{given.level}-{one.label.replace(':', '-')}.npz"
            if not path.exists():
                with reporting() as progress:
                    keep_method(path, run_method(session, split, one, spec, progress=progress))
                print(f"kept: {path}", flush=True)
            asked.append(kept_method(path, session.graph))
        if given.only_run:
            continue
        if given.exact_pairs and not nodes:
            asked.append(exact_scores(session, split, given.exact_pairs))
        with reporting() as progress:
            found = compare_methods(
                session, split, asked, spec,
                Asking(drawn=given.drawn), progress=progress,
            )  # fmt: skip
        path = given.into / f"methods-{task}{'-nodes' * nodes}.json"
        write_methods(path, found)
        picture = to_svg(
            draw_methods(found, title=f"Methods on {task} in {given.model}{', nodes' * nodes}")
        )
        path.with_suffix(".svg").write_text(picture, encoding="utf-8")
        minutes = (time.perf_counter() - begun) / 60
        print(f"written: {path}, {minutes:.0f} min, {torch.get_num_threads()} threads", flush=True)


if __name__ == "__main__":
    main()
