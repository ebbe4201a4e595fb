"""Small tokenizers made on the spot, one of each kind that tasks must adapt to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Build = Callable[..., Any]


def _texts() -> list[str]:
    """Give every word of every task, many times over."""
    from edgewise.patching.tasks import TASKS, preview
    from edgewise.patching.tasks._vocabulary import words

    samples = [s for name in sorted(TASKS) for s in preview(name, examples=300)]
    names = (*words("male_names"), *words("female_names"), *words("objects"), *words("places"))
    listed = [f" {word}" for word in names for _ in range(2)]
    numbers = [f"{number:02} {number:03}" for number in range(1000)]
    prompts = [text for s in samples for text in (s.clean, s.corrupted)]
    answers = [text for s in samples for text in (*s.answers, *s.distractors)]
    return prompts + answers + listed + numbers


def _wrap(tokenizer: Any, start: bool, end: bool) -> Any:
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    template = f"{'[BOS] ' if start else ''}$A{' [EOS]' if end else ''}"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[("[BOS]", 0), ("[EOS]", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="[BOS]", eos_token="[EOS]", unk_token="[UNK]"
    )


@pytest.fixture(scope="session")
def byte_tokenizer() -> Build:
    """Make byte-level BPE whose tokens hold at most `digits` digits."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    texts = _texts()
    trained: dict[tuple[int, int], str] = {}

    def build(digits: int = 1, *, bos: bool = False, eos: bool = False, size: int = 8000) -> Any:
        if (digits, size) not in trained:
            tokenizer = Tokenizer(models.BPE())
            tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
                [
                    pre_tokenizers.Split(Regex(rf"\d{{1,{digits}}}"), "isolated"),
                    pre_tokenizers.ByteLevel(add_prefix_space=False),
                ]
            )
            tokenizer.decoder = decoders.ByteLevel()
            trainer = trainers.BpeTrainer(
                vocab_size=size,
                special_tokens=["[BOS]", "[EOS]", "[UNK]"],
                initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                show_progress=False,
            )
            tokenizer.train_from_iterator(texts, trainer)
            trained[digits, size] = tokenizer.to_str()
        return _wrap(Tokenizer.from_str(trained[digits, size]), bos, eos)

    return build


@pytest.fixture(scope="session")
def space_tokenizer() -> Any:
    """Make BPE that invents a space before every text, as SentencePiece models do."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(prepend_scheme="always"),
            pre_tokenizers.Digits(individual_digits=True),
        ]
    )
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.BpeTrainer(
        vocab_size=8000, special_tokens=["[BOS]", "[EOS]", "[UNK]"], show_progress=False
    )
    tokenizer.train_from_iterator([*_texts(), "\n"], trainer)
    return _wrap(tokenizer, True, False)


@pytest.fixture(scope="session")
def word_tokenizer() -> Any:
    """Make a tokenizer of whole words that knows a few of them."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    known = "[BOS] [EOS] [UNK] When Mary John Anna and went to the store , gave a drink . said it"
    tokenizer = Tokenizer(
        models.WordLevel({w: i for i, w in enumerate(known.split())}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return _wrap(tokenizer, False, False)
