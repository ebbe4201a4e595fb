"""The part of `edgewise roles --causal`: what is measured, and its tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from . import show
from .accepted import option

if TYPE_CHECKING:
    from ..graphs.files import CircuitFile
    from ..patching.prompts.splits import PromptSplit
    from ..progress import Reporter
    from ..session import Session
    from ..steps.causal.found import CausalRoles, Label, NodeFound
    from .flags import Flags

SHOWN = 0.02
"""A sender is shown if an effect of it is so much of the loss between all edges and none."""

EXAMPLES = 64

EVIDENCE = ("role", "head", "pattern", "weight", "way", "effect", "95%", "null", "control")

causal_option = option(
    "--causal",
    "Measure by path patching what heads and MLPs cause, and name heads by pattern and effect, "
    "confirmed on held-out prompts.",
)


def measure(
    flags: Flags, session: Session, file: CircuitFile | None, progress: Reporter
) -> CausalRoles:
    """Measure what all senders of a model cause on the prompts asked for, or a circuit's own."""
    from ..steps.causal.measure import causal_roles

    how = flags.only("metric", "ablation", "batch_size")
    split = _split(flags, session, file)
    progress.say("measuring what heads cause")
    return causal_roles(session, split, seed=flags["seed"] or 0, progress=progress, **how)


def _split(flags: Flags, session: Session, file: CircuitFile | None) -> PromptSplit:
    from ..session import open_split

    task = flags.task()
    if task is None and file is not None:
        return flags.split(file, session)[0]
    if task is None:
        raise click.UsageError(
            "--causal measures what heads cause on a task; give --task, or a circuit."
        )
    if task.file is None and flags["examples"] is None:
        task = task.but(examples=EXAMPLES)
    return open_split(session, task)


def shown(found: CausalRoles) -> list[NodeFound]:
    """List the senders that have a role or a large effect."""
    return [node for node in found.nodes if node.roles or _large(node, found)]


def print_causal(found: CausalRoles, name: str = "", *, every: bool = False) -> None:
    """Print who has which role, by what evidence, and the effects of all that have large ones."""
    show.line()
    show.facts(*_facts(found))
    show.sentences(found.notes)
    labels = [(node, label) for node in found.nodes for label in node.labels]
    order = {role: i for i, role in enumerate(found.receivers)}
    held = [one for one in labels if one[1].confirmed]
    held.sort(key=lambda one: (order[one[1].role], -abs(one[1].evidence.effect.mean)))
    if held:
        rows = (_evidence(node, label) for node, label in held)
        show.table(EVIDENCE, rows, title=_titled("roles", name), left=(0, 1, 2, 4))
    else:
        show.line()
        show.line("No head has a role by pattern and effect.")
    lost = [f"{node.node} {label.role}" for node, label in labels if not label.confirmed]
    if lost:
        show.line()
        show.line(f"not confirmed: {', '.join(lost)}")
    chosen = list(found.nodes) if every else shown(found)
    ends = [span for span in found.spans if any(span in n.attention.get("end", ()) for n in chosen)]
    columns = ("node", "role", *found.ways, *(f"end → {span}" for span in ends))
    show.table(
        columns, (_row(node, found, ends) for node in chosen), left=(0, 1),
        title=_titled("effects, and attention from the end", name),
    )  # fmt: skip
    if not every:
        show.line()
        show.line(
            f"{len(found.nodes) - len(chosen)} of {len(found.nodes)} senders have no role and no "
            f"effect of {SHOWN:.0%} of {abs(found.gap):.3g}; --all shows them."
        )


def _titled(text: str, name: str) -> str:
    return f"{text}, {name}" if name else text


def _facts(found: CausalRoles) -> Iterator[tuple[str, object]]:
    words = {"in_sample": "found on", "held_out": "confirmed on"}
    yield "loss", f"of {found.metric}; ablation {found.ablation}"
    for key, side in found.sides.items():
        ends = f"loss {side.loss_full:.4g}, without edges {side.loss_empty:.4g}"
        yield words[key], f"{side.examples} pairs of {side.groups} groups, {ends}"
    control = list(found.sides.values())[-1].control
    if control is None:
        yield "same answer", "no control: nothing can be changed that leaves the answer"
    else:
        empty = f"loss {control['loss_empty']:.4g} with all of it changed"
        yield "same answer", f"{control['examples']:.0f} pairs, {empty}"


def _evidence(node: NodeFound, label: Label) -> Sequence[str]:
    one = label.evidence
    control = "-" if one.control is None else f"{one.control + 0.0:+.3f}"
    null = "-" if one.null is None else f"{one.sign * one.null:+.3f}"
    return (
        label.role, str(node.node), label.pattern, f"{one.weight:.2f}", label.way,
        f"{one.effect.mean:+.3f}", show.ends(one.effect.interval), null, control,
    )  # fmt: skip


def _large(node: NodeFound, found: CausalRoles) -> bool:
    effects = (node.effect(way) for way in found.ways)
    return any(one is not None and abs(one.mean) >= SHOWN * abs(found.gap) for one in effects)


def _row(node: NodeFound, found: CausalRoles, ends: Sequence[str]) -> Sequence[str]:
    effects = (node.effect(way) for way in found.ways)
    weights = (node.attention.get("end", {}).get(span) for span in ends)
    return (
        str(node.node), ", ".join(node.roles) or "-",
        *("-" if one is None else f"{round(one.mean, 3) + 0.0:+.3f}" for one in effects),
        *("-" if one is None else f"{one:.2f}" for one in weights),
    )  # fmt: skip
