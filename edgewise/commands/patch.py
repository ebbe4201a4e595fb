"""`edgewise patch`: path patching, the effect of what flows along named paths alone."""

from __future__ import annotations

from typing import Any

import click

from . import options, show

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
@options.measure_options(options.of_scores, options.of_circuits)
@options.graph_options
@options.compute_options
@options.json_option
def patch(**given: Any) -> None:
    """Measure what flows along paths, from a sender through ports to logits.

    The effect is the change of the loss: of noising, positive if the path helps.
    """
    from ..experiment.spec import check_task
    from ..progress import reporting
    from ..session import open_task
    from ..workflow import patch as measure

    settings = options.settings(given["task_settings"])
    metric, ablation = (
        given["metric"] or options.of_scores(),
        given["ablation"] or options.of_circuits(),
    )
    with options.usage():
        check_task(given["task"], settings)
    options.set_threads(given["threads"])
    with reporting() as progress:
        session = options.open_session(given, progress)
        pairs, _ = open_task(
            session, given["task"], examples=given["examples"], seed=given["seed"],
            bos=given["bos"], options=settings,
        )  # fmt: skip
        progress.say("patching")
        found = measure(
            session, pairs, given["paths"], metric=metric, ablation=ablation,
            denoise=given["denoise"], together=given["together"], batch_size=given["batch_size"],
        )  # fmt: skip
    found = sorted(found, key=lambda one: -abs(one.effect))
    if given["as_json"]:
        from ..workflow import task_block

        effects = [
            {
                "path": one.name,
                "loss_before": one.loss_before,
                "loss_after": one.loss_after,
                "effect": one.effect,
            }
            for one in found
        ]
        heads = {"model": session.model_block, "task": task_block(pairs)}
        direction = "denoising" if given["denoise"] else "noising"
        asked = {"metric": metric, "ablation": ablation, "direction": direction}
        show.emit({**heads, **asked, "paths": effects}, rows=["paths"])
        return
    from ..patching.metrics.registry import get_metric
    from .evaluate import shown_task

    loss = f"-{metric}" if get_metric(metric).larger_is_better else metric
    show.facts(
        [
            ("model", session.loaded.title),
            ("task", shown_task({"name": pairs.name, "examples": len(pairs), "seed": pairs.seed})),
            ("direction", DIRECTIONS[given["denoise"]]),
            ("ablation", ablation),
            ("loss", f"{loss}, {found[0].loss_before:.4g} before"),
        ]
    )
    rows = [(p.name, f"{p.loss_after:.4f}", f"{p.effect:+.4f}") for p in found]
    show.table(("path", "loss after", "effect"), rows)
