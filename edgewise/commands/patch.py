"""`edgewise patch`: path patching, the effect of what flows along named paths alone."""

from __future__ import annotations

import click

from . import options, show
from .accepted import option
from .flags import Flags, with_flags

DIRECTIONS = {
    False: "noising: ablated values are put into the clean run along the path",
    True: "denoising: clean values are put into the corrupted run along the path",
}


@click.command(short_help="Measure the effect of named paths (path patching).")
@options.model_option
@options.task_options(required=True)
@option(
    "--path PATH",
    "Such as 'a0.h3->a1.h2<k>->logits', quoted for the shell; a0.* stands for each head of "
    "the layer. Repeat for more.",
    "paths",
    multiple=True,
    required=True,
)
@option("--denoise", "Clean values into the corrupted run.")
@option("--together", "Patch all paths in one run, one effect in all.")
@options.measure_options(searching=False)
@options.graph_options
@options.compute_options
@options.json_option
@with_flags
def patch(
    model: str, flags: Flags, paths: tuple[str, ...], denoise: bool, together: bool, as_json: bool
) -> None:
    """Measure what flows along paths, from a sender through ports to logits.

    The effect is the change of the loss: of noising, positive if the path helps.
    """
    from ..experiment.spec import GraphSpec
    from ..patching.engines import TORCH, about_engine
    from ..patching.paths import patch_paths
    from ..progress import reporting
    from ..session import make_runner, open_model, open_task
    from ..steps.found.blocks import task_block
    from .evaluate import shown_task

    task, graph, compute = flags.task(), flags.over(GraphSpec()), flags.compute()
    assert task is not None  # click requires it
    with reporting() as progress:
        progress.say(f"loading and lifting {model}")
        session = open_model(model, graph, compute, progress=progress)
        pairs, _ = open_task(session, task)
        show.understood(pairs.origin)
        progress.say("patching")
        runner = make_runner(session, pairs, **flags.only("metric", "ablation", "batch_size"))
        session.certify(pairs)
        found = patch_paths(runner, paths, denoise=denoise, together=together)
    found = sorted(found, key=lambda one: -abs(one.effect))
    if as_json:
        numbers = ("loss_before", "loss_after", "effect")
        effects = [{"path": one.name, **{k: getattr(one, k) for k in numbers}} for one in found]
        heads = {"model": session.model_block, "task": task_block(pairs), **runner.about}
        heads["engine"] = about_engine(TORCH)
        direction = "denoising" if denoise else "noising"
        show.emit({**heads, "direction": direction, "paths": effects}, rows=["paths"])
        return
    metric = runner.metric
    loss = f"-{metric.name}" if metric.larger_is_better else metric.name
    show.facts(
        ("model", session.loaded.title),
        ("task", shown_task(task_block(pairs))),
        ("direction", DIRECTIONS[denoise]),
        ("ablation", runner.ablation.name),
        ("loss", f"{loss}, {found[0].loss_before:.4g} before"),
    )
    rows = [(p.name, f"{p.loss_after:.4f}", f"{p.effect:+.4f}") for p in found]
    show.table(("path", "loss after", "effect"), rows)
