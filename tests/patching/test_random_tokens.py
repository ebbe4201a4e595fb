"""Random tokens to measure heads on: what is drawn, from what, and what limits it."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgewise.graphs.errors import PromptError
from edgewise.graphs.lift.lifting import describe
from edgewise.patching.heads.random_tokens import LONGEST, RandomBlocks, model_blocks, random_blocks
from tests.engine import tiny_lift, tiny_model


@given(
    st.integers(1, 60), st.sampled_from([(), (0,), (0, 1)]),
    st.one_of(st.none(), st.integers(1, 100)), st.integers(1, 40), st.integers(0, 3),
)  # fmt: skip
def test_blocks_are_what_they_say(
    size: int, start: tuple[int, ...], positions: int | None, sequences: int, seed: int
) -> None:
    def draw() -> RandomBlocks:
        return random_blocks(
            range(size), start=start, positions=positions, sequences=sequences, seed=seed
        )

    lead = max(1, len(start))
    longest = min(size - (lead if size > 1 or not start else 1), LONGEST)
    longest = longest if positions is None else min(longest, (positions - lead) // 2)
    if longest < 4:
        with pytest.raises(PromptError, match="cannot be measured"):
            draw()
        return
    blocks = draw()
    assert blocks == draw()
    assert len(blocks.sequences) == len(blocks.lengths) == sequences
    assert max(blocks.lengths) <= longest and min(blocks.lengths) >= 4
    assert all(a <= b for a, b in pairwise(blocks.lengths))
    for sequence, length in zip(blocks.sequences, blocks.lengths, strict=True):
        assert len(sequence) == blocks.lead + 2 * length
        assert sequence[: len(start)] == start
        first, second = sequence[lead : lead + length], sequence[lead + length :]
        assert first == second
        assert len({*sequence[:lead], *first}) == lead + length
        assert set(sequence) <= set(range(size)) | set(start)


def test_all_lengths_come_equally_often() -> None:
    blocks = random_blocks(range(100), sequences=56)
    assert (min(blocks.lengths), max(blocks.lengths)) == (13, 40)
    assert {blocks.lengths.count(length) for length in range(13, 41)} == {2}
    assert list(blocks.notes()) == []


@pytest.mark.parametrize(("sequences", "lengths"), [(1, (40,)), (2, (13, 40)), (3, (13, 27, 40))])
def test_few_lengths_reach_from_end_to_end(sequences: int, lengths: tuple[int, ...]) -> None:
    assert random_blocks(range(100), sequences=sequences).lengths == lengths


def test_short_models_are_noted() -> None:
    blocks = random_blocks(range(100), positions=9)
    assert set(blocks.lengths) == {4}
    short, fixed = blocks.notes()
    assert "at most 4 tokens long, not 40" in short and "hardly vary" in fixed


def test_a_model_gives_its_start_and_leaves_its_special_tokens_out() -> None:
    gpt2 = tiny_model("gpt2")
    gpt2.config.bos_token_id, gpt2.config.eos_token_id = 3, [5, 99]
    blocks = model_blocks(describe(gpt2))
    assert blocks.bos and blocks.lead == 1
    assert all(sequence[0] == 3 for sequence in blocks.sequences)
    assert {token for one in blocks.sequences for token in one[1:]} == set(range(31)) - {3, 5}
    assert max(blocks.lengths) == (24 - 1) // 2  # n_positions


def test_a_tokenizer_gives_words_and_its_start(byte_tokenizer: Any, word_tokenizer: Any) -> None:
    tokenizer = byte_tokenizer(bos=True)
    lifted = tiny_lift("llama", dtype=torch.float32)
    wide = replace(lifted, tokens=torch.zeros(len(tokenizer), 16), model=None)
    blocks = model_blocks(wide, tokenizer, sequences=4)
    texts = tokenizer.convert_ids_to_tokens([t for one in blocks.sequences for t in one[1:]])
    assert all(text.startswith("Ġ") and text[1:].isalpha() for text in texts)
    assert {one[0] for one in blocks.sequences} == {tokenizer.bos_token_id}
    # one that adds no start, but has one; its words have no marks, so all but special ones count
    plain = model_blocks(wide, word_tokenizer, sequences=4)
    assert {one[0] for one in plain.sequences} == {word_tokenizer.bos_token_id}
    assert plain.vocabulary == len(word_tokenizer) - 3
