"""`edgewise tasks`: what built-in tasks there are, and what their prompt pairs look like."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from . import options, show

if TYPE_CHECKING:
    from ..patching.tasks import TaskResult


def _built_in(name: str) -> object:
    from ..patching.tasks import get_task

    return get_task(name)


@click.command(short_help="List the built-in tasks, or show sample pairs of one.")
@click.argument("name", required=False, type=options.Known("NAME", _built_in))
@click.option("--model", metavar="MODEL", help="Make the pairs for this model's tokenizer.")
@click.option(
    "--examples", type=click.IntRange(1), default=4, metavar="N", help="Pairs to show; default 4."
)
@click.option(
    "--seed", type=click.IntRange(0), default=0, metavar="N", help="Decides which pairs; default 0."
)
@options.task_option
@options.json_option
def tasks(
    name: str | None,
    model: str | None,
    examples: int,
    seed: int,
    task_settings: tuple[tuple[str, str], ...],
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
        show.facts((str(task["name"]), task["summary"]) for task in found)
        show.line()
        show.line("edgewise tasks NAME shows a task's options and sample pairs.")
        return
    from ..experiment.task import check_task
    from ..session import make_pairs, open_vocabulary

    given = options.settings(task_settings)
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


def _print(about: dict[str, Any], samples: tuple[Any, ...], made: TaskResult | None) -> None:
    from ..patching.tasks import format_samples

    show.line(f"{about['name']}: {about['summary']}")
    for option in about["options"]:
        accepted = ", ".join(option["choices"]) or {"int": "a whole number"}.get(
            option["type"], option["type"]
        )
        default = "none" if option["default"] is None else option["default"]
        show.line(f"  --task-option {option['name']}=…   {accepted}; default {default}")
    show.line()
    for text in format_samples(samples).splitlines():
        show.line(text)
    show.line()
    if made is None:
        show.line("Samples without a tokenizer; --model shows what one model's tokenizer allows.")
    else:
        show.line(f"{made.report}.")
