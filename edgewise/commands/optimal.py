"""`edgewise optimal`: learn what ablated edges may carry at the least loss, and write it."""

from __future__ import annotations

import click

from . import options, show
from .accepted import COUNT, FILE, Number, WholeNumber, option
from .flags import Flags, with_flags

SHOWN = 10  # senders that are printed


@click.command(short_help="Learn what ablated edges may carry at the least loss.")
@options.model_option
@options.task_options(required=True)
@option("--steps N", "Steps of the descent; default 200.", type=COUNT, default=200)
@option("--rows N", "Senders that a step moves; default 64.", type=COUNT, default=64)
@option(
    "--rate X",
    "How far the first steps go, in standard deviations of what a sender writes; default 0.1.",
    type=Number(0, min_open=True),
    default=0.1,
)
@option(
    "--learning-seed N",
    "Decides which senders and pairs are drawn; default 0.",
    type=WholeNumber(0),
    default=0,
)
@options.batch_option
@options.graph_options
@options.compute_options
@option("-o --output NAME.safetensors", "The file of vectors.", type=FILE, required=True)
@options.json_option
@with_flags
def optimal(model: str, flags: Flags, output: str, as_json: bool, **training: float) -> None:
    """Learn one vector for each sender that the model loses least with in its place.

    The file is named as an ablation: --ablation optimal:NAME.safetensors. All edges out of a sender
    carry its vector, at every position; the loss is the KL divergence from the full model at the
    answers, averaged over the prompts. A sender whose mean does no worse keeps its mean.
    """
    from ..experiment.spec import GraphSpec
    from ..patching.ablations.learned.learning import Descent
    from ..patching.ablations.registry import ablations
    from ..progress import reporting
    from ..session import open_model, open_task
    from ..steps.found.blocks import task_block
    from ..steps.found.optimal import learn_optimal
    from .evaluate import shown_task

    task, graph, compute = flags.task(), flags.over(GraphSpec()), flags.compute()
    assert task is not None  # click requires it
    options.claim(output, *[one for one in (flags["task"], model) if one is not None])
    seed = int(training.pop("learning_seed"))
    how = Descent(int(training["steps"]), int(training["rows"]), training["rate"], seed)
    with reporting() as progress:
        progress.say(f"loading and lifting {model}")
        session = open_model(model, graph, compute, progress=progress)
        pairs, _ = open_task(session, task)
        show.understood(pairs.origin)
        progress.say("learning")
        found = learn_optimal(
            session, pairs, how, batch_size=flags["batch_size"], progress=progress
        )
        found.write(output)
    rows = sorted(found.losses, key=lambda row: -row[2])
    if as_json:
        senders = [dict(zip(("sender", "at_mean", "learned"), row, strict=True)) for row in rows]
        show.emit({"vectors": output, **found.provenance, "senders": senders}, rows=["senders"])
        return
    at_mean, learned = (sum(some) / len(rows) for some in list(zip(*rows, strict=True))[1:])
    show.facts(
        ("model", session.loaded.title),
        ("task", shown_task(task_block(pairs))),
        ("loss", f"divergence, on average {at_mean:.4g} at means, {learned:.4g} with the vectors"),
    )
    cells = [(name, f"{a:.4f}", f"{b:.4f}") for name, a, b in rows[:SHOWN]]
    show.table(("sender", "loss at its mean", "with its vector"), cells)
    named = next(name for name, one in ablations().items() if one.takes == "FILE")
    show.line(f"written: {output}, for --ablation {named}:{output}")
