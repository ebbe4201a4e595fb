"""Answers of several tokens: which token is asked for, or how they are read as wholes.

* Nothing said: every answer is one token; what is more is refused, with both ways named.
* `first`: the first token at which answers and distractors differ. What all of them begin with is
  put behind both prompts, and the token after it is asked for, in place of the whole answer.
  Without distractors it is the first token of each answer.
* `whole`: every answer is read token by token, behind its own first ones (teacher-forced).

Answers of one token each give the same pair in all three.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from ...graphs.errors import PromptError
from .pairs import Pair, PromptPairs

Sequences = Sequence[tuple[int, ...]]
Show = Callable[[Sequence[int]], str]  # how tokens are shown in messages

WAYS = {
    "first": "asks for the first token at which answers and distractors differ",
    "whole": "reads every answer token by token",
}
"""The ways to take answers of several tokens, and what each does."""

EITHER = "; or ".join(f"`answers` {way}, which {does}" for way, does in WAYS.items())
"""Both ways in words, behind what is accepted without one."""


def with_answers(
    pair: Pair, answers: Sequences, distractors: Sequences, way: str | None, show: Show
) -> Pair:
    """Return a pair's prompts with these answers, taken one way; a PromptError if that cannot be.

    >>> pair, show = Pair((5, 17), (5, 9), (0,)), str
    >>> with_answers(pair, [(40, 41)], [(40, 42)], "first", show).clean
    (5, 17, 40)
    >>> with_answers(pair, [(40, 41)], [(40, 42)], "whole", show).runs
    (((5, 17, 40), (5, 9, 40)),)
    """
    _refuse_twice(answers, distractors, show)
    several = [one for one in (*answers, *distractors) if len(one) != 1]
    if not several:
        return pair.spelling(answers, distractors)
    if way is None:
        raise PromptError(
            f"an answer is {len(several[0])} tokens ({show(several[0])}); accepted: answers of "
            f"exactly one token; or {EITHER}."
        )
    return (_first if way == "first" else _whole)(pair, answers, distractors, show)


def token_by_token(pairs: PromptPairs) -> PromptPairs:
    """Return each token of answers of several as the answer of a prompt that ends before it.

    What stands before it is the prompt and the answer's tokens so far; several answers that begin
    alike are answers of one such prompt, and so are distractors, but for tokens that are answers.

    >>> pair = Pair((5, 17), (5, 9), (0,)).spelling([(40, 41)], [(40, 42)])
    >>> [(one.clean, one.answers, one.distractors) for one in token_by_token(PromptPairs((pair,)))]
    [((5, 17), (40,), ()), ((5, 17, 40), (41,), (42,))]
    """
    return replace(pairs, pairs=tuple(one for pair in pairs for one in _each_token(pair)))


def _each_token(pair: Pair) -> Iterator[Pair]:
    if pair.spelled is None:
        yield pair
        return
    right, wrong = pair.sequences
    end = pair.answer_position + 1
    spans, declared = (_until(end, named) for named in (pair.spans, pair.declared))
    for before in dict.fromkeys(one[:at] for one in right for at in range(len(one))):
        here = len(before)
        answers, others = (
            tuple(dict.fromkeys(one[here] for one in many if one[:here] == before and one[here:]))
            for many in (right, wrong)
        )
        yield replace(
            pair,
            clean=pair.clean[:end] + before,
            corrupted=None if pair.corrupted is None else pair.corrupted[:end] + before,
            answers=answers,
            distractors=tuple(one for one in others if one not in answers),
            answer_position=pair.answer_position + here,
            spans=spans,
            declared=declared,
            spelled=None,
        )


def _whole(pair: Pair, answers: Sequences, distractors: Sequences, show: Show) -> Pair:
    every = (*answers, *distractors)
    for one in every:
        longer = next((o for o in every if o != one and o[: len(one)] == one), None)
        if longer is not None:
            raise PromptError(
                f"one answer or distractor ({show(one)}) is what another ({show(longer)}) begins "
                "with, so that the probability of the one holds that of the other; accepted with "
                "`answers` whole: answers and distractors none of which begins another."
            )
    return pair.spelling(answers, distractors)


def _first(pair: Pair, answers: Sequences, distractors: Sequences, show: Show) -> Pair:
    every = (*answers, *distractors)
    shortest = min(map(len, every))
    common = 0
    while distractors and common < shortest and len({one[common] for one in every}) == 1:
        common += 1
    if common == shortest:
        short = next(one for one in every if len(one) == shortest)
        raise PromptError(
            f"an answer or distractor ends ({show(short)}) where the others go on, so that no "
            "token tells them apart; accepted with `answers` first: answers and distractors that "
            "differ at a token that all of them have."
        )
    right, wrong = (tuple(dict.fromkeys(o[common] for o in x)) for x in (answers, distractors))
    if both := set(right) & set(wrong):
        raise PromptError(
            f"an answer and a distractor have the same token ({show([*both][:1])}) at the place "
            "where not all of them agree, so that no single position separates the answers from "
            "the distractors; accepted with `answers` first: fewer of them, such as one answer "
            "and one distractor; or `answers` whole."
        )
    more, end = every[0][:common], pair.answer_position + 1
    found = pair.spelling([(one,) for one in right], [(one,) for one in wrong])
    if not more:
        return found
    twin = None if pair.corrupted is None else pair.corrupted[:end] + more
    return replace(
        found, clean=pair.clean[:end] + more, corrupted=twin,
        answer_position=pair.answer_position + common,
        spans=_until(end, pair.spans), declared=_until(end, pair.declared),
    )  # fmt: skip


def _until(end: int, named: tuple[tuple[str, int], ...]) -> tuple[tuple[str, int], ...]:
    """Return the named positions before the end of a prompt."""
    return tuple((name, at) for name, at in named if at < end)


def _refuse_twice(answers: Sequences, distractors: Sequences, show: Show) -> None:
    """Refuse an answer named twice, which would count twice, or against itself."""
    for what, many in (("answers", answers), ("distractors", distractors)):
        if len(set(many)) != len(many):
            tokens = "token" if all(len(one) == 1 for one in many) else "tokens"
            raise PromptError(
                f"the {what} name the same {tokens} twice; accepted: distinct tokens."
            )
    if both := set(answers) & set(distractors):
        what = "a token" if len(next(iter(both))) == 1 else show(next(iter(both)))
        raise PromptError(
            f"{what} is both answer and distractor; accepted: answers and distractors that differ."
        )
