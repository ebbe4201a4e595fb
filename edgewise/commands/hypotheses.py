"""`edgewise hypotheses`: how much of a behaviour sets of paths explain."""

from __future__ import annotations

import click

from . import options, show
from .accepted import FILE, WholeNumber, option
from .flags import Flags, with_flags


@click.command(short_help="Measure how much of a behaviour sets of paths explain.")
@click.argument("source", type=FILE, metavar="HYPOTHESES.toml")
@options.model_option
@options.task_options(required=True, test=True)
@option(
    "--draws N",
    "Random sets of paths of the same shape beside each; default 20, 0: none.",
    type=WholeNumber(0),
    default=20,
)
@option("--draw-seed N", "Decides which these are; default 0.", type=WholeNumber(0), default=0)
@options.measure_options(searching=False)
@options.graph_options
@options.compute_options
@options.json_option
@with_flags
def hypotheses(source: str, model: str, flags: Flags, as_json: bool) -> None:
    """Measure how much of a behaviour sets of paths explain, each claimed to carry it.

    The file names hypotheses, each with its paths, from a sender through ports to logits. The paths
    of one carry clean values, all else carries ablated ones; paths that part behind a head are told
    apart. With --test, the pairs that are held out are meant.
    """
    from ..experiment.hypotheses_file import read_hypotheses
    from ..experiment.spec import GraphSpec
    from ..patching.engines import TORCH, about_engine
    from ..progress import reporting
    from ..session import make_runner, open_model, open_split, open_task
    from ..steps.claims.explained import explained_effects, parsed
    from ..steps.found.blocks import task_block
    from .evaluate import shown_task

    given = read_hypotheses(source)
    task, graph, compute = flags.task(), flags.over(GraphSpec()), flags.compute()
    assert task is not None  # click requires it
    with reporting() as progress:
        progress.say(f"loading and lifting {model}")
        session = open_model(model, graph, compute, progress=progress)
        parsed(given, session.graph)  # wrong ones are refused before prompts are made
        made = open_split(session, task) if task.test else None
        pairs = open_task(session, task)[0] if made is None else made.test or made.discovery
        show.understood(pairs.origin)
        progress.say("testing hypotheses")
        runner = make_runner(session, pairs, **flags.only("metric", "ablation", "batch_size"))
        session.certify(pairs)
        draws, seed = flags["draws"], flags["draw_seed"]
        found = explained_effects(runner, given, draws=draws, seed=seed, progress=progress)
    if as_json:
        heads = {"model": session.model_block, "task": task_block(pairs), **runner.about}
        heads["engine"] = about_engine(TORCH)
        show.emit({**heads, **found.as_dict()}, rows=["hypotheses"])
        return
    metric = runner.metric.name
    full, none = (
        f"{show.number_text(one.value)} {show.ends(one.interval)}".rstrip()
        for one in (found.full, found.empty)
    )
    show.facts(
        ("model", session.loaded.title),
        ("task", shown_task(task_block(pairs))),
        ("ablation", runner.ablation.name),
        ("full model", f"{metric} {full}"),
        ("no path", f"{metric} {none}"),
    )
    columns = ["hypothesis", "paths", metric, "explained", "left without it"]
    rows = [
        [one.name, len(one.paths), one.value.value, *map(show.estimate, (one.explained, one.left))]
        for one in found.hypotheses
    ]
    if draws:
        columns.append("random")
        for row, one in zip(rows, found.hypotheses, strict=True):
            row.append(_random(one.random))
    show.table(columns, rows)


def _random(values: tuple[float, ...]) -> str:
    """Say what random sets explain: from the least to the most, and how many there are."""
    if not values:
        return "-"
    return f"{show.ratio(min(values))} to {show.ratio(max(values))} of {len(values)}"
