"""What prompts are read with: one tokenizer, one decision about BOS, one seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ...graphs.errors import PromptError
from .chat import Chat
from .tokens import Tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class WholeFile(PromptError):
    """Every line would fail alike, so the first one speaks for all."""


class Misfit(PromptError):
    """A row is right, but does not fit this model's tokenizer; `reason` says why, to be counted."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass
class RowContext:
    """What all rows of a file are read with.

    `bos`: force a beginning-of-sequence token (True) or none (False). Ids lie below `vocab_size`.
    `seed`: decides which pairs are formed where a file holds none, but what they are formed from.
    `answers`: how those of several tokens are taken (see `answers.py`); None: they are refused.
    `chat`: what stands around the messages of chat. `fitting`: whether rows that do not fit the
    tokenizer are left out and counted, not refused. `twinless`: the ablations that need no
    corrupted prompt, to be named where there is none; `whole`: the metrics that take answers of
    several tokens; `undistracted`: those that need no distractors. `placeholders`: tokens in whose
    place the model puts images or sound.
    """

    tokenizer: PreTrainedTokenizerBase | None = None
    bos: bool | None = None
    vocab_size: int | None = None
    seed: int = 0
    answers: str | None = None
    chat: Chat = field(default_factory=Chat)
    fitting: bool = False
    twinless: tuple[str, ...] = ()
    whole: tuple[str, ...] = ()
    undistracted: tuple[str, ...] = ()
    placeholders: frozenset[int] = frozenset()
    _tokens: Tokens | None = None

    @property
    def used(self) -> Tokens | None:
        """Return the tokens if there was any text to tokenize."""
        return self._tokens

    def tokens(self) -> Tokens:
        """Return what tokenizes; a `WholeFile` error if there is no tokenizer for text."""
        if self.tokenizer is None:
            raise WholeFile(
                "holds text, but no tokenizer was given; accepted: a `model` that has one, or "
                "pairs written as ids (clean_ids, corrupted_ids, answer_ids, distractor_ids)."
            )
        if self._tokens is None:
            try:
                self._tokens = Tokens(self.tokenizer, self.bos)
            except PromptError as error:
                raise WholeFile(str(error)) from None
        return self._tokens

    def end(self, prompt: str, answer: str) -> tuple[int, ...]:
        """Return an answer's tokens behind a prompt: one known token, or more if asked; or none."""
        ids = self.tokens().answer(prompt, answer)
        few = len(ids) == 1 or (self.answers is not None and len(ids) > 1)
        return ids if few and not self.tokens().has_unknown(ids) else ()

    def fits(self, prompt: str, answer: str) -> bool:
        """Tell whether an answer can stand behind a prompt; see `end`."""
        return bool(self.end(prompt, answer))

    def prompts(self, prompts: Sequence[str]) -> list[tuple[int, ...]]:
        """Return the ids of prompts, all at once."""
        return self.tokens().prompts(prompts) if prompts else []
