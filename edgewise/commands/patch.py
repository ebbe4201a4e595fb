"""`edgewise patch`: path patching, the effect of what flows along named paths alone."""

from __future__ import annotations

import click

from . import options, show
from .options import Asked

DIRECTIONS = {
    False: "noising: ablated values are put into the clean run along the path",
    True: "denoising: clean values are put into the corrupted run along the path",
}


@click.command(short_help="Measure the effect of named paths (path patching).")
@click.option("--model", required=True, metavar="MODEL", help="See `edgewise lift --help`.")
@options.task_options(required=True)
@click.option(
    "--path",
    "paths",
    multiple=True,
    required=True,
    metavar="PATH",
    help="Such as 'a0.h3->a1.h2<k>->logits', quoted for the shell; a0.* stands for each head of "
    "the layer. Repeat for more.",
)
@click.option("--denoise", is_flag=True, help="Clean values into the corrupted run.")
@click.option("--together", is_flag=True, help="Patch all paths in one run, one effect in all.")
@options.measure_options(searching=False)
@options.graph_options
@options.compute_options
@options.json_option
@options.asking
def patch(
    model: str, asked: Asked, paths: tuple[str, ...], denoise: bool, together: bool, as_json: bool
) -> None:
    """Measure what flows along paths, from a sender through ports to logits.

    The effect is the change of the loss: of noising, positive if the path helps.
    """
    from ..experiment.spec import ComputeSpec, GraphSpec
    from ..patching.paths import patch_paths
    from ..progress import reporting
    from ..session import make_runner, open_task
    from ..steps.discover import task_block
    from .evaluate import shown_task

    task, compute = asked.task(), asked.over(ComputeSpec())
    with reporting() as progress:
        session = options.open_session(model, asked.over(GraphSpec()), compute, progress)
        pairs, _ = open_task(session, task)
        progress.say("patching")
        measure = {key: asked[key] for key in ("metric", "ablation", "batch_size")}
        runner = make_runner(session, pairs, **measure)
        found = patch_paths(runner, paths, denoise=denoise, together=together)
    found = sorted(found, key=lambda one: -abs(one.effect))
    if as_json:
        numbers = ("loss_before", "loss_after", "effect")
        effects = [{"path": one.name, **{k: getattr(one, k) for k in numbers}} for one in found]
        heads = {"model": session.model_block, "task": task_block(pairs), **runner.about}
        direction = "denoising" if denoise else "noising"
        show.emit({**heads, "direction": direction, "paths": effects}, rows=["paths"])
        return
    metric = runner.metric
    loss = f"-{metric.name}" if metric.larger_is_better else metric.name
    show.facts(
        [
            ("model", session.loaded.title),
            ("task", shown_task({"name": pairs.name, "examples": len(pairs), "seed": pairs.seed})),
            ("direction", DIRECTIONS[denoise]),
            ("ablation", runner.ablation.name),
            ("loss", f"{loss}, {found[0].loss_before:.4g} before"),
        ]
    )
    rows = [(p.name, f"{p.loss_after:.4f}", f"{p.effect:+.4f}") for p in found]
    show.table(("path", "loss after", "effect"), rows)
