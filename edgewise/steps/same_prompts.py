"""Do two models get the same prompt pairs? Only then are their circuits compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..graphs.errors import PromptError
from ..patching.prompts.pairs import Pair, PromptPairs


def prompt_difference(
    expected: PromptPairs, own: Callable[[], tuple[PromptPairs, object]]
) -> str | None:
    """Say why a model does not get the expected pairs, None if it does; `own` makes those it gets.

    The reason is their first difference, or why the model's tokenizer cannot make any.
    """
    try:
        return first_difference(expected.pairs, own()[0].pairs)
    except PromptError as error:
        return str(error).rstrip(".")


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
