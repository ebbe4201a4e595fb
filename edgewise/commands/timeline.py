"""`edgewise timeline`: one task's circuit at every checkpoint, and when each edge was in it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from . import options, show
from .accepted import FILE, option, usage
from .discover import DiscoverCommand, method_option
from .flags import with_flags

if TYPE_CHECKING:
    from ..graphs.files import TimelineFile
    from ..graphs.files.timeline import SideValues
    from ..graphs.timeline import Life, Timeline
    from ..store.results import Results
    from .flags import Flags

LISTED = 10
"""How many of the longest-living, and of the newest, edges are printed."""


@click.command(cls=DiscoverCommand, short_help="Follow a task's circuit over checkpoints.")
@click.argument("models", type=FILE, metavar="MODEL…", nargs=-1, required=True)
@options.task_options(required=True, test=True)
@method_option
@options.measure_options(searching=True)
@option(
    "--measure METRIC", "Measure the circuits by this metric too; repeat for more.", multiple=True
)
@options.selection_options
@options.paired_options
@option("--labels A,B,…", "What the checkpoints are called; default: their steps.")
@options.graph_options
@options.compute_options
@option("--cache DIR", "Keep results here; default: the user's cache directory.", type=FILE)
@option("--no-cache", "Keep no results, and use none.")
@option("-o --output TIMELINE.json", "Write it, for `edgewise draw`.", type=FILE)
@options.json_option
@with_flags
def timeline(
    models: tuple[str, ...],
    flags: Flags,
    labels: str | None,
    cache: str | None,
    no_cache: bool,
    output: str | None,
    as_json: bool,
) -> None:
    """Find a task's circuit at every checkpoint, on the same prompts, and measure it on others.

    MODEL… are two or more models of one shape, in order of time (directories, NAME@REVISION,
    adapters), or one directory that holds checkpoint-N or step-N directories.

    Results are kept by content: what was found once, on the same weights, prompts and options, is
    not done again, and a stopped run goes on with the checkpoints that are missing.
    """
    from ..experiment.spec import numbered
    from ..graphs.files import write_timeline
    from ..graphs.files.timeline import ROWS, timeline_document
    from ..progress import reporting
    from ..steps.timeline import check_selects, find_checkpoints
    from ..steps.timeline import timeline as follow

    if cache and no_cache:
        raise click.UsageError("--cache and --no-cache are given together; accepted: one of them.")
    request = flags.experiment(*models)
    with usage():
        check_selects(request.discovery)
    references = find_checkpoints(models)
    request = request.but(models=numbered(references))
    options.claim(output, request.task.reference, *references)
    results = None if no_cache else _results(cache)
    names = None if labels is None else [label.strip() for label in labels.split(",")]
    with reporting(on_prompts=show.understood) as progress:
        found = follow(request, labels=names, results=results, progress=progress)
    if output is not None:
        write_timeline(output, found)
    if as_json:
        document = timeline_document(found)
        head = {key: document.pop(key) for key in ("format", "version")}
        show.emit({**head, "timeline": output, **document}, rows=ROWS)
        return
    _print(found)
    show.written(output)


def _results(folder: str | None) -> Results | None:
    """Open the folder of kept results; none if the default one cannot be used."""
    from ..graphs.errors import EdgewiseError
    from ..store.results import Results

    try:
        return Results(folder)
    except EdgewiseError as error:
        if folder is not None:
            raise
        show.note(f"{error} Going on without.")
        return None


def _print(found: TimelineFile) -> None:
    from ..experiment.spec import Selection
    from .evaluate import shown_task, why_not_held_out

    line, how = found.timeline, found.discovery
    noted: dict[str, Any] = dict(how)
    select = Selection(**{key: noted[key] for key in Selection.names() if key in noted})
    chosen = [str(select)] if select.as_dict() else []
    show.facts(
        ("task", shown_task(found.task)),
        ("held out", None if "held_out" in found.sides else why_not_held_out(found.task)),
        ("method", ", ".join([str(how["method"]), *chosen])),
        ("measured", f"{', '.join(found.metrics)}, {how['ablation']} ablation"),
        ("edges", f"{len(line.union):,} in any checkpoint, {len(line.core):,} in all"),
    )
    title = f"what it does{_on(found)}"
    for metric in found.metrics:
        columns = (f"{metric}: full", "circuit", "no edge", "faithfulness", "95%")
        beside = ("in sample",) * (len(found.sides) > 1)
        show.table(("checkpoint", *columns, *beside), _measure_rows(found, metric), title)
        title = ""
    edges, nodes = _change_rows(line)
    show.table(_EDGES, edges, "what it is made of, beside the checkpoint before")
    show.table(_NODES, nodes)
    show.table(_LIFE, _life_rows(line, line.longest(LISTED)), "edges that live longest")
    if newest := line.newest(LISTED):
        lives = list(_life_rows(line, newest))
        if found.comparisons:
            born = [found.q_at(life.born, str(life.thing)) for life in newest]
            lives = [[*row, q] for row, q in zip(lives, born, strict=True)]
        names = (*_LIFE, *["q at birth"] * bool(found.comparisons))
        show.table(names, lives, "edges that appeared last")
    _print_changes(found)


def _on(found: TimelineFile) -> str:
    """Say on which pairs was measured."""
    side = found.sides[0]
    first = found.measured(found.metric, side)[0]
    pairs = "" if first is None else f" {first['examples']:,} pairs"
    return f", on{pairs} that are held out" if side == "held_out" else ""


def _measure_rows(found: TimelineFile, metric: str) -> Iterable[list[object]]:
    """List what a metric is at every checkpoint: held out first, in sample beside it."""
    for label, *sides in zip(
        found.timeline.labels, *(found.measured(metric, side) for side in found.sides), strict=True
    ):
        told, *beside = [one for one in sides if one is not None]
        values = [told["full"], told["circuit"], told["empty"]]
        row = [label, *values, _ratio(told), show.ends(told["interval"])]
        yield [*row, *map(_ratio, beside)]


def _ratio(told: SideValues) -> str:
    return "undefined" if told["faithfulness"] is None else show.ratio(told["faithfulness"])


def _print_changes(found: TimelineFile) -> None:
    """Print which edges changed from one checkpoint to the next, if that was tested."""
    rows: list[list[object]] = []
    for i, label in enumerate(found.timeline.labels):
        compared = found.compared(i)
        if compared is not None:
            told, parts = compared.measured, (("only_b",), ("only_a",), ())
            counts = [len(compared.changed(*part)) for part in parts]
            amounts = (told.amount(told.delta), told.amount(told.detectable))
            of = told.controls
            rows.append([label, *counts, *amounts, of.other_prompts, of.rounded_weights])
            names = found.timeline.labels[i - 1], label
            show.note(*(f"{words}." for words in compared.warnings(names)))
    if rows:
        columns = (
            "checkpoint", "of the born", "of the died", "in all", "more than", "shown from",
            "other prompts", "rounded weights",
        )  # fmt: skip
        title = (
            f"edges that changed since the checkpoint before (q < {found.comparisons[0].level:g})"
        )
        show.table(columns, rows, title)
        first = found.comparisons[0]
        show.line(f"on {first.prompts}, the same at every checkpoint")
        if any(None not in vars(one.controls).values() for one in found.comparisons):
            show.line(
                "other prompts, rounded weights: edges that change where nothing changed, from one "
                "half of the prompts to the other, and when weights are rounded to bfloat16 "
                "(expected: none)"
            )


_NODES = ("checkpoint", "nodes", "born", "died", "Jaccard")
_EDGES = ("checkpoint", "edges", *_NODES[2:], "corrected", "weighted", "to first")
_LIFE = ("edge", "alive at", "largest |score|", "last score")


def _change_rows(line: Timeline) -> tuple[list[list[object]], list[list[object]]]:
    """List what changed of the edges, and of the nodes."""
    of_edges: list[list[object]] = []
    of_nodes: list[list[object]] = []
    for i, label in enumerate(line.labels):
        found, drawn = ["-"] * 6, ["-"] * 3
        if i:
            change, to_first = line.to_last(i), line.to_first(i).edges.jaccard
            edges, nodes = change.edges, change.nodes
            likeness = (edges.jaccard, edges.corrected, change.weighted, to_first)
            found = [str(edges.only_b), str(edges.only_a), *map(show.ratio, likeness)]
            drawn = [str(nodes.only_b), str(nodes.only_a), show.ratio(nodes.jaccard)]
        of_edges.append([label, len(line.circuits[i]), *found])
        of_nodes.append([label, sum(i in life for life in line.nodes), *drawn])
    return of_edges, of_nodes


def _life_rows(line: Timeline, lives: Iterable[Life]) -> Iterable[list[object]]:
    for life in lives:
        place = line.graph.locate(life.thing)  # type: ignore[arg-type]
        last = float(line.scores[-1][place])
        ends = ([line.labels[i] for i in sorted(set(span))] for span in life.spans)
        alive = ", ".join(" to ".join(names) for names in ends)
        yield [str(life.thing), alive, float(line.peaks[place]), last]
