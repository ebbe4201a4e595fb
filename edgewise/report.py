"""The report of a run: report.md, made from the files of its output directory alone.

Sentences are made from the numbers and claim nothing beyond them: what a difference between two
circuits would be by chance is not measured by a run, and the report says so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .graphs.files import read_circuit, read_diff, read_scores, unlike
from .graphs.safe_write import write_text
from .markdown import code, codes, escaped, link, number, plain, ratio_text, table
from .run_files import (
    EVALUATION,
    PROMPTS,
    REPORT,
    SPEC,
    TASK,
    circuit_name,
    diff_name,
    image_names,
)

if TYPE_CHECKING:
    from .graphs.diff import Overlap
    from .graphs.files import CircuitFile, DiffFile
    from .graphs.names import Edge
    from .spec import Spec

STRONGEST = 10
CHANGED = 15
KINDS = {"q": "`<q>`", "k": "`<k>`", "v": "`<v>`", "post": "`o`", "mlp": "MLP", "logits": "logits"}
EMBEDDABLE = ("png", "svg")


@dataclass(frozen=True)
class _Results:
    """Hold what a run's directory holds."""

    spec: Spec
    folder: Path
    task: Mapping[str, Any]
    circuits: Mapping[str, CircuitFile]
    diffs: Mapping[str, DiffFile]
    evaluations: Mapping[str, Any]


def write_report(spec: Spec, folder: Path) -> None:
    """Write report.md of a finished run, all or nothing.

    Raises:
        FileFormatError: one of the run's files is missing or damaged.
    """
    base = spec.base
    results = _Results(
        spec,
        folder,
        json.loads((folder / TASK).read_text(encoding="utf-8")),
        {m.name: read_circuit(folder / circuit_name(m)) for m in spec.models},
        {m.name: read_diff(folder / diff_name(base, m)) for m in spec.variants},
        json.loads((folder / EVALUATION).read_text(encoding="utf-8"))["models"],
    )
    write_text(folder / REPORT, make_report(results))


def make_report(results: _Results) -> str:
    """Return the report's text."""
    parts = [_head(results), _what(results), _models(results), _circuits(results)]
    parts += [_circuit(results, name) for name in results.circuits]
    parts += [_diff(results, name) for name in results.diffs]
    parts.append(_files(results))
    return "\n\n".join(part for part in parts if part) + "\n"


# -- what was run -------------------------------------------------------------------------------


def _head(results: _Results) -> str:
    spec = results.spec
    lines = [f"# {escaped(spec.name)}"]
    if spec.description:
        lines.append(escaped(spec.description))
    findings = [_finding(results, name) for name in results.circuits]
    findings += [_diff_finding(results, name) for name in results.diffs]
    lines.append("\n".join(f"* {finding}" for finding in findings))
    return "\n\n".join(lines)


def _finding(results: _Results, name: str) -> str:
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


def _diff_finding(results: _Results, name: str) -> str:
    overlap, base = results.diffs[name].diff.summary().edges, results.spec.base.name
    a, b = escaped(base), escaped(name)
    return (
        f"**{a}** and **{b}** share {overlap.shared:,} edges; {overlap.only_a:,} are only in {a}, "
        f"{overlap.only_b:,} only in {b} (Jaccard {overlap.jaccard:.3f}, by chance "
        f"{overlap.expected:.3f})."
    )


def _what(results: _Results) -> str:
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


def _models(results: _Results) -> str:
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


def _circuits(results: _Results) -> str:
    parts = ["## Circuits", _sizes(results)]
    parts += [_metric_table(results, i) for i in range(len(results.spec.evaluation.metrics))]
    parts.append(
        "Faithfulness is (circuit − empty) / (full − empty) and completeness the same of the "
        "circuit's complement; a circuit that holds all that matters has 1 and 0. Empty is the "
        "model with every edge ablated."
    )
    parts += [_by_kind(results), _curves(results)]
    return "\n\n".join(part for part in parts if part)


def _sizes(results: _Results) -> str:
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


def _metric_table(results: _Results, index: int) -> str:
    rows = []
    for name in results.circuits:
        found = results.evaluations[name]["metrics"][index]
        keys = ("value_full", "value_circuit", "value_empty", "value_complement")
        ratios = [ratio_text(found[key]) for key in ("faithfulness", "completeness")]
        rows.append((escaped(name), *ratios, *(number(found[key]) for key in keys)))
    metric = results.spec.evaluation.metrics[index]
    values = ["full", "circuit", "empty", "complement"]
    return table([code(metric), "faithfulness", "completeness", *values], rows, right=1)


def _by_kind(results: _Results) -> str:
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


def _curves(results: _Results) -> str:
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


def _circuit(results: _Results, name: str) -> str:
    file = results.circuits[name]
    graph, scores = file.circuit.graph, file.edge_scores
    assert scores is not None  # CircuitFile.__post_init__
    order = np.argsort(-np.nan_to_num(np.abs(scores), nan=-1.0), axis=None, kind="stable")
    places = [np.unravel_index(i, scores.shape) for i in order[: min(STRONGEST, len(file.circuit))]]
    rows = [(f"`{graph.edge_at(*place)}`", number(float(scores[place]))) for place in places]
    word = "rise of the loss that kept the edge" if _searched(file) else "score"
    return "\n\n".join(
        [
            f"### The circuit of {escaped(name)}",
            _images(results, circuit_name_of(results, name), f"the circuit of {name}"),
            f"The {len(rows)} strongest edges:",
            table(["edge", word], rows, right=1),
            "A positive score means that ablating the edge raises the loss: it helps.",
        ]
    )


def _searched(file: CircuitFile) -> bool:
    return file.discovery.get("order") is not None


def circuit_name_of(results: _Results, name: str) -> str:
    """Return the circuit file of a model by its name."""
    return next(circuit_name(model) for model in results.spec.models if model.name == name)


# -- diffs --------------------------------------------------------------------------------------


def _diff(results: _Results, name: str) -> str:
    base, file = results.spec.base.name, results.diffs[name]
    summary = file.diff.summary()
    source = next(diff_name(results.spec.base, m) for m in results.spec.variants if m.name == name)
    other = unlike(file.a, file.b)
    in_all = {"edges": summary.edges, "nodes": summary.nodes}
    by_layer = {
        "logits" if layer is None else f"{layer}": overlap
        for layer, overlap in summary.edges_by_layer.items()
    }
    by_kind = {KINDS.get(kind, kind): overlap for kind, overlap in summary.edges_by_kind.items()}
    names = (base, name)
    parts = [
        f"## {escaped(base)} and {escaped(name)}",
        _images(results, source, f"{base} and {name}"),
        f"Beside the model, these differ: {'; '.join(other)}." if other else "",
        _overlaps("", names, in_all),
        "Corrected is Jaccard rescaled so that 0 is what two random circuits of these sizes share "
        "on average and 1 is equality. **No noise floor was measured**: how much two discoveries "
        "on one model differ with other prompts is not known here, so part or all of the "
        "difference may be chance. Nor was it measured how one model's circuit works in the other.",
        _overlaps("edges into", names, by_kind),
        _overlaps("edges into layer", names, by_layer),
        _changes(results, name),
    ]
    return "\n\n".join(part for part in parts if part)


def _overlaps(what: str, names: tuple[str, str], overlaps: Mapping[str, Overlap]) -> str:
    rows = [
        (
            key,
            *(f"{n:,}" for n in (overlap.shared, overlap.only_a, overlap.only_b)),
            f"{overlap.jaccard:.3f}",
            ratio_text(overlap.corrected),
        )
        for key, overlap in overlaps.items()
        if overlap.a or overlap.b
    ]
    only = [f"only {escaped(name)}" for name in names]
    return table([what, "shared", *only, "Jaccard", "corrected"], rows, right=1)


def _changes(results: _Results, name: str) -> str:
    """List the edges whose score changed most, of all edges that have one in both models."""
    base, file = results.spec.base.name, results.diffs[name]
    graph = file.diff.a.graph
    a, b = (
        read_scores(results.folder / circuit_name_of(results, who), graph).scores.values
        for who in (base, name)
    )
    change = np.nan_to_num(np.abs(b - a), nan=-1.0)
    order = np.argsort(-change, axis=None, kind="stable")[:CHANGED]
    rows = []
    for place in (np.unravel_index(i, a.shape) for i in order):
        if change[place] <= 0:
            break
        values = (float(a[place]), float(b[place]), float(b[place] - a[place]))
        edge = graph.edge_at(*place)
        rows.append((f"`{edge}`", *map(number, values), _membership(file, edge, (base, name))))
    if not rows:
        return "No edge has a score in both models that differs."
    scores = (f"score in {escaped(base)}", f"in {escaped(name)}", "change")
    words = "The edges whose score changed most, in the circuits or not:"
    return f"{words}\n\n" + table(["edge", *scores, "in the circuit of"], rows, right=1, left=(4,))


def _membership(file: DiffFile, edge: Edge, names: tuple[str, str]) -> str:
    both = zip(names, (file.diff.a, file.diff.b), strict=True)
    inside = [escaped(name) for name, circuit in both if edge in circuit]
    return "both" if len(inside) == 2 else (inside or ["neither"])[0]


# -- files -----------------------------------------------------------------------------------


def _files(results: _Results) -> str:
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


def _images(results: _Results, source: str, words: str) -> str:
    """Embed one format of an image and link the others."""
    names = image_names(results.spec, source)
    shown = [n for ending in EMBEDDABLE for n in names if n.endswith(f".{ending}")][:1]
    parts = [f"![{escaped(words)}]({name})" for name in shown]
    others = [name for name in names if name not in shown]
    if others:
        parts.append(f"Also as {', '.join(link(name) for name in others)}.")
    return "\n\n".join(parts)
