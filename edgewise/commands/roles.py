"""`edgewise roles`: what each head of a circuit, or of a model, measurably does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any

import click

from . import options, show

if TYPE_CHECKING:
    from ..graphs.files import CircuitFile, RolesFile
    from ..graphs.roles import ModelRoles
    from ..patching.prompts.pairs import PromptPairs
    from ..session import Progress, Session

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
@click.argument("circuits", metavar="[CIRCUIT.json …]", nargs=-1)
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="MODEL",
    help="In place of the circuit's own model, one for each circuit; without circuits: all heads "
    "of this model. Repeat for more.",
)
@options.task_options(required=False)
@click.option("--all", "every", is_flag=True, help="All heads of the model, with or without role.")
@click.option(
    "--sequences",
    type=click.IntRange(1),
    default=32,
    metavar="N",
    help="Sequences of random tokens; default 32.",
)
@click.option("-o", "--output", metavar="ROLES.json", help="Write what was measured.")
@options.compute_options
@options.json_option
def roles(circuits: tuple[str, ...], models: tuple[str, ...], **given: Any) -> None:
    """Measure what the heads of circuits attend to and write, and name what is large.

    Model and prompt pairs are those the circuit was found with, unless given. With several
    circuits or models, which may be of different shapes, their heads stand side by side by role.
    """
    from ..experiment.spec import check_task
    from ..graphs.files import RolesFile, write_roles
    from ..graphs.files.roles import dump_roles
    from ..progress import reporting

    settings = options.settings(given["task_settings"])
    if settings and given["task"] is None:
        raise click.UsageError("--task-option needs --task.")
    subjects = _subjects(circuits, models)
    if given["task"] is not None:
        with options.usage():
            check_task(given["task"], settings)
    output = given["output"]
    options.claim(output, *circuits)
    options.set_threads(given["threads"])
    with reporting() as progress:
        found = RolesFile(tuple(_measure(*one, given, settings, progress) for one in subjects))
    if output is not None:
        write_roles(output, found)
    for number, one in enumerate(found.models):
        where = f"{ascii_uppercase[number % 26]}: " if len(found.models) > 1 else ""
        for text in one.notes:
            show.note(where + text)
    if given["as_json"]:
        show.emit_text(dump_roles(found, {"output": output}))
        return
    _print(found, every=given["every"])
    if output is not None:
        show.line()
        show.line(f"written: {output}")


Subject = tuple["str | None", "CircuitFile | None", "str | None"]
"""A circuit's path and file, if there is one, and the model to use in place of its own."""


def _subjects(circuits: Sequence[str], models: Sequence[str]) -> list[Subject]:
    """Pair circuits with models; wrong usage if they do not go together."""
    from ..graphs.files import read_circuit

    if not circuits:
        if not models:
            raise click.UsageError("Missing argument 'CIRCUIT.json', or --model.")
        return [(None, None, model) for model in models]
    if models and len(models) != len(circuits):
        raise click.UsageError(
            f"--model is given {len(models)} times with {len(circuits)} circuits; accepted: once "
            "for each, in the same order, or not at all."
        )
    chosen: Sequence[str | None] = models or [None] * len(circuits)
    return [(path, read_circuit(path), model) for path, model in zip(circuits, chosen, strict=True)]


def _measure(
    path: str | None,
    file: CircuitFile | None,
    model: str | None,
    given: Mapping[str, Any],
    settings: Mapping[str, str],
    progress: Any,
) -> ModelRoles:
    """Open one model, make its pairs, and measure its heads."""
    from dataclasses import replace

    from ..steps.fit import weights_notes
    from ..steps.head_roles import EXAMPLES, head_roles

    progress.say(f"loading and lifting {model or (file and file.model['name'])}")
    session = _open(model, path, file, given, progress)
    pairs, notes = _pairs(session, file, given, settings)
    if file is not None and pairs is not None:
        notes = [*weights_notes(file, session, same_model=model is None), *notes]
    progress.say("measuring heads")
    found = head_roles(
        session,
        pairs,
        heads=None if given["every"] else file,
        examples=given["examples"] or EXAMPLES,
        sequences=given["sequences"],
        seed=given["seed"] or 0,
        progress=progress,
    )
    return replace(found, circuit=path, notes=(*notes, *found.notes))


def _open(
    reference: str | None,
    path: str | None,
    file: CircuitFile | None,
    given: Mapping[str, Any],
    progress: Progress,
) -> Session:
    """Load and lift a model; refuse one of another shape than the circuit."""
    from ..graphs.errors import GraphMismatch
    from ..session import open_model
    from ..steps.stored import open_stored

    graph = None if file is None else file.circuit.graph
    stored = None if file is None else file.discovery.get("dtype")
    load = partial(
        open_model,
        dtype=given["dtype"] or stored or "float32",
        device=given["device"],
        grouped_kv=graph is not None and graph.grouped_kv,
        split_embedding=graph is not None and graph.split_embedding,
        allow_pickle=given["allow_pickle"],
        progress=progress,
    )
    if reference is None:
        assert file is not None
        session = open_stored(file, load)
    else:
        session = load(reference)
    unequal = [] if graph is None else graph.differences(session.graph)
    if unequal:
        raise GraphMismatch(
            f"{path} is no circuit of '{session.loaded.name}': their graphs differ in "
            f"{'; '.join(unequal)} (circuit and model). Accepted: a model of the circuit's "
            "shape; to compare with a model of another, give its own circuit too, or give models "
            "without circuits."
        )
    return session


def _pairs(
    session: Session,
    file: CircuitFile | None,
    given: Mapping[str, Any],
    settings: Mapping[str, str],
) -> tuple[PromptPairs | None, list[str]]:
    """Make the pairs of the task given, else of the circuit, with notes; None without any."""
    from ..experiment.spec import is_file
    from ..session import open_task
    from ..steps.head_roles import EXAMPLES
    from ..steps.stored import circuit_pairs

    changed = options.only_given({key: given[key] for key in ("examples", "seed", "bos")})
    if given["task"] is not None:
        few = {} if is_file(given["task"]) else {"examples": EXAMPLES}
        return open_task(session, given["task"], options=settings, **{**few, **changed})[0], []
    return (None, []) if file is None else circuit_pairs(file, session, changed)


# -- printing -----------------------------------------------------------------------------------


def _print(found: RolesFile, *, every: bool) -> None:
    names = [ascii_uppercase[i % 26] * (i // 26 + 1) for i in range(len(found.models))]
    for number, (name, one) in enumerate(zip(names, found.models, strict=True)):
        if number:
            show.line()
        show.facts(_facts(name if len(names) > 1 else "", one))
    if len(names) > 1:
        _print_comparison(found, names)
    for name, one in zip(names, found.models, strict=True):
        _print_heads(one, f"heads of {name}" if len(names) > 1 else "", every=every)


def _facts(name: str, one: ModelRoles) -> Iterator[tuple[str, object]]:
    some = f"{len(one.heads)} of {one.total} heads"
    of = f"the {one.total} heads" if len(one.heads) == one.total else some
    if one.circuit:
        yield name or "circuit", one.circuit
    yield "model" if one.circuit or not name else name, f"{one.model['name']}, {of}"
    if one.task is not None:
        used = f"{one.measures['examples']} pairs used"
        value = f"mean logit difference {one.measures['logit_difference']:.4g}"
        yield "task", f"{one.task['name']}, {used}, {value}"
    tokens = one.tokens
    yield (
        "tokens",
        f"{tokens['sequences']} blocks of {tokens['shortest']} to {tokens['longest']} random "
        f"tokens, twice each, seed {tokens['seed']}",
    )


def _print_comparison(found: RolesFile, names: Sequence[str]) -> None:
    """Print how many heads of each role each model has, and which."""
    rows = []
    for one in found.comparison:
        counts = [len(heads) for heads in one["heads"]]
        matched = one["matched"][1:]
        rows.append((one["role"] or "none", *counts, *matched))
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
        show.facts(lists)


def _print_heads(one: ModelRoles, title: str, *, every: bool) -> None:
    """Print the scores of a circuit's heads; of a whole model, those of heads with a role."""
    shown = [head for head in one.heads if every or one.circuit or head.roles]
    spans = [key for key in one.heads[0].spans if any(h.spans[key] is not None for h in shown)]
    scores = [key for key in COLUMNS if any(h.scores[key] is not None for h in shown)]
    columns = ("head", "role", *(COLUMNS[key] for key in scores), *(f"→ {key}" for key in spans))
    rows = [
        (
            str(head.node),
            head.label or "-",
            *(_cell(head.scores[key]) for key in scores),
            *(_cell(head.spans[key]) for key in spans),
        )
        for head in shown
    ]
    if rows:
        show.table(columns, rows, title=title)
    left = len(one.heads) - len(shown)
    if left:
        show.line()
        show.line(f"{left} heads without a role are not shown; --all shows them.")


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{round(value, 2) + 0.0:.2f}"  # no -0.00
