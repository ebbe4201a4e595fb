"""A prompt begins with one BOS or none, whoever writes it, and `bos_prepended` says which."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.graphs.errors import PromptError
from edgewise.patching.prompts.pair_files import read_pairs
from edgewise.patching.prompts.tokens import Tokens
from edgewise.patching.tasks import make_task

WORDS = ["When", " Mary", " and", " John", " went", " to", " the", " store", ","]
KINDS = [
    "adds",
    "adds none",
    "adds EOS",
    "adds both",
    "BOS is EOS",
    "space before",
    "two tokens before",
]


def build(kind: str, byte_tokenizer: Any, space_tokenizer: Any) -> Any:
    """Return a tokenizer of a kind; the token of BOS is `.bos_token`."""
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    if kind == "space before":
        return space_tokenizer
    found = byte_tokenizer(bos=kind in ("adds", "adds both"), eos=kind in ("adds EOS", "adds both"))
    if kind == "BOS is EOS":  # as GPT-2, which names one token for both and adds none
        object = found.backend_tokenizer
        return PreTrainedTokenizerFast(
            tokenizer_object=object, bos_token="[EOS]", eos_token="[EOS]", unk_token="[EOS]"
        )
    if kind == "two tokens before":
        found.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="[BOS] [UNK] $A", special_tokens=[("[BOS]", 0), ("[UNK]", 2)]
        )
    return found


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30)
@given(
    words=st.lists(st.sampled_from(WORDS), min_size=1, max_size=5),
    written=st.integers(0, 3),
    asked=st.sampled_from([None, True, False]),
)
def test_every_prompt_has_exactly_one_bos_or_none(
    kind: str,
    byte_tokenizer: Any,
    space_tokenizer: Any,
    words: list[str],
    written: int,
    asked: bool | None,
) -> None:
    tokenizer = build(kind, byte_tokenizer, space_tokenizer)
    tokens = Tokens(tokenizer, asked)
    text = tokenizer.bos_token * written + "".join(words)
    (ids,) = tokens.prompts([text])
    assert ids.count(tokenizer.bos_token_id) == int(bool(written) or tokens.bos_prepended)
    if kind != "two tokens before" or asked is not False:  # there the other one stays before it
        assert tokens.begins(ids) is (bool(written) or tokens.bos_prepended)
    if written:
        assert ids == tokens.prompts([tokenizer.bos_token + "".join(words)])[0]


def test_a_text_that_has_all_that_is_put_before_texts_keeps_it_once(
    byte_tokenizer: Any, space_tokenizer: Any
) -> None:
    tokens = Tokens(build("two tokens before", byte_tokenizer, space_tokenizer))
    plain, whole, part = tokens.prompts(["When", "[BOS][UNK]When", "[BOS]When"])
    assert plain[:2] == (0, 2) and plain == whole == part


def pairs_of(folder: Path, tokenizer: Any, starts: list[str], bos: bool | None = None) -> Any:
    rows = [
        {"clean": f"{s}When Mary", "corrupted": f"{s}When John", "answers": [" and"]}
        for s in starts
    ]
    path = folder / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_pairs(path, tokenizer, bos=bos)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("asked", [None, True, False])
def test_bos_prepended_is_true_of_the_ids(
    tmp_path: Path, kind: str, asked: bool | None, byte_tokenizer: Any, space_tokenizer: Any
) -> None:
    tokenizer = build(kind, byte_tokenizer, space_tokenizer)
    for start in ("", tokenizer.bos_token, 2 * tokenizer.bos_token):
        found = pairs_of(tmp_path, tokenizer, [start, start], asked)
        for ids in (ids for pair in found for ids in (pair.clean, pair.corrupted)):
            assert found.bos_prepended is (ids[0] == tokenizer.bos_token_id)
            assert ids.count(tokenizer.bos_token_id) == int(bool(start) or found.bos_prepended)


def test_prompts_of_which_some_begin_with_bos_are_refused(
    tmp_path: Path, byte_tokenizer: Any
) -> None:
    with pytest.raises(PromptError, match="line 2: a prompt begins with the beginning-of-seq"):
        pairs_of(tmp_path, byte_tokenizer(), ["", "[BOS]"])
    with pytest.raises(PromptError, match=r"line 2: a prompt does not begin .* those before it do"):
        pairs_of(tmp_path, byte_tokenizer(), ["[BOS]", ""])
    for own, asked in ((True, None), (False, True)):
        found = pairs_of(tmp_path, byte_tokenizer(bos=own), ["", "[BOS]"], asked)
        assert found.bos_prepended and found.pairs[0].clean == found.pairs[1].clean


def test_a_task_says_what_its_prompts_begin_with(byte_tokenizer: Any) -> None:
    for own in (True, False):
        pairs = make_task("ioi", tokenizer=byte_tokenizer(bos=own), examples=3).pairs
        assert pairs.bos_prepended is own
        assert all((pair.clean[0] == 0) is own for pair in pairs)
