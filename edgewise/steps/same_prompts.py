"""Do two models get the same prompt pairs? Only then are their circuits compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain

from ..graphs.errors import PromptError
from ..patching.prompts.pairs import Pair, PromptPairs
from ..patching.prompts.splits import PromptSplit


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


def split_difference(expected: PromptSplit, own: Callable[[], PromptSplit]) -> str | None:
    """Say why a model does not get the expected pairs, or those held out, None if it gets both."""
    made: list[PromptSplit] = []

    def discovery() -> tuple[PromptPairs, object]:
        made.append(own())
        return made[0].discovery, None

    if found := prompt_difference(expected.discovery, discovery):
        return found
    one, other = expected.test, made[0].test
    if one is None or other is None:
        return None if one is other else "pairs are held out for one of them only"
    found = first_difference(one.pairs, other.pairs)
    return None if found is None else f"held out, {found}"


def first_difference(expected: Sequence[Pair], found: Sequence[Pair]) -> str | None:
    """Say where two lists of pairs differ first, None if they are equal."""
    for number, (a, b) in enumerate(zip(expected, found, strict=False), start=1):
        if a.answer_position != b.answer_position and len(a.clean) == len(b.clean):
            places = f"{a.answer_position} and {b.answer_position}"
            return f"the answer of pair {number} stands at position {places}"
        if (a.corrupted is None) != (b.corrupted is None):
            return f"pair {number} has a corrupted prompt in one of them only"
        for what, one, other in _parts(a, b):
            if len(one) != len(other):
                return f"{what} of pair {number} has {len(one)} and {len(other)} tokens"
            for at, (x, y) in enumerate(zip(one, other, strict=True), start=1):
                if x != y:
                    return f"{what} of pair {number} has token {x} and {y} at place {at}"
    if len(expected) != len(found):
        return f"there are {len(expected)} and {len(found)} pairs"
    return None


def _parts(a: Pair, b: Pair) -> Iterator[tuple[str, tuple[int, ...], tuple[int, ...]]]:
    """Yield what two pairs are made of, by name; answers of several tokens one behind the other."""
    yield "clean", a.clean, b.clean
    yield "corrupted", a.twin, b.twin
    for what, one, other in zip(("answers", "distractors"), a.sequences, b.sequences, strict=True):
        yield what, tuple(chain.from_iterable(one)), tuple(chain.from_iterable(other))
