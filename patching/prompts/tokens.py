"""Text to token ids, with the special tokens a model expects; answers that are one token."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ...graphs.errors import PromptError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from .pairs import Pair

_SPACE_MARKS = ("Ġ", "▁")


class Tokens:
    """One tokenizer, and one decision about BOS, for prompts and answers.

    A prompt gets the special tokens that the tokenizer itself adds. `bos=True` prepends the
    beginning-of-sequence token where the tokenizer does not, `bos=False` leaves out the one it
    adds. A text that begins with that token (or with all that is put before texts) keeps it and
    gets no second one, so a prompt begins with one or none. `prefix` and `suffix` are the special
    tokens around a text that has none of its own; `bos_prepended`: whether such a prompt begins
    with BOS.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, bos: bool | None = None) -> None:
        self._tokenizer: Any = tokenizer
        self._single: dict[str, int | None] = {}
        self._ready: dict[bool, dict[str, tuple[int, ...]]] = {False: {}, True: {}}
        added, self.suffix = self._added_tokens()
        start: int | None = getattr(tokenizer, "bos_token_id", None)
        if bos and start is None:
            raise PromptError(
                "bos=True asks for a beginning-of-sequence token, but this tokenizer has none; "
                "accepted: bos=False, or none for what the tokenizer does."
            )
        self._added, self._start = added, start
        has = start is not None and added[:1] == (start,)
        first = (start,) if bos and not has and start is not None else ()
        self.prefix: tuple[int, ...] = (*first, *added[1 if has and bos is False else 0 :])
        self.bos_prepended: bool = self.begins(self.prefix)
        self._unknown: int | None = getattr(tokenizer, "unk_token_id", None)
        if self._unknown in (start, getattr(tokenizer, "eos_token_id", None)):
            self._unknown = None  # GPT-2 names one token for all; nothing is unknown to its bytes
        marked = self._tokens(self.encode("a"))
        self._anchor = "\n" if marked[:1] and marked[0].startswith("▁") else ""

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the ids of a text, without special tokens."""
        ready = self._ready[False].get(text)
        return tuple(self._encoded(text, add_special_tokens=False)) if ready is None else ready

    def prepare(self, prompts: Iterable[tuple[str, Sequence[str]]]) -> None:
        """Encode many prompts, and what may be answered to each, together: one by one is slow.

        What was prepared before is let go. A text that cannot be encoded is left to whoever asks.
        """
        both = list(prompts)
        plain = [prompt for prompt, answers in both if answers]
        for prompt, answers in both:
            plain += [prompt + answer for answer in answers]
        whole = [prompt for prompt, _ in both]
        for special, texts in ((True, whole), (False, plain)):
            every = list(dict.fromkeys(texts))
            try:
                rows = self._encoded(every, add_special_tokens=special) if every else []
            except PromptError:
                rows = []
            ids = (tuple(row) for row in rows)
            self._ready[special] = dict(zip(every, ids, strict=False))

    def prompts(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """Return the ids of several prompts, special tokens included."""
        ready = [self._ready[True].get(text) for text in texts]
        if all(ids is not None for ids in ready):
            return [self._begun(ids) for ids in ready if ids is not None]
        return [self._begun(tuple(row)) for row in self._encoded(list(texts))]

    def offsets(self, texts: Sequence[str]) -> list[Sequence[tuple[int, int]] | None]:
        """Return where in its text each token stands, (start, stop), without special tokens.

        Of a tokenizer that cannot tell, as far as the beginnings of a text are tokenized as within
        it; none of a text whose tokens are not told so. None of a text whose prompt has others.
        """
        fast = bool(getattr(self._tokenizer, "is_fast", False))
        found = list[Sequence[tuple[int, int]] | None]()
        for text, prompt in zip(texts, self.prompts(texts), strict=True):
            ids = self.encode(text)
            if prompt != self.wrap(ids):
                found.append([])
            elif fast:
                made = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
                found.append([(int(a), int(b)) for a, b in made["offset_mapping"]])
            else:
                found.append(self._by_beginnings(text, ids))
        return found

    def _by_beginnings(self, text: str, ids: tuple[int, ...]) -> list[tuple[int, int]]:
        """Tell where tokens stand by encoding what the text begins with, word by word."""
        places: list[tuple[int, int]] = []
        ends = [i for i in range(1, len(text)) if text[i] == " " and text[i - 1] != " "]
        start = 0
        for end in [*ends, len(text)]:
            before = self.encode(text[:end])
            if ids[: len(before)] != before:
                return []
            places += [(start, end)] * (len(before) - len(places))
            start = end
        return places

    def begins(self, ids: Sequence[int]) -> bool:
        """Tell whether ids begin with the beginning-of-sequence token."""
        return self._start is not None and tuple(ids[:1]) == (self._start,)

    def wrap(self, ids: Iterable[int]) -> tuple[int, ...]:
        """Return a prompt of ids with the special tokens around it."""
        return (*self.prefix, *ids, *self.suffix)

    def last(self, prompt: Sequence[int]) -> int:
        """Return the position of the last token of the text: before any special tokens after it."""
        return len(prompt) - 1 - len(self.suffix)

    def single(self, text: str) -> int | None:
        """Return the id of a text that is one known token, standing alone; None if it is not."""
        if text not in self._single:
            ids = self._alone(text)
            known = len(ids) == 1 and not self.has_unknown(ids)
            self._single[text] = ids[0] if known else None
        return self._single[text]

    def first(self, text: str) -> str:
        """Return the text of the first token of a text that stands alone."""
        return "".join(self.show(self._alone(text)[:1]))

    def answer(self, prompt: str, answer: str) -> tuple[int, ...]:
        """Return the ids of an answer after a prompt, or alone where the two would merge.

        An answer that is one token alone, but several after the prompt, is that one token.
        """
        before, both = self.encode(prompt), self.encode(prompt + answer)
        after = both[len(before) :] if both[: len(before)] == before else ()
        if len(after) == 1:
            return after
        alone = self._alone(answer)
        return alone if len(alone) == 1 or not after else after

    def has_unknown(self, ids: Sequence[int]) -> bool:
        """Tell whether ids hold the token that stands for anything not in the vocabulary."""
        return self._unknown is not None and self._unknown in ids

    def show(self, ids: Sequence[int]) -> list[str]:
        """Return each id as readable text or, if it is none by itself, as in the vocabulary."""
        shown: list[str] = []
        for mark, one in zip(self._tokens(ids), ids, strict=True):
            text: str = self._tokenizer.decode([one])
            spaced = mark.startswith(_SPACE_MARKS) and not text.startswith(" ")
            shown.append(mark if "\ufffd" in text else f" {text}" if spaced else text)
        return shown

    def text(self, ids: Sequence[int]) -> str:
        """Return ids as one text, special tokens included."""
        return str(self._tokenizer.decode(list(ids)))

    def ordinary(self, vocab_size: int | None = None, *, most: int = 4000) -> tuple[int, ...]:
        """Return the ids of up to `most` plain lower-case words with a space before them.

        The lowest ids, of frequent words, come first. A vocabulary that marks no spaces gives all
        its tokens that are not special.
        """
        vocabulary: dict[str, int] = self._tokenizer.get_vocab()
        special = set(self._tokenizer.all_special_ids)
        usable = sorted(
            (one, mark)
            for mark, one in vocabulary.items()
            if one not in special and (vocab_size is None or one < vocab_size)
        )
        words = tuple(one for one, mark in usable if _is_word(mark))
        return words[:most] if len(words) >= 100 else tuple(one for one, _ in usable)

    def _begun(self, row: tuple[int, ...]) -> tuple[int, ...]:
        """Return what the tokenizer makes of a text with one BOS at most before it."""
        own = row[len(self._added) :] if row[: len(self._added)] == self._added else row
        while self.prefix and own[: len(self.prefix)] == self.prefix:
            own = own[len(self.prefix) :]  # the text has it, as what a chat template writes does
        has = self._start in self.prefix
        while self.begins(own) and (has or self.begins(own[1:])):
            own = own[1:]
        return self.prefix + own

    def _alone(self, text: str) -> tuple[int, ...]:
        """Encode a text by itself; a space that the tokenizer would invent before it is avoided."""
        anchor = self.encode(self._anchor) if self._anchor else ()
        return self.encode(self._anchor + text)[len(anchor) :]

    def _encoded(self, text: str | list[str], **how: bool) -> list[Any]:
        try:
            found: list[Any] = self._tokenizer(text, **how)["input_ids"]
            return found
        except Exception as error:  # tokenizers has no class of its own for a vocabulary's gaps
            from ...graphs.files.reading import short

            raise PromptError(
                f"the tokenizer cannot encode {short(text)}: {str(error)[:200].rstrip('.')}; "
                "accepted: texts of its vocabulary, or pairs written as token ids."
            ) from error

    def _tokens(self, ids: Sequence[int]) -> list[str]:
        return [str(t) for t in self._tokenizer.convert_ids_to_tokens(list(ids))]

    def _added_tokens(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Find the special tokens which the tokenizer puts before and after a text."""
        body = self.encode("a")
        full = tuple(self._encoded("a"))
        for start in range(len(full) - len(body) + 1):
            if full[start : start + len(body)] == body:
                return full[:start], full[start + len(body) :]
        raise PromptError(
            "the tokenizer changes a text when it adds special tokens, so prompts and answers "
            "cannot be matched; accepted: special tokens before or after the text."
        )


def _is_word(mark: str) -> bool:
    word = mark[1:]
    return mark.startswith(_SPACE_MARKS) and len(word) >= 3 and word.isascii() and word.islower()


def tokens_sha256(tokenizer: PreTrainedTokenizerBase, pairs: Iterable[Pair]) -> str:
    """Hash how a tokenizer reads the ids in pairs; others with this hash read the same text."""
    known = {token for pair in pairs for token in (*pair.clean, *pair.twin)}
    known |= {token for p in pairs for many in p.sequences for one in many for token in one}
    ids = sorted(known)
    pieces = tokenizer.convert_ids_to_tokens(ids)
    return hashlib.sha256(json.dumps([ids, pieces]).encode()).hexdigest()
