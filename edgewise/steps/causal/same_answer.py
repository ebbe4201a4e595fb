"""Prompts that are corrupted without changing the answer: the control of causal roles.

For each pair, another pair of the same template is looked for (same group, length, named positions
and answer position). The pair's control has the other's tokens wherever they differ, but where

* the pair's own corrupted prompt differs from its clean one, for there the answer is decided,
* the clean token is an answer or a distractor, or the other's is one of this pair's.

So what decides the answer stays and all else that the template varies is exchanged: in `ioi` place
and object, not the names. Of all such others the first behind the pair is taken, in turns. Pairs
for which nothing can be exchanged have no control.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ...patching.prompts.pairs import Pair, PromptPairs

LEAST = 4
"""Of fewer prompts than this there is no control."""


def same_answer(pairs: PromptPairs, more: Sequence[Pair] = ()) -> PromptPairs | None:
    """Return the pairs that have one with their control in the corrupted prompt's place.

    `more`: further pairs whose tokens can be taken; None if fewer than `LEAST` have a control.

    >>> one = Pair((1, 2, 3), (1, 9, 3), (7,), group="t")
    >>> other = Pair((4, 5, 3), (4, 9, 3), (8,), group="t")
    >>> [pair.corrupted for pair in same_answer(PromptPairs((one, other) * 2))]
    [(4, 2, 3), (1, 5, 3), (4, 2, 3), (1, 5, 3)]
    """
    found, every = [], pairs.pairs
    for number, pair in enumerate(every):
        others = (*every[number + 1 :], *every[:number], *more)
        made = (_exchanged(pair, other) for other in others if _fits(pair, other))
        changed = next((one for one in made if one != pair.clean), None)
        if changed is not None:
            found.append(replace(pair, corrupted=changed))
    return replace(pairs, pairs=tuple(found)) if len(found) >= LEAST else None


def _fits(pair: Pair, other: Pair) -> bool:
    """Tell whether two prompts are of one template."""
    alike = ("group", "named", "answer_position")
    same = all(getattr(pair, key) == getattr(other, key) for key in alike)
    return same and len(pair.clean) == len(other.clean)


def _exchanged(pair: Pair, other: Pair) -> tuple[int, ...]:
    """Return the clean prompt with the other's tokens where they do not decide the answer."""
    deciding = {*pair.answers, *pair.distractors}
    return tuple(
        own if own != twin or own in deciding or new in deciding else new
        for own, twin, new in zip(pair.clean, pair.twin, other.clean, strict=True)
    )
