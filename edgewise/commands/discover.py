"""`edgewise discover`: find a circuit and write it with everything that led to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..discovery.registry import get_method, methods, scoring_method
from ..graphs.levels.nodes import LEVELS, told
from . import options, show
from .accepted import FILE, Known, among, option, usage
from .claims import check_penalty, control_option, print_repeated, rivals_options
from .flags import PREFIX, Flags, flag_name, with_chosen, with_flags
from .given import sized

if TYPE_CHECKING:
    from ..discovery.registry import Method
    from ..experiment.spec import DiscoverySpec
    from ..patching.prompts.splits import PromptSplit
    from ..steps.discover import Found
    from ..store.journal import JournalFile


method_option = option(
    "--method NAME",
    lambda: (
        "How to find circuits; the methods are listed below. Default: "
        f"{scoring_method().name}, and if nothing says which edges to keep, {_usual()}."
    ),
    type=Known(get_method),
)


def _usual() -> str:
    from ..experiment.spec import Selection

    return str(Selection.usual())


class DiscoverCommand(click.Command):
    """A command with an option for each option of each discovery method."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the general options and those of the methods, which are known only now."""
        *params, last = super().get_params(ctx)
        owners: dict[str, list[Method]] = {}
        for method in methods().values():
            for key in filter(None, (*method.options, method.chosen_by)):
                owners.setdefault(key, []).append(method)
        return [*params, *(_flag(key, found) for key, found in sorted(owners.items())), last]

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Tell what each method does."""
        with formatter.section("Methods"):
            formatter.write_dl([(name, method.summary) for name, method in methods().items()])


CHOSEN = (
    "a file of edges, which alone are measured and kept: one a line, as in m0->a3.h1<q>, or JSON, "
    "or scores, or a circuit"
)


def _flag(key: str, owners: list[Method]) -> click.Option:
    name, chosen = [PREFIX + key, flag_name(key)], [one for one in owners if one.chosen_by == key]
    owners = [one for one in owners if one not in chosen]
    of_edges = f"[{', '.join(one.name for one in chosen)}] {CHOSEN}" if chosen else ""
    if not owners:
        return click.Option(name, type=FILE, help=f"{of_edges}.")
    found, named = owners[0].options[key], ", ".join(method.name for method in owners)
    text = f"[{named}] {found.help}"
    if chosen:
        number = f"{text}; default {found.default}. {of_edges}."
        return click.Option(name, metavar="N|FILE", help=number)
    if found.type is bool:
        return click.Option(name, is_flag=True, default=None, help=f"{text}.")
    kind: Any = click.Choice(found.choices) if found.choices else found.type
    return click.Option(name, type=kind, help=f"{text}; default {found.default}.")


@click.command(cls=DiscoverCommand, short_help="Find a circuit and write it to a file.")
@options.model_option
@options.task_options(required=True, test=True)
@method_option
@options.measure_options(searching=True)
@options.selection_options
@option(
    "--from FILE",
    lambda: (
        f"[{', '.join(name for name, one in methods().items() if one.starts)}] Start from this "
        "circuit's edges, which may be another tool's, or from a file of scores, not from those of "
        f"{scoring_method().name}."
    ),
    "start",
    type=FILE,
)
@options.percent_option
@options.graph_options
@options.compute_options
@control_option
@rivals_options
@option(
    "--level NAME",
    lambda: (
        "What is scored, and counted by --top: "
        f"{'; '.join(f'{level} ({does})' for level, does in LEVELS.items())}. Default: edge."
    ),
    "circuit_level",
    type=Known(among("level", LEVELS)),
)
@option("--mlps L,M,…", "At level neuron: the layers whose MLPs' neurons are nodes, such as 9.")
@option(
    "--spans",
    "Tell named spans of the prompts' positions apart, such as subject, s2 and end: an edge is "
    "kept at some and ablated at others. Built-in tasks name theirs, files may.",
    default=None,
)
@option("--scores", "Write all scores too, to NAME.scores.safetensors beside it.")
@option(
    "--per-example",
    lambda: (
        f"[{', '.join(name for name, one in methods().items() if one.by_example)}] Write the "
        "scores on each example too, to NAME.examples.safetensors, in half precision."
    ),
    default=None,
)
@option(
    "--resume",
    lambda: (
        f"[{', '.join(name for name, one in methods().items() if one.resumable)}] Go on from the "
        "journal that a stopped run left beside the output."
    ),
)
@option("-o --output NAME.json", "The circuit's file.", type=FILE, required=True)
@options.json_option
@with_flags
def discover(
    model: str,
    flags: Flags,
    output: str,
    scores: bool,
    resume: bool,
    as_json: bool,
    **size: float | None,
) -> None:
    """Find the circuit of a task in a model.

    Methods that search keep what their options let them keep. The others score edges; say with
    --top, --above, --faithfulness or --target which to keep. A method named without any keeps every
    edge that has a score, and the scores are written beside it. Without --method too, a method and
    a selection are chosen that serve most tasks, and it is said which.

    While a search that can be resumed runs, NAME.journal.jsonl beside the output holds what it has
    decided. If it is stopped, the same command with --resume goes on and ends in the same circuit.
    """
    from ..graphs.files import check_writable, examples_path, scores_path
    from ..progress import reporting
    from ..session import open_model, open_split
    from ..steps.claims.control import controlled
    from ..steps.claims.rivals import refuse_rivals, with_rivals
    from ..steps.discover import discover as find

    flags = _started(flags, **size)
    request = flags.experiment(model)
    spec, method = request.discovery, request.discovery.chosen
    if spec.start is not None and spec.start.said:
        show.aside(f"{spec.start.said}.")
    with usage():
        if resume:
            method.check_resumable()
        if request.evaluation.rivals:
            refuse_rivals(spec)
    check_penalty(flags)
    inputs = [one for one in (flags["task"], model, flags["start"]) if one is not None]
    options.claim(output, *inputs)
    sidecar = scores_path(output) if scores or spec.keeps_all else None
    by_example = examples_path(output) if spec.per_example else None
    for path in filter(None, (sidecar, by_example)):
        check_writable(path, *inputs)
    journal = _journal(output, resume, *inputs) if method.resumable else None
    with _kept_on_interrupt(journal), reporting() as progress:
        progress.say(f"loading and lifting {model}")
        session = open_model(model, request.graph, request.compute, progress=progress)
        progress.say("making prompt pairs")
        pairs = open_split(session, request.task)
        report = pairs.report
        show.understood(pairs.discovery.origin)
        progress.say(spec.method)
        found = find(session, pairs, spec, request.compute, progress=progress, journal=journal)
        found = controlled(found, session, pairs, request, progress)
        found = with_rivals(found, session, pairs, request, progress)
    _write(output, found, sidecar)
    if journal is not None:
        journal.remove()
    if not as_json:
        _print(found, session.loaded.title, pairs, _selection(spec, found, flags))
        show.line(f"written: {output}" + (f" and {sidecar}" if sidecar else ""))
        if by_example is not None:
            show.line(f"         {by_example}, {_size(found, by_example)}")
        return
    document = {
        "circuit": output,
        "scores": None if sidecar is None else str(sidecar),
        "examples": None if by_example is None else str(by_example),
        **found.file.provenance,
        "stability": found.file.extra.get("stability"),
        "report": None if report is None else {**vars(report)},
        "evaluation": found.evaluation.as_dict(),
    }
    show.emit(document)


def _write(output: str, found: Found, sidecar: Path | None) -> None:
    """Write a circuit with what stands beside it; say if an earlier circuit's scores stay there."""
    from ..graphs.errors import EdgewiseError, FileFormatError
    from ..graphs.files import example_scores_of, write_circuit, write_example_scores, write_scores

    if sidecar is not None:
        write_scores(output, found.scores.scores, **found.scores.about, engine=found.scores.engine)
    if (each := found.examples) is not None:
        write_example_scores(
            output,
            each.scores,
            about=each.about,
            pairs_sha256=each.pairs_sha256,
            engine=each.engine,
        )
    try:
        write_circuit(output, found.file)
    except EdgewiseError as error:
        beside = "" if sidecar is None else f" Its scores are written: {sidecar}."
        raise EdgewiseError(f"{error}{beside}") from error
    if each is None:
        try:
            example_scores_of(found.file.at(Path(output)))
        except FileFormatError as error:
            show.aside(str(error))


def _started(flags: Flags, percent: float | None) -> Flags:
    """Have the flags name the circuit to start from that is meant in a folder of several sizes."""
    if flags["start"] is None and percent is not None:
        raise click.UsageError("--percent is for --from; give that too.")
    flags = with_chosen(flags)
    start = {} if flags["start"] is None else {"start": sized(flags["start"], percent)}
    return Flags(flags, **start)


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
    try:
        yield
    except KeyboardInterrupt:
        if journal is not None and journal.begun:
            click.echo(err=True)  # after the ^C
            show.aside(f"{journal.path} is kept: --resume goes on from it.")
        raise


def _selection(spec: DiscoverySpec, found: Found, flags: Flags) -> str | None:
    """Say which edges are kept, by whose choice, and what a size that was fitted reached there."""
    if not spec.select.as_dict():
        return None
    said, fitted = spec.select.words(spec.level), found.file.discovery.get("fitted")
    if fitted is not None:
        few = "" if fitted["halves"] > 1 else ": too few pairs to cut, so on those scored"
        said += f"{few} ({fitted['faithfulness']:.3f} there)"
        if "best_signed" in fitted:
            said += f"; by |score|, as by score no size tried was above {fitted['best_signed']:.3f}"
    return said if flags["method"] else f"by default {said}"


def _size(found: Found, path: Path) -> str:
    """Say how large the scores on each example are, in their file and while they were made."""
    import numpy as np

    assert found.examples is not None
    values = found.examples.scores.values
    examples, edges = values.shape
    size, on_disk = path.stat().st_size, isinstance(values, np.memmap)
    held = "in a temporary file" if on_disk else "in memory"
    return (
        f"{examples:,} examples x {edges:,} edges x {4 if size > 4 * values.size else 2} bytes: "
        f"{size / 1e6:,.1f} MB, {values.nbytes / 1e6:,.1f} MB {held}"
    )


def _print(found: Found, model: str, pairs: PromptSplit, selection: str | None) -> None:
    from ..discovery.searches.orders import survived
    from ..discovery.searches.stopping import stopped
    from ..progress import clock_time
    from .evaluate import not_held_out, outcome, shown_task, steadiness

    noted, evaluation, report = found.file.discovery, found.evaluation, pairs.report
    method = f"{noted['method']}, metric {noted['metric']}, {noted['ablation']} ablation"
    questions = f", {noted['questions']:,} questions" if noted["questions"] else ""
    seconds = noted["seconds"] or 0.0
    took = f"{seconds:.1f} s" if seconds < 60 else clock_time(seconds)
    show.facts(
        ("model", model),
        ("task", shown_task(found.file.task)),
        ("", None if report is None or not report.left_out else report),
        ("method", method),
        ("edges kept", selection),
        ("orders", survived(noted)),
        ("stopped", stopped(noted)),
        ("time", f"{took}, {noted['forward_equivalents']:.3g} forward passes{questions}"),
        ("keeps", told(noted.get("level"), found.file.circuit)),
        ("stability", steadiness(found.file)),
        *outcome(evaluation, found.held_out),
        ("held out", not_held_out(pairs) if found.held_out is None else None),
        ("gap", found.gap),
    )
    show.edges_by_kind(evaluation.edges_by_kind, evaluation.edges_total_by_kind)
    show.line()
    print_repeated(found.file.measures)
