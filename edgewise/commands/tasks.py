"""`edgewise tasks`: what tasks there are, built in or in files, and what their pairs look like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import click

from . import options, show
from .accepted import COUNT, FILE, Known, WholeNumber, option, usage

if TYPE_CHECKING:
    from ..patching.prompts.pairs import PromptPairs
    from ..patching.tasks import Sample, TaskResult


def _known(name: str) -> object:
    from ..experiment.task import is_file
    from ..patching.tasks import get_task

    return None if is_file(name) else get_task(name)


@click.command(short_help="List the built-in tasks, or show sample pairs of one or of a file.")
@click.argument("name", required=False, type=Known(_known), metavar="[NAME|FILE]")
@option("--model MODEL", "Make or read the pairs with this model's tokenizer.")
@option("--examples N", "Pairs to show; default 4.", type=COUNT)
@option("--seed N", "Decides which pairs; default 0.", type=WholeNumber(0), default=0)
@options.task_option
@options.answers_options
@option("--fitting", "Of a file: leave out, and count, pairs that do not fit this tokenizer.")
@option("-o --output PAIRS.jsonl", "Write the pairs as JSON Lines: of a file all.", type=FILE)
@options.licence_option
@options.json_option
def tasks(
    name: str | None,
    model: str | None,
    examples: int | None,
    task_settings: dict[str, str] | None,
    output: str | None,
    as_json: bool,
    **how: Any,
) -> None:
    """List the built-in tasks; with a NAME, show its options and sample pairs.

    With --model the pairs are made for that model's tokenizer, and what had to be left out is
    counted: words that are not one token, pairs that do not align. Of a FILE it is said what was
    understood: of which shape it is, and what becomes of its keys.
    """
    from ..experiment.task import check_task, is_file
    from ..patching.tasks import describe_tasks

    if name is None:
        if model or task_settings or output:
            raise click.UsageError("--model, --task-option and -o need a task's NAME or a FILE.")
        found = describe_tasks()
        if as_json:
            show.emit({"tasks": found})
            return
        show.facts(*((str(task["name"]), task["summary"]) for task in found))
        show.line()
        show.line("edgewise tasks NAME shows a task's options and sample pairs,")
        show.line("edgewise tasks FILE what a file of prompts is understood to hold.")
        return
    given = task_settings or {}
    with usage():
        check_task(name, given)
    options.claim(output, *([name] if is_file(name) else []))
    if is_file(name):
        _file(name, model, examples, how, output, as_json)
    else:
        seed = how.pop("seed")
        if any(how.values()):
            raise click.UsageError(
                "--fitting, --answers, --system and --continue are of files of prompts."
            )
        _built_in(name, model, (examples or SHOWN, seed, given), output, as_json)


SHOWN = 4
"""How many pairs are shown if nothing is said."""


def _file(
    name: str,
    model: str | None,
    examples: int | None,
    how: dict[str, Any],
    output: str | None,
    as_json: bool,
) -> None:
    """Show what was understood of a file, read with a seed and ways, and its first pairs."""
    from ..patching.prompts.pair_files import fitting_pairs, read_pairs, write_pairs
    from ..patching.tasks import format_samples
    from ..session import open_task, open_vocabulary

    tokenizer, fitting = None, how.pop("fitting")
    if model is None:
        if fitting:
            raise click.UsageError("what fits depends on the tokenizer; give --model too.")
        pairs = read_pairs(name, seed=how["seed"], answers=how["answers"])
    elif fitting:
        if how.pop("system") or how.pop("continued"):
            raise click.UsageError("--fitting leaves out pairs of text, not of chat.")
        tokenizer, size = open_vocabulary(model)
        pairs = fitting_pairs(
            name, tokenizer, vocab_size=size, seed=how["seed"], answers=how["answers"]
        )
        pairs = replace(pairs, pairs=pairs.pairs[: examples if output else None])
    else:
        tokenizer, _ = open_vocabulary(model)
        pairs, _ = open_task(model, name, examples=examples if output else None, **how)
    if output is not None:
        write_pairs(output, pairs)
    samples = _samples(pairs, tokenizer, examples or SHOWN)
    shape = pairs.origin["shape"]
    if as_json:
        show.understood({"file": name, **pairs.origin})
        about = {"name": pairs.name, "file": name, "shape": shape, "examples": len(pairs)}
        more = {"sha256": pairs.sha256, "seed": pairs.seed, "written": output}
        show.emit({**about, **more, "samples": [asdict(one) for one in samples]})
        return
    assert isinstance(shape, Mapping)
    show.line(f"{pairs.name}: {shape['understood']}")
    show.line()
    for text in format_samples(samples).splitlines():
        show.line(text)
    show.written(output)


def _samples(pairs: PromptPairs, tokenizer: Any, examples: int) -> list[Sample]:
    """Return the first pairs as people read them; ids where there is no tokenizer."""
    from ..patching.prompts.tokens import Tokens
    from ..patching.tasks import Sample

    tokens = None if tokenizer is None else Tokens(tokenizer)

    def text(ids: Sequence[int]) -> str:
        return " ".join(map(str, ids)) if tokens is None else tokens.text(ids)

    def each(answers: Sequence[Sequence[int]]) -> tuple[str, ...]:
        return tuple(text(ids) if tokens is None else "".join(tokens.show(ids)) for ids in answers)

    found = []
    for number, one in enumerate(pairs.pairs[:examples], start=1):
        answers, distractors = map(each, one.sequences)
        prompts = text(one.clean), text(one.corrupted or ())
        found.append(Sample(*prompts, answers, distractors, one.group or f"pair {number}"))
    return found


def _built_in(
    name: str,
    model: str | None,
    wanted: tuple[int, int, dict[str, str]],
    output: str | None,
    as_json: bool,
) -> None:
    """Show a built-in task's options and sample pairs: so many, of a seed, with its options."""
    from ..patching.prompts.pair_files import write_pairs
    from ..patching.tasks import describe_tasks, preview
    from ..session import make_pairs, open_vocabulary

    examples, seed, given = wanted
    about = next(task for task in describe_tasks() if task["name"] == name)
    made = None
    if model is None:
        common = [key for key in ("length", "groups") if key in given]
        if common or output:
            what = f"{common[0]} depends" if common else "what is written depends"
            raise click.UsageError(f"{what} on the tokenizer; give --model too.")
        samples = preview(name, examples=examples, seed=seed, **given)
    else:
        tokenizer, vocabulary = open_vocabulary(model)  # weights are not needed
        made = make_pairs(name, tokenizer, vocabulary, examples=examples, seed=seed, options=given)
        samples = made.samples
    if output is not None and made is not None:
        write_pairs(output, made.pairs)
    if as_json:
        report = None if made is None else asdict(made.report)
        show.emit({**about, "samples": [asdict(s) for s in samples], "report": report})
        return
    _print(about, samples, made)
    show.written(output)


def _print(about: dict[str, Any], samples: Sequence[Sample], made: TaskResult | None) -> None:
    from ..patching.tasks import format_samples

    show.line(f"{about['name']}: {about['summary']}")
    for one in about["options"]:
        kind = "a whole number" if one["type"] == "int" else one["type"]
        accepted = ", ".join(one["choices"]) or kind
        default = "none" if one["default"] is None else one["default"]
        show.line(f"  --task-option {one['name']}=…   {accepted}; default {default}")
    show.line(f"  spans: {', '.join(about['spans'])}")
    show.line()
    for text in format_samples(samples).splitlines():
        show.line(text)
    show.line()
    if made is None:
        show.line("Samples without a tokenizer; --model shows what one model's tokenizer allows.")
    else:
        show.line(f"{made.report}.")
