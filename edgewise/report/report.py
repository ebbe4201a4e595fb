"""The report of a run: report.md and report.html, made from its output directory's files alone.

Sentences are made from the numbers and claim nothing beyond them. Diffs are told in `report_diff`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..graphs.files import read_circuit, read_diff
from ..graphs.files.atomic import write_text
from ..store.names import (
    EVALUATION,
    PROMPTS,
    REPORT,
    REPORT_PAGE,
    SPEC,
    TASK,
    circuit_name,
    diff_name,
    heat_map_names,
    image_names,
    overlap_names,
)
from .data import KINDS, Results, images
from .diff import diff_finding, diff_section
from .markdown import code, codes, escaped, link, number, paragraphs, plain, ratio_text, table
from .page import to_page

if TYPE_CHECKING:
    from ..experiment.spec import Spec
    from ..graphs.files import CircuitFile

STRONGEST = 10


def write_report(spec: Spec, folder: Path) -> None:
    """Write report.md and report.html of a finished run, each all or nothing.

    Raises:
        FileFormatError: one of the run's files is missing or damaged.
    """
    base = spec.base
    results = Results(
        spec,
        folder,
        json.loads((folder / TASK).read_text(encoding="utf-8")),
        {m.name: read_circuit(folder / circuit_name(m)) for m in spec.models},
        {m.name: read_diff(folder / diff_name(base, m)) for m in spec.variants},
        json.loads((folder / EVALUATION).read_text(encoding="utf-8"))["models"],
    )
    text = make_report(results)
    write_text(folder / REPORT, text)
    write_text(folder / REPORT_PAGE, to_page(text, title=spec.name, folder=folder))


def make_report(results: Results) -> str:
    """Return the report's text."""
    parts = [_head(results), _what(results), _models(results), _circuits(results)]
    parts += [_circuit(results, name) for name in results.circuits]
    parts += [diff_section(results, name) for name in results.diffs]
    parts.append(_files(results))
    return paragraphs(parts) + "\n"


# -- what was run -------------------------------------------------------------------------------


def _head(results: Results) -> str:
    spec = results.spec
    lines = [f"# {escaped(spec.name)}"]
    if spec.description:
        lines.append(escaped(spec.description))
    findings = [_finding(results, name) for name in results.circuits]
    findings += [diff_finding(results, name) for name in results.diffs]
    lines.append("\n".join(f"* {finding}" for finding in findings))
    return "\n\n".join(lines)


def _finding(results: Results, name: str) -> str:
    file, metric = results.circuits[name], results.spec.discovery.metric
    kept, total = len(file.circuit), file.circuit.graph.edge_count
    measures = file.measures
    ratio = measures.get("faithfulness")
    words = f"**{escaped(name)}**: {kept:,} of {total:,} edges ({kept / total:.2%}) "
    if ratio is None:
        return words + f"give {code(metric)} {number(measures['value_circuit'])}."
    return words + (
        f"give {code(metric)} {number(measures['value_circuit'])}, where the whole model gives "
        f"{number(measures['value_full'])} and the model with every edge ablated "
        f"{number(measures['value_empty'])}: faithfulness {ratio:.3f}."
    )


def _what(results: Results) -> str:
    spec, task = results.spec, results.task
    asked = spec.discovery
    first = next(iter(results.circuits.values()))
    options = ", ".join(f"{key} {plain(value)}" for key, value in asked.options.items())
    origin = task.get("origin") or {}
    chosen = ", ".join(f"{k} {plain(v)}" for k, v in (origin.get("options") or {}).items())
    seed = "" if task["seed"] is None else f", seed {task['seed']}"
    rows = [
        ("task", f"{escaped(task['name'])}{f' ({chosen})' if chosen else ''}: {task['examples']} "
                 f"pairs{seed} ({link(PROMPTS)})"),
        ("method", f"{code(asked.method)}{f' ({options})' if options else ''}"),
        ("metric, ablation", f"{code(asked.metric)}, {code(asked.ablation)}"),
        ("kept", asked.selection),
        ("computed with", _versions(first.discovery)),
    ]  # fmt: skip
    if task.get("left_out"):
        rows.insert(1, ("pairs made", task["left_out"]))
    sample = task["sample"]
    return "\n\n".join(
        [
            "## What was run",
            table(["", ""], rows),
            "The first pair of prompts, clean and corrupted; ablated edges carry what the "
            "corrupted one gives:"
            if asked.ablation == "resample"
            else "The first pair of prompts, clean and corrupted:",
            f"```text\n{sample['clean']}\n{sample['corrupted']}\n```",
            f"Answer: {codes(sample['answers'])}; distractor: {codes(sample['distractors'])}.",
        ]
    )


def _versions(discovery: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{k} {v}" for k, v in (discovery.get("versions") or {}).items())
    return f"{discovery.get('dtype')} on {discovery.get('device')}; {versions}"


def _models(results: Results) -> str:
    rows = []
    for model in results.spec.models:
        file = results.circuits[model.name]
        graph, proof = file.circuit.graph, file.certificate
        rows.append(
            (
                escaped(model.name),
                code(str(file.model["name"])),
                f"{str(file.model['weights_sha256'])[:12]}…",
                graph.describe(),
                f"{graph.edge_count:,}",
                *(f"{proof[key]:.1e}" for key in ("kept_all", "kept_none", "stream")),
            )
        )
    head = ["model", "source", "weights", "graph", "edges", "all kept", "none kept", "stream"]
    return "\n\n".join(
        [
            "## Models",
            table(head, rows, right=4),
            "The last three columns certify the lift: the largest error, in logits, with every "
            "edge kept (against the original model) and with none (against it on the corrupted "
            "prompts), and of the residual stream relative to its largest entry.",
        ]
    )


# -- circuits -----------------------------------------------------------------------------------


def _circuits(results: Results) -> str:
    parts = ["## Circuits", _sizes(results)]
    parts += [_metric_table(results, i) for i in range(len(results.spec.evaluation.metrics))]
    parts.append(
        "Faithfulness is (circuit − empty) / (full − empty) and completeness the same of the "
        "circuit's complement; a circuit that holds all that matters has 1 and 0. Empty is the "
        "model with every edge ablated."
    )
    parts += [_by_kind(results), _curves(results), _overlaps(results)]
    return paragraphs(parts)


def _sizes(results: Results) -> str:
    rows = []
    for name, file in results.circuits.items():
        kept, total = len(file.circuit), file.circuit.graph.edge_count
        found = file.discovery
        rows.append(
            (
                escaped(name),
                f"{kept:,}",
                f"{kept / total:.2%}",
                f"{len(file.circuit.nodes):,}",
                f"{found['seconds']:.1f} s",
                f"{found['forward_equivalents']:.1f}",
            )
        )
    head = ["circuit of", "edges", "share", "nodes", "found in", "as forward passes"]
    return table(head, rows, right=1)


def _metric_table(results: Results, index: int) -> str:
    rows = []
    for name in results.circuits:
        found = results.evaluations[name]["metrics"][index]
        keys = ("value_full", "value_circuit", "value_empty", "value_complement")
        ratios = [ratio_text(found[key]) for key in ("faithfulness", "completeness")]
        rows.append((escaped(name), *ratios, *(number(found[key]) for key in keys)))
    metric = results.spec.evaluation.metrics[index]
    values = ["full", "circuit", "empty", "complement"]
    return table([code(metric), "faithfulness", "completeness", *values], rows, right=1)


def _by_kind(results: Results) -> str:
    counts = {
        name: file.circuit.graph.count_by_kind(file.circuit.kept)
        for name, file in results.circuits.items()
    }
    totals = next(iter(results.circuits.values())).circuit.graph.count_by_kind()
    rows = [
        (
            KINDS.get(kind, kind),
            f"{total:,}",
            *(f"{counts[name].get(kind, 0):,}" for name in counts),
        )
        for kind, total in totals.items()
    ]
    names = [escaped(name) for name in counts]
    return table(["edges into", "in the model", *names], rows, right=1)


def _curves(results: Results) -> str:
    curves = {n: found["curve"] for n, found in results.evaluations.items() if "curve" in found}
    if not curves:
        return ""
    sizes = next(iter(curves.values()))["sizes"]
    rows = [
        (f"{size:,}", *(ratio_text(curve["faithfulness_absolute"][i]) for curve in curves.values()))
        for i, size in enumerate(sizes)
    ]
    for area in ("cpr", "cmd"):
        rows.append((area.upper(), *(ratio_text(curve[area]) for curve in curves.values())))
    words = (
        f"Faithfulness ({code(results.spec.discovery.metric)}) of the strongest edges by absolute "
        "score; CPR (more is better) and CMD (less is better) are its areas as the Mechanistic "
        "Interpretability Benchmark defines them, CPR with signed scores."
    )
    return f"{words}\n\n" + table(["edges", *map(escaped, curves)], rows, right=0)


def _overlaps(results: Results) -> str:
    """Show how alike every two circuits are, where there are three or more."""
    names = overlap_names(results.spec)
    if not names:
        return ""
    shown = images(names, "overlap of every two circuits")
    return f"How alike the edges of every two circuits are:\n\n{shown}"


def _circuit(results: Results, name: str) -> str:
    file, source = results.circuits[name], results.circuit_file(name)
    graph, scores = file.circuit.graph, file.edge_scores
    assert scores is not None  # CircuitFile.__post_init__
    order = np.argsort(-np.nan_to_num(np.abs(scores), nan=-1.0), axis=None, kind="stable")
    places = [np.unravel_index(i, scores.shape) for i in order[: min(STRONGEST, len(file.circuit))]]
    rows = [(f"`{graph.edge_at(*place)}`", number(float(scores[place]))) for place in places]
    word = "rise of the loss that kept the edge" if _searched(file) else "score"
    return paragraphs(
        [
            f"### The circuit of {escaped(name)}",
            images(image_names(results.spec, source), f"the circuit of {name}"),
            images(heat_map_names(results.spec, source), f"node scores of {name}"),
            f"The {len(rows)} strongest edges:",
            table(["edge", word], rows, right=1),
            "A positive score means that ablating the edge raises the loss: it helps.",
        ]
    )


def _searched(file: CircuitFile) -> bool:
    return file.discovery.get("order") is not None


# -- files -----------------------------------------------------------------------------------


def _files(results: Results) -> str:
    spec = results.spec
    rows = [
        ("the experiment, with its defaults", link(SPEC)),
        ("prompt pairs", f"{link(PROMPTS)}, {link(TASK)}"),
        ("circuits", ", ".join(link(circuit_name(model)) for model in spec.models)),
        ("evaluation", link(EVALUATION)),
    ]
    if spec.variants:
        diffs = ", ".join(link(diff_name(spec.base, model)) for model in spec.variants)
        rows.append(("diffs", diffs))
    return "## Files\n\n" + table(["", ""], rows)
