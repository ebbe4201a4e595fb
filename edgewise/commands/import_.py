"""`edgewise import`: make a circuit file of a circuit that another tool found."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from . import options, show
from .accepted import FILE, option
from .flags import Flags, with_flags
from .given import foreign, is_folder

if TYPE_CHECKING:
    from ..experiment.task import TaskSpec
    from ..graphs.files.exchange import Foreign
    from ..patching.prompts.pairs import PromptPairs
    from ..steps.imported import Imported


@click.command("import", short_help="Make a circuit file of another tool's circuit.")
@click.argument("source", type=FILE, metavar="FILE|FOLDER")
@option("--model MODEL", "The model it was found in.", type=FILE, required=True)
@options.task_options(required=False)
@options.measure_options(searching=False)
@options.selection_options
@options.percent_option
@options.family_option
@options.compute_options
@option(
    "-o --output NAME.json|FOLDER",
    "The circuit's file; or, of a folder of several sizes, a folder for a file of each.",
    type=FILE,
    required=True,
)
@options.json_option
@with_flags
def import_(
    source: str, model: str, flags: Flags, percent: float | None, output: str, as_json: bool
) -> None:
    """Make a circuit file of a circuit of EAP-IG, MIB, ACDC or Edge-Pruning.

    FILE is EAP-IG's JSON or .pt, an edge list of ACDC or Edge-Pruning, or a folder of MIB's; what
    is in it tells which. The model is lifted and certified, its graph must be the file's. With
    --task the circuit is measured, and its file holds the prompts.

    The edges are those the file keeps, or those that --top, --above or --faithfulness choose by its
    scores. A file that keeps no edge gives every edge with its score. Scores are written beside it.
    """
    from ..experiment.spec import Selection
    from ..progress import reporting
    from ..steps.imported import import_circuit

    task: TaskSpec | PromptPairs | None = flags.task()
    compute, select = flags.compute(), flags.over(Selection())
    targets = _targets(source, output, percent)
    if len(targets) > 1 and select.as_dict():
        raise click.UsageError(
            f"{source} holds a circuit of each size, which its file keeps; "
            f"--{next(iter(select.as_dict()))} chooses by the scores of one file. Give that file."
        )
    if output not in targets:
        options.claim_folder(
            output,
            "give a folder, in which a file of each size is written, or one file's name that ends "
            "in .json and the size with `percent`",
        )
    for one in targets:
        _claim(one, *(str(circuit.path) for circuit in targets.values()))
    how, written = flags.only("metric", "ablation", "try_family"), list[Written]()
    with reporting(on_prompts=show.understood) as progress:
        progress.say(f"loading and lifting {model}")
        opened: object = model
        for path, circuit in targets.items():
            made = import_circuit(circuit, opened, task, select, compute, progress=progress, **how)
            opened, task = made.session, made.pairs  # those of the next size too
            written.append(_write(path, made))
    if as_json:
        found = [one.as_dict() for one in written]
        show.emit(found[0] if output in targets else {"folder": output, "circuits": found})
    elif output in targets:
        _print(written[0].made)
        show.line(f"written: {written[0]}")
    else:
        _print_sizes(written)
        show.written(output)


def _targets(source: str, output: str, percent: float | None) -> dict[str, Foreign]:
    """Map the files that are written to the circuits that they are of: one, or one of each size.

    An output that does not end in .json is a folder where there are several sizes to be written.
    """
    from ..graphs.files.exchange import read_sizes

    if percent is not None or not is_folder(source) or output.endswith(".json"):
        return {output: foreign(source, percent)}
    sizes = read_sizes(source)
    if len(sizes) == 1:
        return {output: foreign(source)}
    found: dict[str, Foreign] = {}
    for one in sizes:
        show.aside(f"{one}.")
        path = os.path.join(output, f"{one.path.stem}.json")
        if path in found:
            path = os.path.join(output, f"{one.path.name}.json")
        found[path] = one
    return found


def _claim(output: str, *inputs: str) -> None:
    """Keep a circuit's file, and the one of its scores, for this command."""
    from ..graphs.files import check_writable, scores_path

    options.claim(output, *inputs)
    check_writable(scores_path(output), *inputs)


@dataclass(frozen=True)
class Written:
    """An imported circuit, its file, and that of its scores if it has some."""

    made: Imported
    path: str
    scores: str | None

    def __str__(self) -> str:
        return self.path + (f" and {self.scores}" if self.scores else "")

    def as_dict(self) -> dict[str, object]:
        """Return what is printed for programs."""
        evaluation = self.made.evaluation
        measured = None if evaluation is None else evaluation.as_dict()
        blocks = {"circuit": self.path, "scores": self.scores, **self.made.file.provenance}
        return {**blocks, "evaluation": measured}


def _write(path: str, made: Imported) -> Written:
    from ..graphs.files import write_circuit, write_scores

    sidecar = None
    if made.scores is not None:
        sidecar = str(write_scores(path, made.scores.scores, **made.scores.about))
    write_circuit(path, made.file)
    return Written(made, path, sidecar)


def _print_sizes(written: Sequence[Written]) -> None:
    made = written[0].made
    total = made.file.circuit.graph.edge_count
    show.facts(
        ("model", made.session.loaded.title),
        ("graph", made.file.circuit.graph.describe()),
    )
    rows = []
    for one in written:
        evaluation, edges = one.made.evaluation, len(one.made.file.circuit)
        kept = None if evaluation is None else evaluation.estimate("faithfulness")
        faithfulness = [] if kept is None else [show.estimate(kept)]
        rows.append((one.path, edges, f"{100 * edges / total:.2f}%", *faithfulness))
    columns = ("circuit", "edges", "share", *["faithfulness"] * (made.evaluation is not None))
    show.table(columns, rows)


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
