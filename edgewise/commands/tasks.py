"""`edgewise tasks`: what built-in tasks there are, and what their prompt pairs look like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from . import options, show
from .options import option

if TYPE_CHECKING:
    from ..patching.tasks import Sample, TaskResult


def _built_in(name: str) -> object:
    from ..patching.tasks import get_task

    return get_task(name)


@click.command(short_help="List the built-in tasks, or show sample pairs of one.")
@click.argument("name", required=False, type=options.Known(_built_in))
@option("--model MODEL", "Make the pairs for this model's tokenizer.")
@option("--examples N", "Pairs to show; default 4.", type=options.COUNT, default=4)
@option("--seed N", "Decides which pairs; default 0.", type=click.IntRange(0), default=0)
@options.task_option
@options.json_option
def tasks(
    name: str | None,
    model: str | None,
    examples: int,
    seed: int,
    task_settings: dict[str, str] | None,
    as_json: bool,
) -> None:
    """List the built-in tasks; with a NAME, show its options and sample pairs.

    With --model the pairs are made for that model's tokenizer, and what had to be left out is
    counted: words that are not one token, pairs that do not align.
    """
    from ..patching.tasks import describe_tasks, preview

    if name is None:
        if model or task_settings:
            raise click.UsageError("--model and --task-option need a task's NAME.")
        found = describe_tasks()
        if as_json:
            show.emit({"tasks": found})
            return
        show.facts(*((str(task["name"]), task["summary"]) for task in found))
        show.line()
        show.line("edgewise tasks NAME shows a task's options and sample pairs.")
        return
    from ..experiment.task import check_task
    from ..session import make_pairs, open_vocabulary

    given = task_settings or {}
    with options.usage():
        check_task(name, given)
    about = next(task for task in describe_tasks() if task["name"] == name)
    if model is None:
        common = [key for key in ("length", "groups") if key in given]
        if common:
            raise click.UsageError(f"{common[0]} depends on the tokenizer; give --model too.")
        samples, made = preview(name, examples=examples, seed=seed, **given), None
    else:
        tokenizer, vocabulary = open_vocabulary(model)  # weights are not needed
        made = make_pairs(name, tokenizer, vocabulary, examples=examples, seed=seed, options=given)
        samples = made.samples
    if as_json:
        report = None if made is None else asdict(made.report)
        show.emit({**about, "samples": [asdict(s) for s in samples], "report": report})
        return
    _print(about, samples, made)


def _print(about: dict[str, Any], samples: Sequence[Sample], made: TaskResult | None) -> None:
    from ..patching.tasks import format_samples

    show.line(f"{about['name']}: {about['summary']}")
    for one in about["options"]:
        kind = "a whole number" if one["type"] == "int" else one["type"]
        accepted = ", ".join(one["choices"]) or kind
        default = "none" if one["default"] is None else one["default"]
        show.line(f"  --task-option {one['name']}=…   {accepted}; default {default}")
    show.line()
    for text in format_samples(samples).splitlines():
        show.line(text)
    show.line()
    if made is None:
        show.line("Samples without a tokenizer; --model shows what one model's tokenizer allows.")
    else:
        show.line(f"{made.report}.")
