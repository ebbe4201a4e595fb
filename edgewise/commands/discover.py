"""`edgewise discover`: find a circuit and write it with everything that led to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from ..discovery.registry import get_method, methods
from . import options, show
from .options import PREFIX, Asked, flag_name

if TYPE_CHECKING:
    from pathlib import Path

    from ..discovery.registry import Method
    from ..patching.tasks import TaskReport
    from ..session import Session
    from ..steps.discover import Found
    from ..store.journal import JournalFile


method_option = click.option(
    "--method",
    required=True,
    type=options.Known("NAME", get_method),
    help="How to find circuits; the methods are listed below.",
)


class DiscoverCommand(click.Command):
    """A command with an option for each option of each discovery method."""

    @property
    def _of_methods(self) -> list[click.Option]:
        owners: dict[str, list[Method]] = {}
        for method in methods().values():
            for key in method.options:
                owners.setdefault(key, []).append(method)
        return [_flag(key, found) for key, found in sorted(owners.items())]

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the general options and those of the methods, which are known only now."""
        params = super().get_params(ctx)
        return [*params[:-1], *self._of_methods, params[-1]]

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Tell what each method does."""
        with formatter.section("Methods"):
            formatter.write_dl([(name, method.summary) for name, method in methods().items()])


def _flag(key: str, owners: list[Method]) -> click.Option:
    option = owners[0].options[key]
    names = ", ".join(method.name for method in owners)
    name = [PREFIX + key, flag_name(key)]
    if option.type is bool:
        return click.Option(name, is_flag=True, default=None, help=f"[{names}] {option.help}.")
    text = f"[{names}] {option.help}; default {option.default}."
    kind: Any = click.Choice(option.choices) if option.choices else option.type
    return click.Option(name, type=kind, help=text)


def _those(can: str) -> str:
    """Name the methods that can be resumed, or can start from scores."""
    return ", ".join(name for name, method in methods().items() if getattr(method, can))


@click.command(cls=DiscoverCommand, short_help="Find a circuit and write it to a file.")
@click.option("--model", required=True, metavar="MODEL", help="See `edgewise lift --help`.")
@options.task_options(required=True)
@method_option
@options.measure_options(searching=True)
@options.selection_options
@click.option(
    "--from",
    "start",
    cls=options.Told,
    metavar="FILE",
    told=lambda: (
        f"[{_those('starts')}] Start from this circuit's edges, or from a file of scores, "
        "not from EAP-IG's."
    ),
)
@options.graph_options
@options.compute_options
@click.option(
    "--scores", is_flag=True, help="Write all scores too, to NAME.scores.safetensors beside it."
)
@click.option(
    "--resume",
    cls=options.Told,
    is_flag=True,
    told=lambda: (
        f"[{_those('resumable')}] Go on from the journal that a stopped run left beside the output."
    ),
)
@click.option("-o", "--output", required=True, metavar="NAME.json", help="The circuit's file.")
@options.json_option
@options.asking
def discover(
    model: str, asked: Asked, output: str, scores: bool, resume: bool, as_json: bool
) -> None:
    """Find the circuit of a task in a model.

    Methods that search keep what their options let them keep. The others score edges; say with
    --top, --above or --faithfulness which to keep. Without any, the file holds every edge with its
    score, and the scores are written beside it.

    While a search that can be resumed runs, NAME.journal.jsonl beside the output holds what it has
    decided. If it is stopped, the same command with --resume goes on and ends in the same circuit.
    """
    from ..graphs.errors import EdgewiseError
    from ..graphs.files import check_writable, scores_path, write_circuit, write_scores
    from ..progress import reporting
    from ..session import open_task
    from ..steps.discover import discover as find

    request = asked.experiment(model)
    spec, method = request.discovery, request.discovery.chosen
    with options.usage():
        if resume:
            method.check_resumable()
    inputs = [one for one in (asked["task"], model, asked["start"]) if one is not None]
    options.claim(output, *inputs)
    sidecar = scores_path(output) if scores or spec.keeps_all else None
    if sidecar is not None:
        check_writable(sidecar, *inputs)
    journal = _journal(output, resume, *inputs) if method.resumable else None
    with _kept_on_interrupt(journal), reporting() as progress:
        session = options.open_session(model, request.graph, request.compute, progress)
        progress.say("making prompt pairs")
        pairs, report = open_task(session, request.task)
        progress.say(spec.method)
        found = find(session, pairs, spec, request.compute, progress=progress, journal=journal)
    if sidecar is not None:
        write_scores(output, found.scores.scores, **found.scores.about)
    try:
        write_circuit(output, found.file)
    except EdgewiseError as error:
        beside = "" if sidecar is None else f" Its scores are written: {sidecar}."
        raise EdgewiseError(f"{error}{beside}") from error
    if journal is not None:
        journal.remove()
    if as_json:
        show.emit(_document(found, output, sidecar, report))
    else:
        _print(found, session, output, sidecar, report)


def _journal(output: str, resume: bool, *inputs: str) -> JournalFile:
    """Prepare the journal beside the output, and say what becomes of one that is there."""
    from ..graphs.files import check_writable
    from ..store.journal import JournalFile, journal_path

    path = journal_path(output)
    check_writable(path, *inputs)
    if resume and not path.exists():
        show.aside(f"There is no journal {path}; starting from the beginning.")
    if path.exists() and not resume:
        show.aside(f"Overwriting {path}; --resume would go on from it.")
    return JournalFile(path, resume=resume)


@contextmanager
def _kept_on_interrupt(journal: JournalFile | None) -> Iterator[None]:
    """Say how to go on when Ctrl-C stops a walk."""
    try:
        yield
    except KeyboardInterrupt:
        if journal is not None and journal.begun:
            click.echo(err=True)  # after the ^C
            show.aside(f"{journal.path} is kept: --resume goes on from it.")
        raise


def _document(
    found: Found, output: str, sidecar: Path | None, report: TaskReport | None
) -> Mapping[str, object]:
    from dataclasses import asdict

    return {
        "circuit": output,
        "scores": None if sidecar is None else str(sidecar),
        **found.file.provenance,
        "report": None if report is None else asdict(report),
        "evaluation": found.evaluation.as_dict(),
    }


def _print(
    found: Found, session: Session, output: str, sidecar: Path | None, report: TaskReport | None
) -> None:
    from ..progress import clock_time
    from .evaluate import outcome, shown_task

    noted, evaluation = found.file.discovery, found.evaluation
    method = f"{noted['method']}, metric {noted['metric']}, {noted['ablation']} ablation"
    questions = f", {noted['questions']:,} questions" if noted["questions"] else ""
    seconds = noted["seconds"] or 0.0
    took = f"{seconds:.1f} s" if seconds < 60 else clock_time(seconds)
    facts = [
        ("model", session.loaded.title),
        ("task", shown_task(found.file.task)),
        ("", None if report is None or not report.left_out else report),
        ("method", method),
        ("time", f"{took}, {noted['forward_equivalents']:.3g} forward passes{questions}"),
    ]
    show.facts([*facts, *outcome(evaluation)])
    show.edges_by_kind(evaluation.edges_by_kind, evaluation.edges_total_by_kind)
    show.line()
    show.line(f"written: {output}" + (f" and {sidecar}" if sidecar else ""))
