"""`edgewise discover`: find a circuit and write it with everything that led to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import click

from ..graphs.errors import unknown
from . import options, show

if TYPE_CHECKING:
    from pathlib import Path

    from ..discovery.registry import Method, Option
    from ..patching.tasks import TaskReport
    from ..session import Session
    from ..steps.discover import Found
    from ..store.journal import JournalFile

PREFIX = "method_option_"


def _method(text: str) -> object:
    from ..discovery.registry import get_method

    return get_method(text)


method_option = click.option(
    "--method",
    required=True,
    type=options.Known("NAME", _method),
    help="How to find circuits; the methods are listed below.",
)


class DiscoverCommand(click.Command):
    """A command with an option for each option of each discovery method."""

    @cached_property
    def _of_methods(self) -> list[click.Option]:
        from ..discovery.registry import methods

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
        from ..discovery.registry import methods

        with formatter.section("Methods"):
            formatter.write_dl([(name, method.summary) for name, method in methods().items()])


def flag_name(key: str) -> str:
    """Write an option's key as its flag.

    >>> flag_name("ports_first")
    '--ports-first'
    """
    return "--" + key.replace("_", "-")


def _flag(key: str, owners: list[Method]) -> click.Option:
    option = owners[0].options[key]
    names = ", ".join(method.name for method in owners)
    name = [PREFIX + key, flag_name(key)]
    if option.type is bool:
        return click.Option(name, is_flag=True, default=None, help=f"[{names}] {option.help}.")
    text = f"[{names}] {option.help}; default {option.default}."
    return click.Option(name, type=_type(option), default=None, help=text)


def _type(option: Option) -> Any:
    if option.choices:
        return click.Choice(option.choices)
    return click.types.convert_type(option.type)


@click.command(cls=DiscoverCommand, short_help="Find a circuit and write it to a file.")
@click.option("--model", required=True, metavar="MODEL", help="See `edgewise lift --help`.")
@options.task_options(required=True)
@method_option
@options.measure_options(options.of_the_method, options.of_circuits)
@options.selection_options
@click.option(
    "--from",
    "start",
    metavar="FILE",
    help="[refine] Start from this circuit's edges, or from a file of scores, not from EAP-IG's.",
)
@options.graph_options
@options.compute_options
@click.option(
    "--scores", is_flag=True, help="Write all scores too, to NAME.scores.safetensors beside it."
)
@click.option(
    "--resume",
    is_flag=True,
    help="[acdc] Go on from the journal that a stopped run left beside the output.",
)
@click.option("-o", "--output", required=True, metavar="NAME.json", help="The circuit's file.")
@options.json_option
def discover(**given: Any) -> None:
    """Find the circuit of a task in a model.

    acdc and refine search, and keep what their options let them keep. The other methods score
    edges; say with --top, --above or --faithfulness which to keep. Without any, the file holds
    every edge with its score, and the scores are written beside it.

    While acdc runs, NAME.journal.jsonl beside the output holds what it has decided. If it is
    stopped, the same command with --resume goes on and ends in the same circuit.
    """
    from ..discovery.registry import get_method
    from ..experiment.asking import read_start, request
    from ..experiment.spec import Selection, check_task
    from ..graphs.files import check_writable, scores_path, write_circuit, write_scores
    from ..progress import reporting
    from ..session import open_task
    from ..steps.discover import discover as find

    method = given["method"]
    task_settings = options.settings(given["task_settings"])
    own = given_options(given, method)
    start = None if given["start"] is None else read_start(given["start"])
    with options.usage():
        select = Selection(given["top"], given["above"], given["faithfulness"], given["signed"])
        asked = request(
            method, metric=given["metric"], ablation=given["ablation"] or options.of_circuits(),
            options=own, select=select, start=start,
        )  # fmt: skip
        check_task(given["task"], task_settings)
        if given["resume"]:
            get_method(method).check_resumable()
    output = given["output"]
    with_scores = given["scores"] or not (_selects(method) or select.as_dict())
    inputs = [given["task"], given["model"], *([given["start"]] if start else [])]
    options.claim(output, *inputs)
    sidecar = scores_path(output)
    if with_scores:
        check_writable(sidecar, *inputs)
    journal = _journal(output, given["resume"], *inputs) if get_method(method).resumable else None
    options.set_threads(given["threads"])
    with _kept_on_interrupt(journal), reporting() as progress:
        session = options.open_session(given, progress)
        progress.say("making prompt pairs")
        pairs, report = open_task(
            session, given["task"], examples=given["examples"], seed=given["seed"],
            bos=given["bos"], options=task_settings,
        )  # fmt: skip
        progress.say(method)
        found = find(
            session, pairs, method=method, metric=asked.metric, ablation=asked.ablation,
            batch_size=given["batch_size"], options=own, select=select, start=start,
            progress=progress, journal=journal,
        )  # fmt: skip
    if with_scores:
        scores = found.scores
        write_scores(
            output, scores.scores, method=method, metric=scores.metric, ablation=scores.ablation
        )
    write_circuit(output, found.file)
    if journal is not None:
        journal.remove()
    written = sidecar if with_scores else None
    if given["as_json"]:
        show.emit(_document(found, output, written, report))
    else:
        _print(found, session, output, written, report)


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


def _selects(method: str) -> bool:
    from ..discovery.registry import get_method

    return get_method(method).selects


def given_options(given: dict[str, Any], method: str) -> dict[str, Any]:
    """Return the method's options that were given; others' are wrong usage."""
    from ..discovery.registry import get_method, methods

    accepted = get_method(method).options
    own = {
        key.removeprefix(PREFIX): value
        for key, value in given.items()
        if key.startswith(PREFIX) and value is not None
    }
    for key in own:
        if key in accepted:
            continue
        owners = ", ".join(name for name, one in methods().items() if key in one.options)
        if not accepted:
            raise click.UsageError(
                f"{flag_name(key)} is an option of {owners}; method '{method}' has no options."
            )
        error = unknown(f"option of method '{method}'", flag_name(key), map(flag_name, accepted))
        raise click.UsageError(f"{error} {flag_name(key)} is an option of {owners}.")
    return own


def _document(
    found: Found, output: str, sidecar: Path | None, report: TaskReport | None
) -> dict[str, Any]:
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
    times = noted["forward_equivalents"]
    questions = f", {noted['questions']:,} questions" if noted["questions"] else ""
    seconds = noted["seconds"] or 0.0
    took = f"{seconds:.1f} s" if seconds < 60 else clock_time(seconds)
    show.facts(
        [
            ("model", session.loaded.title),
            ("task", shown_task(found.file.task)),
            ("", None if report is None or not report.left_out else report),
            (
                "method",
                f"{noted['method']}, metric {noted['metric']}, {noted['ablation']} ablation",
            ),
            ("time", f"{took}, {times:.3g} forward passes{questions}"),
            *outcome(evaluation),
        ]
    )
    show.edges_by_kind(evaluation.edges_by_kind, evaluation.edges_total_by_kind)
    show.line()
    show.line(f"written: {output}" + (f" and {sidecar}" if sidecar else ""))
