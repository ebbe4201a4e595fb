"""`edgewise roles`: what each head of a circuit, or of a model, measurably does."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import partial
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any

import click

from . import options, show
from .accepted import COUNT, FILE, option
from .causal import causal_option
from .flags import Flags, with_flags
from .given import in_model, read_all, require

if TYPE_CHECKING:
    from ..graphs.files import CircuitFile, RolesFile
    from ..graphs.files.exchange import Foreign
    from ..graphs.names import Node
    from ..graphs.roles import ModelRoles
    from ..progress import Reporter
    from ..steps.causal.found import CausalRoles

COLUMNS = {
    "previous": "previous",
    "duplicate": "duplicate",
    "induction": "induction",
    "copy": "copies",
    "anti_copy": "suppresses",
    "direct": "direct",
    "direct_share": "share",
}
"""Scores that are printed, with their columns' names."""


@click.command(short_help="Measure what heads do: previous token, induction, copying, …")
@click.argument("circuits", type=FILE, metavar="[CIRCUIT.json …]", nargs=-1)
@option(
    "--model MODEL",
    "In place of the circuit's own model, one for each circuit; without circuits: all heads "
    "of this model. Repeat for more.",
    "models",
    multiple=True,
)
@options.task_options(required=False, test=True)
@causal_option
@options.measure_options(searching=False)
@option("--all", "All heads of the model, with or without role.", "every")
@option("--sequences N", "Sequences of random tokens; default 32.", type=COUNT, default=32)
@option("-o --output ROLES.json", "Write what was measured.", type=FILE)
@options.percent_option
@options.family_option
@options.compute_options
@options.json_option
@with_flags
def roles(
    circuits: tuple[str, ...],
    models: tuple[str, ...],
    flags: Flags,
    every: bool,
    sequences: int,
    output: str | None,
    as_json: bool,
    **more: Any,
) -> None:
    """Measure what the heads of circuits attend to and write, and name what is large.

    Model and prompt pairs are those the circuit was found with, unless given. With several
    circuits or models, which may be of different shapes, their heads stand side by side by role.
    """
    from ..graphs.files import RolesFile, write_roles
    from ..graphs.files.roles import dump_roles
    from ..patching.engines import TORCH, about_engine
    from ..progress import reporting
    from .causal import print_causal

    causal, percent = bool(more["causal"]), more["percent"]
    _check(flags, circuits, causal)  # what is wrong is refused before anything is loaded
    subjects = _subjects(circuits, models, percent)
    options.claim(output, *circuits)
    with reporting() as progress:
        measured = [_measure(flags, one, every, sequences, progress, causal) for one in subjects]
        found = RolesFile(tuple(one for one, _ in measured), {"engine": about_engine(TORCH)})
    if output is not None:
        write_roles(output, found)
    for number, one in enumerate(found.models):
        where = f"{ascii_uppercase[number % 26]}: " if len(found.models) > 1 else ""
        show.note(*(where + text for text in one.notes))
    if as_json:
        show.emit_text(dump_roles(found, {"output": output}))
        return
    _print(found, every=every)
    for number, (_, caused) in enumerate(measured):
        if caused is not None:
            name = _letters(number) if len(measured) > 1 else ""
            print_causal(caused, name, every=every)
    show.written(output)


def _check(flags: Flags, circuits: Sequence[str], causal: bool) -> None:
    """Refuse what goes with --causal alone, and --causal without a task."""
    task = flags.task()
    alone = [name for name in ("metric", "ablation", "batch_size", "test") if name in flags]
    if alone and not causal:
        raise click.UsageError(
            f"--{alone[0].replace('_', '-')} needs --causal; the other measures do without."
        )
    if causal and task is None and not circuits:
        raise click.UsageError(
            "--causal measures what heads cause on a task; give --task, or a circuit."
        )


Subject = tuple["str | None", "CircuitFile | Foreign | None", "str | None"]
"""A circuit's path and file, if there is one, and the model to use in place of its own."""


def _subjects(
    circuits: Sequence[str], models: Sequence[str], percent: float | None = None
) -> list[Subject]:
    from ..graphs.files import CircuitFile
    from ..graphs.files.exchange import is_foreign

    if not circuits and not models:
        raise click.UsageError("Missing argument 'CIRCUIT.json', or --model.")
    if not circuits:
        return [(None, None, model) for model in models]
    for path in circuits:
        if os.path.isdir(path) and not is_foreign(path):
            raise click.UsageError(
                f"'{path}' is a directory, no circuit file; for all heads of a model: --model "
                f"{path}."
            )
    if models and len(models) != len(circuits):
        raise click.UsageError(
            f"--model is given {len(models)} times with {len(circuits)} circuits; accepted: once "
            "for each, in the same order, or not at all."
        )
    chosen: Sequence[str | None] = models or [None] * len(circuits)
    given = read_all(percent, *circuits)
    for one, model in zip(given, chosen, strict=True):
        if not isinstance(one, CircuitFile):
            require(one, model=model)
    return list(zip(circuits, given, chosen, strict=True))


def _measure(
    flags: Flags, subject: Subject, every: bool, sequences: int, progress: Reporter, causal: bool
) -> tuple[ModelRoles, CausalRoles | None]:
    from dataclasses import replace

    from ..experiment.spec import GraphSpec
    from ..graphs.files import CircuitFile
    from ..session import open_model, open_task
    from ..steps.head_roles import EXAMPLES, head_roles
    from ..steps.stored import open_for, weights_notes
    from . import causal as causally

    path, given, model = subject
    file = given if isinstance(given, CircuitFile) else None
    progress.say(f"loading and lifting {model or (file and file.model['name'])}")
    if given is None:
        graph = flags.over(GraphSpec())
        session = open_model(model, graph, flags.compute(), progress=progress)
    elif file is None:
        tried = flags.only("try_family")
        made = in_model(given, model, flags.compute(), progress, **tried)  # type: ignore[arg-type]
        file, session = made.file, made.session
    else:
        refusal = partial(_no_circuit_of, path)
        session = open_for(
            file, model, flags.compute(file), refusal=refusal, try_family=flags["try_family"],
            progress=progress,
        )  # fmt: skip
    pairs, notes, examples = None, list[str](), flags["examples"] or EXAMPLES
    task = flags.task()
    if task is not None:
        pairs, _ = open_task(session, task if task.file else task.but(examples=examples))
        show.understood(pairs.origin)
    elif file is not None and file is given:
        pairs, notes = flags.pairs(file, session)
        notes = [*weights_notes(file, session, same_model=model is None), *notes]
    caused: CausalRoles | None = None
    heads: CircuitFile | list[Node] | None = None if every else file
    if causal:
        caused, examples = causally.measure(flags, session, file, progress), min(examples, EXAMPLES)
        if heads is None and not every:
            heads = [node.node for node in causally.shown(caused) if node.attention] or None
    progress.say("measuring heads")
    found = head_roles(
        session, pairs, heads=heads, examples=examples, sequences=sequences,
        seed=flags["seed"] or 0, progress=progress,
    )  # fmt: skip
    found = replace(found, circuit=path, notes=(*notes, *found.notes))
    return replace(found, causal=None if caused is None else caused.as_dict()), caused


def _no_circuit_of(path: str | None, model: str, differences: str) -> str:
    return (
        f"{path} is no circuit of '{model}': their graphs differ in {differences} (circuit and "
        "model). Accepted: a model of the circuit's shape; to compare with a model of another, "
        "give its own circuit too, or give models without circuits."
    )


def _print(found: RolesFile, *, every: bool) -> None:
    names = [_letters(i) for i in range(len(found.models))]
    for number, (name, one) in enumerate(zip(names, found.models, strict=True)):
        if number:
            show.line()
        show.facts(*_facts(name if len(names) > 1 else "", one))
    if len(names) > 1:
        _print_comparison(found, names)
    for name, one in zip(names, found.models, strict=True):
        _print_heads(one, f"heads of {name}" if len(names) > 1 else "", every=every)


def _letters(number: int) -> str:
    return ascii_uppercase[number % 26] * (number // 26 + 1)


def _facts(name: str, one: ModelRoles) -> Iterator[tuple[str, object]]:
    number = "the" if len(one.heads) == one.total else f"{len(one.heads)} of"
    if one.circuit:
        yield name or "circuit", one.circuit
    yield (
        "model" if one.circuit or not name else name,
        f"{one.model['name']}, {number} {one.total} heads",
    )
    if one.task is not None:
        used = f"{one.measures['examples']} pairs used"
        value = f"mean logit difference {one.measures['logit_difference']:.4g}"
        yield "task", f"{one.task['name']}, {used}, {value}"
    sizes = "{sequences} blocks of {shortest} to {longest}".format_map(one.tokens)
    yield "tokens", f"{sizes} random tokens, twice each, seed {one.tokens['seed']}"


def _print_comparison(found: RolesFile, names: Sequence[str]) -> None:
    rows = [
        (one["role"] or "none", *map(len, one["heads"]), *one["matched"][1:])
        for one in found.comparison
    ]
    columns = ("role", *names, *(f"{name} as in {names[0]}" for name in names[1:]))
    show.table(columns, rows, title="heads by role")
    lists = [
        (f"{one['role']}, {name}", " ".join(f"{head} ({depth:.2f})" for head, depth in heads))
        for one in found.comparison
        if one["role"]
        for name, heads in zip(names, one["heads"], strict=True)
        if heads
    ]
    if lists:
        show.line()
        show.line("which, with their relative depth")
        show.facts(*lists)


def _print_heads(one: ModelRoles, title: str, *, every: bool) -> None:
    """Print the scores of a circuit's heads; of a whole model, those of heads with a role."""
    shown = [head for head in one.heads if every or one.circuit or head.roles]
    known = one.heads[0].spans if one.heads else ()  # a circuit may have no head
    spans = [key for key in known if any(h.spans[key] is not None for h in shown)]
    scores = [key for key in COLUMNS if any(h.scores[key] is not None for h in shown)]
    columns = ("head", "role", *(COLUMNS[key] for key in scores), *(f"→ {key}" for key in spans))
    rows = []
    for head in shown:
        values = [*(head.scores[key] for key in scores), *(head.spans[key] for key in spans)]
        cells = ("-" if v is None else f"{round(v, 2) + 0.0:.2f}" for v in values)  # no -0.00
        rows.append((str(head.node), head.label or "-", *cells))
    if rows:
        show.table(columns, rows, title=title)
    if left := len(one.heads) - len(shown):
        show.line()
        show.line(f"{left} heads without a role are not shown; --all shows them.")
