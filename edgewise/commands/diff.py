"""`edgewise diff`: what two circuits share and what only one of them has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from . import options, show

if TYPE_CHECKING:
    from ..graphs.diff import DiffSummary, Overlap
    from ..graphs.files import DiffFile

COLUMNS = ("shared", "only A", "only B", "Jaccard", "corrected")


@click.command(short_help="Compare two circuits on equal graphs.")
@click.argument("a", metavar="A.json")
@click.argument("b", metavar="B.json")
@click.option("-o", "--output", metavar="DIFF.json", help="Write the diff, for `edgewise draw`.")
@options.json_option
def diff(a: str, b: str, output: str | None, as_json: bool) -> None:
    """Compare the circuits of two files.

    Corrected is the Jaccard index with the overlap of random circuits of the same sizes as 0.
    """
    from ..graphs.files import check_writable, read_circuit, unlike, write_diff
    from ..workflow import compare

    if output is not None:
        check_writable(output, a, b)
    found = compare(read_circuit(a), read_circuit(b), names=(a, b))
    if output is not None:
        write_diff(output, found)
    others = unlike(found.a, found.b)
    if as_json:
        show.emit(_document(found, others, output), rows=["shared", "only_a", "only_b"])
        return
    if others:
        show.note(
            f"the circuits were found differently, which may show in the diff: {'; '.join(others)}."
        )
    _print(found)
    if output is not None:
        show.line()
        show.line(f"written: {output}")


def _document(found: DiffFile, others: list[str], output: str | None) -> dict[str, Any]:
    from ..graphs.circuit_file import edge_rows

    scores = (found.scores_a, found.scores_b)
    parts = {"shared": found.diff.shared, "only_a": found.diff.only_a, "only_b": found.diff.only_b}
    return {
        "a": found.a,
        "b": found.b,
        "diff": output,
        "unlike": others,
        "statistics": found.diff.summary().to_dict(),
        **{name: edge_rows(circuit, *scores) for name, circuit in parts.items()},
    }


def _print(found: DiffFile) -> None:
    summary = found.diff.summary()
    heads = (("A", found.a, found.diff.a), ("B", found.b, found.diff.b))
    show.facts(
        (name, f"{head['file']}: {head['model']['name']}, {len(circuit):,} edges, "
         f"{len(circuit.nodes):,} nodes")
        for name, head, circuit in heads
    )  # fmt: skip
    for what, whole, kinds in (
        ("edges into", summary.edges, summary.edges_by_kind),
        ("nodes", summary.nodes, summary.nodes_by_kind),
    ):
        rows = [(show.kind(kind), *_cells(overlap)) for kind, overlap in kinds.items()]
        show.table((what, *COLUMNS), [*rows, ("all", *_cells(whole))])
    _print_layers(summary)


def _print_layers(summary: DiffSummary) -> None:
    """Print edges and nodes of every layer in which one of the circuits has something."""
    rows = []
    for layer, edges in summary.edges_by_layer.items():
        nodes = summary.nodes_by_layer.get(layer)
        if edges.a or edges.b or (nodes is not None and (nodes.a or nodes.b)):
            name = "logits" if layer is None else str(layer)
            counted = ["-"] * 3 if nodes is None or layer is None else _cells(nodes)[:3]
            rows.append((name, *_cells(edges)[:3], *counted))
    columns = [f"{what}: {name}" for what in ("edges", "nodes") for name in COLUMNS[:3]]
    if rows:
        show.table(("layer", *columns), rows)


def _cells(overlap: Overlap) -> list[str]:
    corrected = "-" if overlap.corrected is None else f"{overlap.corrected:.3f}"
    counts = (overlap.shared, overlap.only_a, overlap.only_b)
    empty = not (overlap.a or overlap.b)
    jaccard = "-" if empty else f"{overlap.jaccard:.3f}"
    return [*(f"{count:,}" for count in counts), jaccard, corrected]
