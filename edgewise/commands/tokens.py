"""`edgewise tokens`: what each token of a prompt does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from . import options, show
from .accepted import COUNT, FILE, WholeNumber, option
from .flags import Flags, with_flags

if TYPE_CHECKING:
    from ..graphs.files.tables.tokens import TokensFile


@click.command(short_help="Measure what each token of a prompt does for the answer.")
@options.model_option
@options.task_options(required=True)
@options.measure_options(searching=False)
@option("--steps N", "Points of the integrated gradients; default 20.", type=COUNT)
@option("--show N", "How many prompts are printed token by token; default 1.", "shown",
        type=WholeNumber(0), default=1)  # fmt: skip
@option("-o --output TOKENS.json", "Write what was measured; `edgewise draw` colours the tokens.",
        type=FILE)  # fmt: skip
@options.family_option
@options.compute_options
@options.json_option
@with_flags
def tokens(
    model: str, flags: Flags, steps: int | None, shown: int, output: str | None, as_json: bool
) -> None:
    """Measure what each token of a task's prompts does for the answer.

    Twice: by integrated gradients along the way from the ablated embeddings to the prompt's, which
    add up over tokens; and exactly, each token's embedding ablated alone. Positive helps.
    """
    from ..experiment.spec import GraphSpec
    from ..graphs.files.tables.tokens import TABLES, write_tokens
    from ..progress import reporting
    from ..session import open_model, open_task
    from ..steps.facts.tokens import tokens_found

    task, compute = flags.task(), flags.compute()
    assert task is not None  # click requires it
    options.claim(output)
    with reporting() as progress:
        progress.say(f"loading and lifting {model}")
        session = open_model(model, flags.over(GraphSpec()), compute, progress=progress)
        pairs, _ = open_task(session, task)
        show.understood(pairs.origin)
        own = flags.only("metric", "ablation")
        found = tokens_found(session, pairs, steps=steps, compute=compute, progress=progress, **own)
    if output is not None:
        write_tokens(output, found)
    if as_json:
        show.emit({**found.as_dict(), "written": output}, rows=TABLES)
        return
    _print(found, shown)
    show.written(output)


def _print(found: TokensFile, shown: int) -> None:
    how = found.measured
    show.facts(
        ("model", found.model["name"]),
        ("task", f"{found.task['name']}, {len(found.prompts):,} prompts"),
        ("measured", f"rise of the loss of {how['metric']}, {how['ablation']} ablation"),
        (
            "all tokens",
            f"{how['whole']:+.3f} {show.row_ends(how, 'whole_')}".rstrip(),
        ),
        ("gap", f"{how['gap']:.2g} that integrated gradients of {how['steps']} points miss of it"),
    )
    if found.spans:
        rows = [
            (row["span"], row["prompts"], _signed(row["integrated"]),
             show.row_ends(row, "integrated_"), _signed(row["exact"]),
             show.row_ends(row, "exact_"))
            for row in found.spans
        ]  # fmt: skip
        show.table(("span", "prompts", "integrated", "95%", "exact", "95%"), rows, title="spans")
    for number in range(min(shown, len(found.prompts))):
        answers, others = (
            " or ".join(repr(text) for text in found.prompts[number][key])
            for key in ("answers", "distractors")
        )
        title = f"prompt {number + 1}: {answers}" + f", not {others}" * bool(others)
        rows_of = [
            (row["text"].replace("\n", "⏎"), row["span"] or "", _signed(row["integrated"]),
             _signed(row["exact"]))
            for row in found.of_prompt(number)
        ]  # fmt: skip
        show.table(("token", "span", "integrated", "exact"), rows_of, title=title, left=(0, 1))


def _signed(value: float) -> str:
    return f"{round(value, 3) + 0.0:+.3f}"
