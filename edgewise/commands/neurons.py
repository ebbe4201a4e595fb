"""`edgewise neurons`: which hidden units of an MLP matter, and what they write."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from . import options, show
from .accepted import COUNT, WholeNumber, option
from .flags import Flags, with_flags

if TYPE_CHECKING:
    from ..patching.prompts.pairs import PromptPairs
    from ..steps.claims.neurons import NeuronsFound

MOST_TOKENS, MOST_GROUPS = 16, 12  # that are shown unless they are asked for


@click.command(short_help="Measure which neurons of MLPs matter, and what they write.")
@options.model_option
@options.task_options(required=True, test=True)
@option("--mlp LAYER", "An MLP, by its layer; repeat for more.", "layers", type=WholeNumber(0),
        multiple=True, required=True)  # fmt: skip
@option("--neurons N", "How many of each MLP are chosen; default 10.", "chosen", type=COUNT,
        default=10)  # fmt: skip
@options.measure_options(searching=False)
@options.family_option
@options.compute_options
@options.json_option
@with_flags
def neurons(model: str, flags: Flags, layers: tuple[int, ...], chosen: int, as_json: bool) -> None:
    """Measure which hidden units of MLPs matter for the answer, and what they write.

    Units are chosen by their direct effect on the answers on some pairs, and measured on others,
    which are held out: what the MLP, the units alone, and all others alone do on the straight way
    to the logits, and what they add to the logits of the task's answers.
    """
    from ..experiment.spec import GraphSpec
    from ..patching.engines import TORCH, about_engine
    from ..progress import reporting
    from ..session import make_runner, open_model, open_split
    from ..steps.claims.neurons import neurons_found
    from ..steps.found.blocks import task_block
    from .evaluate import shown_task

    task, graph, compute = flags.task(), flags.over(GraphSpec()), flags.compute()
    assert task is not None  # click requires it
    with reporting() as progress:
        progress.say(f"loading and lifting {model}")
        session = open_model(model, graph, compute, progress=progress)
        split = open_split(session, task)
        show.understood(split.discovery.origin)
        runner = make_runner(
            session, split.discovery, **flags.only("metric", "ablation", "batch_size")
        )
        session.certify(split.discovery)
        held_out = runner if split.test is None else runner.on(split.test)
        text = _texts(session.loaded.tokenizer)
        tokens = sorted(_tokens(held_out.pairs), key=text)
        found = []
        for number, layer in enumerate(layers):
            progress(number, len(layers), "MLPs measured")
            found.append(neurons_found(runner, held_out, layer, tokens, top=chosen))
    if as_json:
        heads = {"model": session.model_block, "task": task_block(split), **runner.about}
        heads["engine"] = about_engine(TORCH)
        rows = [one.as_dict() for one in found]
        show.emit({**heads, "token_texts": list(map(text, tokens)), "mlps": rows}, rows=["mlps"])
        return
    show.facts(
        ("model", session.loaded.title),
        ("task", shown_task(task_block(split))),
        ("ablation", runner.ablation.name),
        ("seen", None if split.test is not None else "in sample only: nothing is held out"),
    )
    name = runner.metric.name
    _print_parts(found, name)
    for one in found:
        _print_units(one, list(map(text, tokens)), text)


def _tokens(pairs: PromptPairs) -> set[int]:
    """Return the task's answers and distractors, if they are few."""
    found = {token for pair in pairs for token in (*pair.answers, *pair.distractors)}
    return found if len(found) <= MOST_TOKENS else set()


def _texts(tokenizer: Any) -> Any:
    """Return what writes a token as text; its id where there is no tokenizer."""
    return lambda token: str(token) if tokenizer is None else str(tokenizer.decode([token]))


def _print_parts(found: Sequence[NeuronsFound], metric: str) -> None:
    columns = ("MLP", f"{metric} worse", "95%", "chosen alone", "all others alone", "random sets")
    rows = [
        (
            f"m{one.layer}", one.part.value, show.ends(one.part.interval),
            show.estimate(one.chosen), show.estimate(one.others),
            f"{min(one.random):.3f} to {max(one.random):.3f}" if one.random else "-",
        )
        for one in found
    ]  # fmt: skip
    number = len(found[0].units)
    show.table(columns, rows, title=f"patched straight to the logits; {number} neurons of each")


def _print_units(one: NeuronsFound, texts: Sequence[str], text: Any) -> None:
    rows: list[Sequence[object]] = [
        (f"m{one.layer}.n{unit.unit}", _signed(unit.direct.value), show.ends(unit.direct.interval),
         *map(_signed, unit.adds))
        for unit in one.units
    ]  # fmt: skip
    columns = ("neuron", "direct", "95%", *(f"→ {token}" for token in texts))
    show.table(columns, rows)
    if texts and len(one.together) <= MOST_GROUPS:
        rows = [(" ".join(map(text, ids)), *map(_signed, values)) for ids, values in one.together]
        title = f"the chosen neurons of m{one.layer} together, by the prompts' answers"
        show.table(("answers", *(f"→ {token}" for token in texts)), rows, title=title)


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{round(value, 3) + 0.0:+.3f}"
