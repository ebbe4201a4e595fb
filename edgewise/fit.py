"""Do the models of one experiment fit together: equal graphs, and equal prompts for the task?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from .errors import GraphMismatch, PromptError
from .opening import Session, open_task

if TYPE_CHECKING:
    from .graphs.files import CircuitFile
    from .patching.prompts import Pair, PromptPairs
    from .patching.tasks import TaskReport
    from .spec import TaskSpec


def open_as_declared(session: Session, task: TaskSpec) -> tuple[PromptPairs, TaskReport | None]:
    """Make a declared task's pairs as a model's own tokenizer has them; see `open_task`."""
    return open_task(
        session,
        task.file or task.name,
        examples=task.examples,
        seed=task.seed or 0,
        bos=task.bos,
        options=task.options,
    )


def check_variant(
    names: tuple[str, str],
    base: CircuitFile,
    session: Session,
    pairs: PromptPairs,
    own_pairs: Callable[[], tuple[PromptPairs, TaskReport | None]],
) -> None:
    """Refuse a variant whose circuit could not be compared with the first model's.

    Args:
        names: what the first model and the variant are called.
        base: the first model's circuit.
        session: the variant.
        pairs: the prompt pairs every model gets.
        own_pairs: makes the same task's pairs with the variant's tokenizer, if it has one.

    Raises:
        GraphMismatch: its graph is not the first model's.
        PromptError: its tokenizer makes other prompts.
    """
    where = f"model '{names[1]}' cannot be compared with '{names[0]}'"
    differences = base.circuit.graph.differences(session.graph)
    if base.model["d_model"] != session.lifted.d_model:
        differences.append(f"d_model {base.model['d_model']} and {session.lifted.d_model}")
    if differences:
        raise GraphMismatch(
            f"{where}: their graphs differ in {'; '.join(differences)} ({names[0]} and "
            f"{names[1]}). Variants must have the first model's shape; give this one a spec of "
            "its own."
        )
    if session.loaded.tokenizer is None:
        return
    why = "their tokenizers map the task's prompts differently"
    try:
        own, _ = own_pairs()
    except PromptError as error:
        raise PromptError(f"{where}: {why}: {error}") from error
    difference = first_difference(pairs.pairs, own.pairs)
    if difference:
        raise PromptError(
            f"{where}: {why}: {difference}. Circuits are compared on equal prompts only; give the "
            "pairs as token ids that both understand, or leave the model out."
        )


def first_difference(expected: Sequence[Pair], found: Sequence[Pair]) -> str | None:
    """Say where two lists of pairs differ first, None if they are equal."""
    for number, (a, b) in enumerate(zip(expected, found, strict=False), start=1):
        if a.answer_position != b.answer_position and len(a.clean) == len(b.clean):
            places = f"{a.answer_position} and {b.answer_position}"
            return f"the answer of pair {number} stands at position {places}"
        for what in ("clean", "corrupted", "answers", "distractors"):
            one, other = getattr(a, what), getattr(b, what)
            if len(one) != len(other):
                return f"{what} of pair {number} has {len(one)} and {len(other)} tokens"
            for at, (x, y) in enumerate(zip(one, other, strict=True), start=1):
                if x != y:
                    return f"{what} of pair {number} has token {x} and {y} at place {at}"
    if len(expected) != len(found):
        return f"there are {len(expected)} and {len(found)} pairs"
    return None


def sample(session: Session, pair: Pair) -> dict[str, Any]:
    """Return one pair as people read it; ids where there is no tokenizer."""
    tokenizer = session.loaded.tokenizer

    def text(ids: Sequence[int]) -> str:
        return " ".join(map(str, ids)) if tokenizer is None else str(tokenizer.decode(list(ids)))

    return {
        "clean": text(pair.clean),
        "corrupted": text(pair.corrupted),
        "answers": [text([token]) for token in pair.answers],
        "distractors": [text([token]) for token in pair.distractors],
    }
