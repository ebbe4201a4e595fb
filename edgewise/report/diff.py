"""The part of a report that tells of a diff: what changed, beside what chance and prompts make.

What a sentence claims depends on what was measured: without a noise floor it is said that part or
all of a difference may be chance; with one, only edges that pass it are called changed. What was
measured beyond the two circuits is told in `report_measured`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from ..graphs.files import read_scores, unlike
from ..store.names import diff_name, heat_map_names, image_names
from .data import KINDS, Results, images
from .markdown import codes, escaped, number, paragraphs, ratio_text, table
from .measured import cross_part, floor_part, roles_part

if TYPE_CHECKING:
    from ..graphs.files import DiffFile
    from ..graphs.names import Edge
    from ..graphs.overlap import Overlap

CHANGED = 15
"""How many edges of changed score are listed."""

NAMED = 40
"""How many nodes that only one circuit has are named."""

NO_FLOOR = (
    "**No noise floor was measured**: how much two discoveries on one model differ with other "
    "prompts is not known here, so part or all of the difference may be chance."
)


def diff_finding(results: Results, name: str) -> str:
    """Say in one line of the report's head what a diff found."""
    file, base = results.diffs[name], results.spec.base.name
    overlap, floor = file.diff.summary().edges, file.floor
    a, b = escaped(base), escaped(name)
    found = (
        f"**{a}** and **{b}** share {overlap.shared:,} edges; {overlap.only_a:,} are only in {a}, "
        f"{overlap.only_b:,} only in {b} (Jaccard {overlap.jaccard:.3f}, by chance "
        f"{overlap.expected:.3f})."
    )
    if floor is None:
        return found
    counts = [len(floor.changed(place)) for place in ("only_a", "only_b")]
    return (
        f"{found} Beyond the noise floor (q < {floor.level:g}) changed {counts[0]:,} of the edges "
        f"only in {a} and {counts[1]:,} of those only in {b}."
    )


def diff_section(results: Results, name: str) -> str:
    """Tell of the diff of the first model and a variant."""
    base, file = results.spec.base.name, results.diffs[name]
    names = (base, name)
    summary = file.diff.summary()
    source = next(diff_name(results.spec.base, m) for m in results.spec.variants if m.name == name)
    other = unlike(file.a, file.b)
    in_all = {"edges": summary.edges, "nodes": summary.nodes}
    by_layer = {
        "logits" if layer is None else f"{layer}": overlap
        for layer, overlap in summary.edges_by_layer.items()
    }
    by_kind = {KINDS.get(kind, kind): overlap for kind, overlap in summary.edges_by_kind.items()}
    measured = [part(file, names) for part in (floor_part, cross_part, roles_part)]
    return paragraphs(
        [
            f"## {escaped(base)} and {escaped(name)}",
            images(image_names(results.spec, source), f"{base} and {name}"),
            f"Beside the model, these differ: {'; '.join(other)}." if other else "",
            what_changed(file, names),
            which_nodes(file, names),
            _overlaps("", names, in_all),
            "Corrected is Jaccard rescaled so that 0 is what two random circuits of these sizes "
            f"share on average and 1 is equality. {_unmeasured(file)}".rstrip(),
            *measured,
            "### By kind and layer",
            _overlaps("edges into", names, by_kind),
            _overlaps("edges into layer", names, by_layer),
            "### Scores",
            images(heat_map_names(results.spec, source), f"node scores of {base} and {name}"),
            _changes(results, name),
        ]
    )


def what_changed(file: DiffFile, names: tuple[str, str]) -> str:
    """Say in sentences what of edges, nodes and scores two circuits share and do not."""
    a, b = (escaped(name) for name in names)
    summary = file.diff.summary()
    edges, nodes, alike = summary.edges, summary.nodes, file.scores
    corrected = ratio_text(edges.corrected)
    words = (
        f"From {a} to {b}, {_moves(edges, 'edge', ' in the circuit')} (Jaccard "
        f"{edges.jaccard:.3f}, corrected for chance {corrected}); {_moves(nodes, 'node')}."
    )
    if alike.spearman is not None:
        over = {"all edges": "all", "some edges": "those"}.get(alike.over, "the shared")
        scored = " that have one in both" if alike.over == "some edges" else ""
        words += (
            f" The scores of {over} {alike.edges:,} edges{scored} have a rank correlation of "
            f"{ratio_text(alike.spearman)}, their absolute values of "
            f"{ratio_text(alike.spearman_absolute)}."
        )
    if alike.weighted_overlap is not None:
        words += (
            f" Weighted by absolute score, the circuits overlap by {alike.weighted_overlap:.3f} "
            "(1 would be equality)."
        )
    return words


def _moves(overlap: Overlap, noun: str, where: str = "") -> str:
    """Say how many edges or nodes appear, vanish and stay."""

    def told(count: int, one: str, many: str) -> str:
        return f"{count:,} {one if count == 1 else many}"

    appear = told(overlap.only_b, f"{noun} appears", f"{noun}s appear")
    vanish = told(overlap.only_a, "vanishes", "vanish")
    return f"{appear}{where}, {vanish} and {told(overlap.shared, 'stays', 'stay')}"


def which_nodes(file: DiffFile, names: tuple[str, str]) -> str:
    """Name the nodes that only one of two circuits has."""
    parts = []
    for key, name in zip(("only_a", "only_b"), names, strict=True):
        nodes = [str(node) for node in file.diff.nodes[key]]
        more = f" and {len(nodes) - NAMED:,} more" if len(nodes) > NAMED else ""
        if nodes:
            parts.append(f"Nodes only in {escaped(name)}: {codes(nodes[:NAMED])}{more}.")
    return " ".join(parts)


def _unmeasured(file: DiffFile) -> str:
    """Say what is not known."""
    words = NO_FLOOR if file.noise_floor is None else ""
    if file.cross is None:
        nor = "Nor was it measured" if words else "It was not measured"
        words += f" {nor} how one model's circuit works in the other."
    return words.strip()


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


def _changes(results: Results, name: str) -> str:
    """List the edges whose score changed most, of all edges that have one in both models."""
    base, file = results.spec.base.name, results.diffs[name]
    graph = file.diff.a.graph
    a, b = (
        read_scores(results.folder / results.circuit_file(who), graph).scores.values
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
