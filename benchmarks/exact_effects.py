"""Measure exact effects of all edges of a model, in random order, and hold scores against them.

    OMP_NUM_THREADS=1 python benchmarks/exact_effects.py --model gemma3-270m --task ioi --into DIR
        [--pairs 8] [--minutes 30]

DIR/TASK.exact.jsonl keeps every answer as it comes, a list of each pair's effect for an edge: a
stopped run goes on where it was, and what there is is a random sample of all edges. When none is
left, DIR/TASK.scores.safetensors holds their means, for `edgewise methods --compare`, and
DIR/exact-MODEL-TASK.csv all of it, of which docs/known-circuits.md makes tables. Printed: how many
edges have how large an effect, the largest, and how each method's scores agree with them.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from pathlib import Path

import numpy as np
from scipy import stats

from edgewise import get_method, open_model, open_task, write_scores
from edgewise.graphs.graph import ComputationGraph
from edgewise.graphs.scores import Scores
from edgewise.patching.incremental.search import make_search
from edgewise.patching.run.runner import Runner
from edgewise.session import make_runner

METHODS = {"eap": {}, "eap-ig": {}, "eap --local": {"local": True}}
SIZES = (0.02, 0.1, 0.5)
TOPS = (20, 50, 200)


def scored(runner: Runner, folder: Path, task: str) -> dict[str, np.ndarray]:
    """Return the scores of each method, [edges], kept in a file."""
    path = folder / f"{task}.methods.npz"
    found = dict(np.load(path)) if path.is_file() else {}
    for name, options in METHODS.items():
        if name not in found:
            begun = time.process_time()
            values = get_method(name.split()[0])(runner, **options).scores.values
            found[name] = values[runner.graph.reads]
            print(f"{name}: {time.process_time() - begun:.0f} processor seconds", flush=True)
            np.savez(path, **found)
    return found


def measure(runner: Runner, path: Path, minutes: float) -> np.ndarray:
    """Ask about the edges that a journal does not have; return all effects, [edges, pairs]."""
    graph = runner.graph
    rows, columns = np.nonzero(graph.reads)
    effects = np.full((graph.edge_count, len(runner.pairs)), np.nan)
    for line in path.read_text().splitlines() if path.is_file() else ():
        edge, values = json.loads(line)
        effects[edge] = values
    order = np.random.default_rng(0).permutation(graph.edge_count)
    left = [edge for edge in order if np.isnan(effects[edge, 0])]
    if not left:
        return effects
    search, full = make_search(runner), runner.mask_losses_each(graph.reads[None])
    begun, until = time.process_time(), time.monotonic() + 60 * minutes
    with path.open("a") as journal:
        for done, edge in enumerate(left, 1):
            if time.monotonic() > until:
                break
            single = (np.arange(len(graph.senders)) == columns[edge])[None, None]
            effects[edge] = (search.ask_each((int(rows[edge]),), single) - full)[0]
            journal.write(json.dumps([int(edge), effects[edge].tolist()]) + "\n")
            journal.flush()
            if done % 100 == 0:
                each = (time.process_time() - begun) / done
                print(f"{done} of {len(left)}: {each:.2f} processor seconds each", flush=True)
    return effects


def show(graph: ComputationGraph, effects: np.ndarray, scores: dict[str, np.ndarray]) -> None:
    """Print what the effects are, and how scores agree with those that were measured."""
    asked = np.flatnonzero(~np.isnan(effects[:, 0]))
    means = effects[asked].mean(1)
    half = half_widths(effects[asked])
    print(f"\n{len(asked):,} of {graph.edge_count:,} edges measured on {effects.shape[1]} pairs")
    for size in SIZES:
        beyond = np.abs(means) > size
        print(f"|effect| > {size}: {beyond.sum()} ({beyond.mean():.1%}); negative: "
              f"{(means < -size).sum()}; of which 0 is outside the 95% interval: "
              f"{(beyond & (np.abs(means) > half)).sum()}")  # fmt: skip
    rows, columns = np.nonzero(graph.reads)
    for one in np.argsort(-np.abs(means))[:12]:
        name = f"{graph.senders[columns[asked[one]]]}->{graph.ports[rows[asked[one]]]}"
        print(f"{name:24} {means[one]:+.3f} ± {half[one]:.3f}")
    for name, every in scores.items():
        given = every[asked]
        overlap = []
        for top in (size for size in TOPS if 2 * size <= len(asked)):
            sets = (set(np.argsort(-np.abs(x), kind="stable")[:top]) for x in (means, given))
            overlap.append(f"top {top} {len(set.intersection(*sets)) / top:.2f}")
        print(f"{name:12} Spearman {stats.spearmanr(means, given)[0]:.3f}, Pearson "
              f"{np.corrcoef(means, given)[0, 1]:.3f}, {', '.join(overlap)}")  # fmt: skip


def half_widths(effects: np.ndarray) -> np.ndarray:
    """Return half the 95% interval of each edge's mean over pairs (Student's t), [edges]."""
    number = effects.shape[1]
    error = effects.std(1, ddof=1) / np.sqrt(number)
    return np.asarray(error * stats.t.ppf(0.975, number - 1))


def write_csv(
    path: Path, graph: ComputationGraph, effects: np.ndarray, scores: dict[str, np.ndarray]
) -> None:
    """Write a row for every edge: its effect, half the interval, and each method's score."""
    half, means = half_widths(effects), effects.mean(1)
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["edge", "effect", "half", *scores])
        for i, (row, column) in enumerate(zip(*np.nonzero(graph.reads), strict=True)):
            name = f"{graph.senders[column]}->{graph.ports[row]}"
            values = (means[i], half[i], *(given[i] for given in scores.values()))
            rows.writerow([name, *(f"{value:.4g}" for value in values)])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="gemma3-270m")
    parser.add_argument("--task", default="ioi")
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--minutes", type=float, default=1e9, help="stop asking after so many")
    parser.add_argument("--into", type=Path, default=Path("."))
    given = parser.parse_args()
    given.into.mkdir(parents=True, exist_ok=True)
    session = open_model(given.model)
    pairs, _ = open_task(session, given.task, examples=given.pairs)
    runner = make_runner(session, pairs, metric="logit_diff")
    effects = measure(runner, given.into / f"{given.task}.exact.jsonl", given.minutes)
    show(runner.graph, effects, scored(runner, given.into, given.task))
    if not np.isnan(effects).any():
        values = np.full(runner.graph.reads.shape, np.nan)
        values[runner.graph.reads] = effects.mean(1)
        place = given.into / f"{given.task}.json"
        about = {"method": "exact", "metric": runner.metric.name, "ablation": "resample"}
        table = given.into / f"exact-{Path(given.model).name}-{given.task}.csv"
        write_csv(table, runner.graph, effects, scored(runner, given.into, given.task))
        print("written:", write_scores(place, Scores(runner.graph, values), **about))


if __name__ == "__main__":
    main()
