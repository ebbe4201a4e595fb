"""`edgewise import`: make a circuit file of a circuit that another tool found."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from . import options, show
from .given import foreign
from .options import FILE, Flags, option

if TYPE_CHECKING:
    from ..steps.imported import Imported


@click.command("import", short_help="Make a circuit file of another tool's circuit.")
@click.argument("source", type=FILE, metavar="FILE|FOLDER")
@option("--model MODEL", "The model it was found in.", type=FILE, required=True)
@options.task_options(required=False)
@options.measure_options(searching=False)
@options.selection_options
@option(
    "--percent K",
    "Of a folder with a circuit of each size, the largest with at most K percent of all edges.",
    type=click.FloatRange(0, 100, min_open=True),
)
@options.compute_options
@option("-o --output NAME.json", "The circuit's file.", type=FILE, required=True)
@options.json_option
@options.with_flags
def import_(
    source: str, model: str, flags: Flags, percent: float | None, output: str, as_json: bool
) -> None:
    """Make a circuit file of a circuit of EAP-IG, MIB, ACDC or Edge-Pruning.

    FILE is EAP-IG's JSON or .pt, an edge list of ACDC or Edge-Pruning, or a folder of MIB's; what
    is in it tells which. The model is lifted and certified, its graph must be the file's. With
    --task the circuit is measured, and its file holds the prompts.

    The edges are those the file keeps, or those that --top, --above or --faithfulness choose by its
    scores. A file that keeps none gives every edge with its score. Scores are written beside it.
    """
    from ..experiment.spec import Selection
    from ..graphs.files import check_writable, scores_path, write_circuit, write_scores
    from ..progress import reporting
    from ..steps.imported import import_circuit

    task, compute, select = flags.task(), flags.compute(), flags.over(Selection())
    options.claim(output, source)
    check_writable(scores_path(output), source)
    found = foreign(source, percent)
    with reporting(on_prompts=show.understood) as progress:
        progress.say(f"loading and lifting {model}")
        made = import_circuit(
            found, model, task, select, compute, progress=progress,
            **flags.only("metric", "ablation"),
        )  # fmt: skip
    sidecar = None
    if made.scores is not None:
        sidecar = write_scores(output, made.scores.scores, **made.scores.about)
    write_circuit(output, made.file)
    if as_json:
        measured = None if made.evaluation is None else made.evaluation.as_dict()
        scores = None if sidecar is None else str(sidecar)
        blocks = {"circuit": output, "scores": scores, **made.file.provenance}
        show.emit({**blocks, "evaluation": measured})
        return
    _print(made)
    show.line(f"written: {output}" + (f" and {sidecar}" if sidecar else ""))


def _print(made: Imported) -> None:
    from .evaluate import outcome, shown_task

    file, evaluation = made.file, made.evaluation
    graph, source = file.circuit.graph, file.discovery.get("source")
    assert isinstance(source, dict)  # import_circuit
    show.facts(
        ("circuit", f"{source['file']} of {source['tool']}"),
        ("model", made.session.loaded.title),
        ("graph", graph.describe()),
        ("task", "none" if evaluation is None else shown_task(file.task)),
        *(() if evaluation is None else outcome(evaluation)),
    )
    show.edges_by_kind(graph.count_by_kind(file.circuit.kept), graph.count_by_kind())
    show.line()
