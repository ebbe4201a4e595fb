"""`edgewise diff`: what two circuits share and what only one of them has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from ..graphs.levels.nodes import told
from . import options, show
from .accepted import FILE, WholeNumber, option
from .diff_show import (
    p_text,
    print_changes,
    print_cross,
    print_floor,
    print_function,
    print_lone,
    print_roles,
    print_scores,
)
from .flags import Flags, flag_name, with_flags
from .given import compared, read_all

if TYPE_CHECKING:
    from ..graphs.files import CircuitFile, DiffFile
    from ..graphs.files.exchange import Foreign
    from ..graphs.overlap import Overlap
    from ..graphs.scores import Scores

OF_MODELS = (
    "batch_size", "dtype", "threads", "delta", "delta_share", "controls", "function", "level",
)  # fmt: skip
"""Flags that say how something is done in the models."""

COLUMNS = ("shared", "only A", "only B", "Jaccard", "corrected", "p")


@click.command(short_help="Compare two circuits on equal graphs.")
@click.argument("a", type=FILE, metavar="A.json")
@click.argument("b", type=FILE, metavar="B.json")
@options.paired_options
@click.option(
    "--function/--no-function",
    default=None,
    help="Measure what the edges that changed do in both models (default), or not.",
)
@option(
    "--noise-floor R",
    "Repeat the discovery R times in each model on other prompts, and tell how stable the two "
    "sets of edges are.",
    type=WholeNumber(2),
)
@option("--cross", "Run both circuits, what they share and their union in both models.")
@option("--roles", "Measure in both models what the heads of the circuits do.")
@option("--model-a MODEL", "The model of A; default: the one its file names.")
@option("--model-b MODEL", "The model of B; default: the one its file names.")
@options.task_options(required=False)
@options.percent_option
@options.batch_option
@options.family_option
@options.compute_options
@option("-o --output DIFF.json", "Write the diff, for `edgewise draw`.", type=FILE)
@options.json_option
@with_flags
def diff(
    a: str,
    b: str,
    flags: Flags,
    percent: float | None,
    output: str | None,
    as_json: bool,
    **models: str | None,
) -> None:
    """Compare the circuits of two files.

    Corrected is the Jaccard index with the overlap of random circuits of the same sizes as 0; p is
    how often random circuits of these sizes share as much.

    Then both models score every edge on the same prompts, and each edge's change is tested against
    the smallest one that matters. Where a model cannot be opened, the structure alone is compared;
    --no-paired does no more than that.

    A circuit may be a file of EAP-IG, ACDC or Edge-Pruning, or a folder of MIB's. It is put on the
    graph it states, on that of the other circuit, or on that of the model that is named; models are
    then compared on --task, or on the other circuit's prompts.
    """
    from ..experiment.spec import ComparisonSpec
    from ..graphs.files import CircuitFile, unlike, write_diff
    from ..progress import reporting
    from ..steps.compare import look_closer, structure_only
    from ..workflow import compare

    given = read_all(percent, a, b)
    sources = (models["model_a"], models["model_b"])
    how = flags.over(ComparisonSpec())
    _check_others(given, flags)
    asked = flags.only(*OF_MODELS)
    for name, value in models.items():
        if value is not None and isinstance(given[name == "model_b"], CircuitFile):
            asked[name] = value
    lacking = None if how.asks else _lacking(given, sources, flags)
    closer = how.asks or (how.paired is None and lacking is None)
    if asked and not closer:
        raise click.UsageError(
            f"{flag_name(next(iter(asked)))} is for what is done in the models, which is "
            f"left out ({lacking or '--no-paired'})."
        )
    if asked and how.paired is None:
        how = how.but(paired=True)  # then it is no matter of course that can be left out
    options.claim(output, a, b)
    with reporting() as progress:
        files = compared(given, sources, flags, progress, closer=closer)
    scores = (_scores(a, given[0], files[0]), _scores(b, given[1], files[1]))
    found = compare(*files, names=(a, b), scores=scores)
    notes: list[str] = []
    if lacking is not None and how.paired is None:
        notes.append(structure_only(lacking))
    if closer:
        computes = (flags.compute(files[0]), flags.compute(files[1]))
        with reporting() as progress:
            progress.say("loading and lifting model A")
            found, notes = look_closer(
                found, files, how, computes, sources, progress, flags["try_family"]
            )
    if output is not None:
        write_diff(output, found)
    others = unlike(found.a, found.b)
    if as_json:
        edges = ("comparison.edges", "noise_floor.edges")
        lists = ["shared", "only_a", "only_b", "changes", *edges]
        show.emit({**_document(found, others, output), "notes": notes}, rows=lists)
        return
    if others:
        differently = "the circuits were found differently, which may show in the diff"
        show.note(f"{differently}: {'; '.join(others)}.")
    show.note(*notes)
    shown = (
        print_lone,
        print_changes,
        print_function,
        print_scores,
        print_floor,
        print_cross,
        print_roles,
    )
    for part in (_print, *shown):
        part(found)
    show.written(output)


def _scores(path: str, given: CircuitFile | Foreign, file: CircuitFile) -> Scores | None:
    """Return the scores of all edges: those beside a circuit's file, or in another tool's."""
    from ..graphs.files import CircuitFile
    from ..workflow import beside_scores

    if isinstance(given, CircuitFile):
        return beside_scores(path, file)
    return given.on(file.circuit.graph)[1]


def _check_others(given: Sequence[CircuitFile | Foreign], flags: Flags) -> None:
    """Refuse what circuits of other tools cannot have, and prompts where there is none of them."""
    from ..graphs.files import CircuitFile

    others = [one for one in given if not isinstance(one, CircuitFile)]
    if flags["task"] is not None and not others:
        raise click.UsageError(
            "--task is for circuits of other tools, whose files hold no prompts; these hold theirs."
        )
    flags.task()
    if others and flags["noise_floor"] is not None:
        raise click.UsageError(
            f"--noise-floor repeats the discovery, and {others[0].path} was found by "
            f"{others[0].tool}, so it cannot be repeated here; accepted: circuits that were found "
            "here. What can be told of this one, on --task: without --noise-floor, which edges "
            "changed between the two models, and with --cross, what both circuits do in both."
        )


def _lacking(
    given: Sequence[CircuitFile | Foreign], sources: Sequence[str | None], flags: Flags
) -> str | None:
    """Say what of a circuit of another tool is not named, so that its model cannot be run."""
    from ..graphs.files import CircuitFile

    others = [side for side, one in enumerate(given) if not isinstance(one, CircuitFile)]
    for side in others:
        if sources[side] is None:
            tool, option = given[side].tool, f"--model-{'ab'[side]}"  # type: ignore[union-attr]
            return f"the file of {tool} names no model; give {option}"
    if len(others) == 2 and flags["task"] is None:
        return "neither file names prompts; give --task"
    return None


def _document(found: DiffFile, others: list[str], output: str | None) -> dict[str, object]:
    from ..graphs.files.circuit import edge_rows

    diff, scores = found.diff, (found.scores_a, found.scores_b)
    parts = {"shared": diff.shared, "only_a": diff.only_a, "only_b": diff.only_b}
    return {
        "a": found.a,
        "b": found.b,
        "diff": output,
        "unlike": others,
        "statistics": diff.summary().to_dict(),
        "scores": vars(found.scores),
        **found.blocks,
        "nodes": {name: [str(node) for node in nodes] for name, nodes in diff.nodes.items()},
        **{name: edge_rows(circuit, *scores) for name, circuit in parts.items()},
        "changes": [[str(e.sender), str(e.port), *numbers] for e, *numbers in found.changes],
    }


def _print(found: DiffFile) -> None:
    summary = found.diff.summary()
    for name, head, circuit in (("A", found.a, found.diff.a), ("B", found.b, found.diff.b)):
        level = told(head.get("discovery", {}).get("level"), circuit)
        words = (f"{len(circuit):,} edges", f"{len(circuit.nodes):,} nodes", level)
        named = ", ".join(filter(None, (head["model"]["name"], *words)))
        show.facts((name, f"{head['file']}: {named}"))
    for what, whole, kinds in (
        ("edges into", summary.edges, summary.edges_by_kind),
        ("nodes", summary.nodes, summary.nodes_by_kind),
    ):
        rows = [(show.kind(kind), *_cells(overlap)) for kind, overlap in kinds.items()]
        show.table((what, *COLUMNS), [*rows, ("all", *_cells(whole))])
    rows = []
    for layer, edges in summary.edges_by_layer.items():
        nodes = summary.nodes_by_layer.get(layer)
        if edges.a or edges.b or (nodes is not None and (nodes.a or nodes.b)):
            counted = ["-"] * 3 if nodes is None or layer is None else _cells(nodes)[:3]
            rows.append(("logits" if layer is None else str(layer), *_cells(edges)[:3], *counted))
    columns = [f"{what}: {name}" for what in ("edges", "nodes") for name in COLUMNS[:3]]
    if rows:
        show.table(("layer", *columns), rows)


def _cells(overlap: Overlap) -> list[str]:
    counts = (overlap.shared, overlap.only_a, overlap.only_b)
    jaccard = overlap.jaccard if overlap.a or overlap.b else None
    chance = p_text(overlap.p_value) if overlap.a and overlap.b else "-"
    return [*map("{:,}".format, counts), show.ratio(jaccard), show.ratio(overlap.corrected), chance]
