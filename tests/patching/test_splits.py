"""Splits: disjoint, and determined by the pairs' groups, the numbers and the seed alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewise.graphs.errors import PromptError
from edgewise.patching.prompts.pairs import Pair, PromptPairs
from edgewise.patching.prompts.splits import (
    LEAST_GROUPS,
    LEAST_SPLIT,
    PromptSplit,
    hold_out,
    seen_in,
)
from edgewise.patching.tasks import TASKS, make_others, make_task

ROOT = Path(__file__).parents[2]


def numbered(groups: list[str], prompts: list[int] | None = None) -> PromptPairs:
    """Make pairs of these groups, whose prompts are told apart by these numbers."""
    numbers = range(len(groups)) if prompts is None else prompts
    pairs = (
        Pair((i, 1), (i, 2), (3,), (4,), group=g) for i, g in zip(numbers, groups, strict=True)
    )
    return PromptPairs(tuple(pairs), name="mine")


@st.composite
def asked(draw: st.DrawFn) -> tuple[PromptPairs, int | None, int | None, int]:
    total = draw(st.integers(2, 80))
    labels = [f"t{i}" for i in range(draw(st.integers(1, 14)))] + draw(
        st.sampled_from([[], [""], ["", "", ""]])
    )
    groups = draw(st.lists(st.sampled_from(labels), min_size=total, max_size=total))
    prompts = draw(st.lists(st.integers(0, 90), min_size=total, max_size=total))
    examples = draw(st.one_of(st.none(), st.integers(1, total)))
    test = draw(st.one_of(st.none(), st.integers(0, total)))
    return numbered(groups, prompts), examples, test, draw(st.integers(0, 5))


def split_of(found: tuple[PromptPairs, int | None, int | None, int]) -> PromptSplit | None:
    try:
        return hold_out(*found)
    except PromptError as error:
        assert "too few for" in str(error) or "again and again" in str(error)
        return None


@given(asked())
def test_splits_are_disjoint_and_as_large_as_asked_for(
    found: tuple[PromptPairs, int | None, int | None, int],
) -> None:
    pairs, examples, test, _ = found
    split = split_of(found)
    if split is None:
        return
    assert set(split.discovery) <= set(pairs)
    if split.test is None:
        assert not test
        assert split.words or test == 0
        return
    assert set(split.test) <= set(pairs)
    assert not seen_in(split.test, split.discovery)
    assert len(split.discovery) <= (examples or len(pairs))
    if test is not None:
        assert len(split.test) == test
    elif examples is not None:  # the first ones, as without a split
        assert split.discovery.pairs == pairs.pairs[:examples]
        assert len(split.test) <= examples
    else:
        assert len(split.test) == len(pairs) // 2
    places = [pairs.pairs.index(pair) for pair in split.test]
    if len(set(pairs)) == len(pairs):
        assert places == sorted(places)
    again = hold_out(pairs, *split.asked, seed=found[3])  # what a file notes gives it again
    assert (again.discovery, again.test) == (split.discovery, split.test)


def test_whole_groups_are_held_out_where_there_are_enough() -> None:
    pairs = numbered([f"t{i % LEAST_GROUPS}" for i in range(64)])
    for examples, test in ((None, None), (32, 32), (24, 16), (None, 16)):
        split = hold_out(pairs, examples, test)
        assert split.test is not None
        sides = [{pair.group for pair in side} for side in split.sides]
        assert not sides[0] & sides[1]
        assert f"whole groups, {len(sides[0])} of {LEAST_GROUPS}" in split.words
    others = hold_out(pairs, 32, 32, seed=1)
    assert others.test is not None
    assert {p.group for p in others.test} != {p.group for p in hold_out(pairs, 32, 32).test or ()}


def test_few_groups_are_on_both_sides_evenly() -> None:
    pairs = numbered(["a"] * 32 + ["b"] * 16 + ["c"] * 16)
    split = hold_out(pairs)
    assert split.test is not None
    counts = [[sum(p.group == g for p in side) for g in "abc"] for side in split.sides]
    assert counts == [[16, 8, 8], [16, 8, 8]]
    assert "from each of the 3 groups, too few to hold whole ones out" in split.words


def test_small_files_keep_their_meaning() -> None:
    small, large = numbered([""] * (LEAST_SPLIT - 1)), numbered([""] * LEAST_SPLIT)
    split = hold_out(small)
    assert split.discovery is small
    assert split.test is None
    assert split.words == "nothing is held out: 63 pairs are fewer than 64"
    split = hold_out(large)
    assert [len(side) for side in split.sides] == [32, 32]
    assert "32 of 64 pairs, at random" in split.words
    assert hold_out(large, test=0).discovery == large
    assert hold_out(small, test=1).test is not None


def test_the_first_examples_are_those_of_before_and_others_are_held_out() -> None:
    pairs = numbered(["a"] * 8 + ["b"] * 8 + ["c"] * 8)
    split = hold_out(pairs, examples=8)
    assert split.discovery.pairs == pairs.pairs[:8]
    assert split.test is not None
    assert "a" not in {pair.group for pair in split.test}
    assert "8 of other groups than theirs" in split.words
    split = hold_out(pairs, examples=20)  # no more than there are, of whatever group
    assert split.test is not None
    assert len(split.test) == 4
    split = hold_out(pairs, examples=24)
    assert split.test is None
    assert split.words == "nothing is held out: the file has no other pairs"


def test_too_many_test_pairs_are_refused_with_what_there_is() -> None:
    with pytest.raises(PromptError) as error:
        hold_out(numbered([""] * 10), 8, 4)
    assert "'mine' has 10 pairs, too few for 4 test pairs beside 8 examples" in str(error.value)
    with pytest.raises(PromptError, match="one for discovery at least"):
        hold_out(numbered([""] * 10), None, 10)


def test_a_split_that_shares_pairs_is_refused() -> None:
    pairs = numbered(["", ""])
    with pytest.raises(PromptError, match="2 of the 2 test pairs are discovery pairs too"):
        PromptSplit(pairs, pairs)


PRINTED = """
from tests.patching.test_splits import hold_out, numbered
pairs = numbered([f"t{i % 9}" for i in range(70)])
for asked in ((None, None), (10, None), (10, 12)):
    split = hold_out(pairs, *asked, seed=3)
    print(split.discovery.sha256, split.test.sha256, split.words)
from edgewise.patching.tasks import make_others, make_task
made = make_task("induction", vocab_size=60, examples=8)
print(made.pairs.sha256, make_others(made.pairs, 8, vocab_size=60).pairs.sha256)
"""


def test_splits_do_not_depend_on_the_hash_seed() -> None:
    outputs = set()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", PRINTED],
            check=True,
            capture_output=True,
            text=True,
            env=environment,
        )
        outputs.add(done.stdout)
    assert len(outputs) == 1


# -- built-in tasks --------------------------------------------------------------------------------

IDS: dict[str, Any] = {"vocab_size": 100}


@given(st.integers(0, 50), st.integers(1, 30), st.integers(1, 30))
def test_other_pairs_of_a_task_are_none_of_the_first(seed: int, examples: int, test: int) -> None:
    made = make_task("induction", examples=examples, seed=seed, **IDS)
    others = make_others(made.pairs, test, **IDS)
    assert others is not None
    assert len(others.pairs) == len(set(others.pairs)) == test
    assert not seen_in(others.pairs, made.pairs)
    assert others.pairs.seed != seed
    assert make_others(made.pairs, test, **IDS) == others
    fewer = make_others(made.pairs, max(1, test - 1), **IDS)
    assert fewer is not None
    assert fewer.pairs.pairs == others.pairs.pairs[: len(fewer.pairs)]


def test_a_task_gives_as_many_others_as_it_has() -> None:
    assert "induction" in TASKS
    small: dict[str, Any] = {"vocab_size": 7, "period": 5, "repeat": 2}
    most = make_task_all(small)
    made = make_task("induction", examples=most - 3, **small)
    others = make_others(made.pairs, 10, **small)
    assert others is not None
    assert len(others.pairs) == 3
    every = make_task("induction", examples=most, **small)
    assert make_others(every.pairs, 10, **small) is None


def make_task_all(small: dict[str, Any]) -> int:
    """Return how many pairs a small task has at all, which its refusal says."""
    with pytest.raises(PromptError) as error:
        make_task("induction", examples=5_000, **small)
    return int(str(error.value).partition("only ")[2].split()[0])
