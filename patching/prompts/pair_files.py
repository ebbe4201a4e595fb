"""Prompt pairs as JSON Lines: one pair a line, as text or as token ids.

    {"clean": "…gave a drink to", "corrupted": "…", "answers": [" Mary"], "distractors": [" John"]}
    {"clean_ids": [5, 17, 3], "corrupted_ids": [5, 9, 3], "answer_ids": [40]}

Optional keys: `distractors` or `distractor_ids`; `answer_position` (counts tokens from the first,
special tokens included, or from the end if negative; default: the last token of the prompt);
`group` (a label); with ids also `bos_prepended`. Nothing is ever cut, padded or guessed: every
line that cannot be used is reported with its number.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ...graphs.errors import PromptError, unknown
from ...graphs.files.atomic import write_text
from ...graphs.files.reading import PROMPT_BYTES, read_bounded
from .json_fields import found, list_of, parse_object, text_of
from .pairs import Pair, PromptPairs
from .tokens import Tokens, tokens_sha256

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_REPORTED = 5
_LARGEST_ID = 2**31 - 1
_TEXT = ("clean", "corrupted", "answers", "distractors")
_IDS = ("clean_ids", "corrupted_ids", "answer_ids", "distractor_ids")
_COMMON = ("answer_position", "group")
_RECORDED = "bos_prepended"
_FORMS = {"text": _TEXT, "ids": _IDS}  # the two ways to write a pair: their keys, in one order


class _WholeFile(PromptError):
    """Every line would fail alike, so the first one speaks for all."""


def read_pairs(
    path: str | Path,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    bos: bool | None = None,
    vocab_size: int | None = None,
) -> PromptPairs:
    """Read prompt pairs from a JSON Lines file.

    Text needs the model's tokenizer; `bos` forces a beginning-of-sequence token (True) or none
    (False), default what the tokenizer does. With `vocab_size`, ids must lie below it.
    A PromptError lists the lines at fault.
    """
    path = Path(path)
    reader = _Reader(tokenizer, bos, vocab_size)
    pairs: list[Pair] = []
    problems: list[str] = []
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            pairs.append(reader.pair(line))
        except _WholeFile as error:
            raise PromptError(f"'{path}', line {number}: {error}") from None
        except PromptError as error:
            problems.append(f"line {number}: {error}")
    if len(problems) == 1:
        raise PromptError(f"'{path}', {problems[0]}")
    if problems:
        shown, rest = "\n  ".join(problems[:_REPORTED]), len(problems) - _REPORTED
        more = f"\n  … and {rest} more." if rest > 0 else ""
        raise PromptError(
            f"'{path}' has {len(problems)} lines that cannot be used:\n  {shown}{more}"
        )
    if not pairs:
        raise PromptError(
            f"'{path}' holds no prompt pairs: every line is blank; accepted: one JSON object a "
            'line, such as {"clean": "…", "corrupted": "…", "answers": [" Mary"]}.'
        )
    read = reader.tokens is not None and tokenizer is not None
    origin = {"tokens_sha256": tokens_sha256(tokenizer, pairs)} if read else {}
    return PromptPairs(tuple(pairs), path.stem, None, reader.bos_prepended, origin)


def pairs_from_rows(rows: Sequence[object], vocab_size: int | None = None) -> PromptPairs:
    """Read prompt pairs that another file holds as token ids; see `pair_rows`."""
    reader = _Reader(None, None, vocab_size)
    pairs = []
    for number, row in enumerate(rows, start=1):
        try:
            pairs.append(reader.pair(json.dumps(row)))
        except PromptError as error:
            raise PromptError(f"entry {number}: {error}") from None
    return PromptPairs(tuple(pairs), bos_prepended=reader.bos_prepended)


def pair_rows(pairs: PromptPairs) -> list[dict[str, object]]:
    """Return pairs as token ids, as a line of a file holds each."""
    rows = []
    for pair in pairs:
        needed = (pair.clean, pair.corrupted, pair.answers)
        row: dict[str, object] = dict(zip(_IDS[:3], needed, strict=True))
        if pair.distractors:
            row[_IDS[3]] = pair.distractors
        if pair.answer_position != len(pair.clean) - 1:
            row["answer_position"] = pair.answer_position
        if pair.group:
            row["group"] = pair.group
        if pairs.bos_prepended is not None:
            row[_RECORDED] = pairs.bos_prepended
        rows.append(row)
    return rows


def write_pairs(path: str | Path, pairs: PromptPairs) -> None:
    """Write prompt pairs as token ids, one JSON object a line, all or nothing.

    >>> import tempfile
    >>> pairs = PromptPairs((Pair((5, 17, 3), (5, 9, 3), (40,), (41,)),))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_pairs(f"{folder}/pairs.jsonl", pairs)
    ...     read_pairs(f"{folder}/pairs.jsonl") == pairs
    True
    """
    write_text(path, "".join(json.dumps(row) + "\n" for row in pair_rows(pairs)))


@dataclass
class _Reader:
    """What turns lines into pairs, and remembers what the first of them decided."""

    tokenizer: PreTrainedTokenizerBase | None
    bos: bool | None
    vocab_size: int | None
    tokens: Tokens | None = None
    form: str = ""
    recorded: list[bool | None] = field(default_factory=list)

    @property
    def bos_prepended(self) -> bool | None:
        """Tell whether the prompts begin with BOS; None if the file does not say."""
        return self.recorded[0] if self.recorded else None

    def pair(self, line: str) -> Pair:
        row = parse_object(line)
        form = _form_of(row)
        self.form = self.form or form
        if form != self.form:
            raise PromptError(
                f"is written as {form}, but the lines before it as {self.form}; "
                "accepted: one form in the whole file."
            )
        keys = _FORMS[form]
        _refuse_unknown(row, (*keys, *_COMMON, *([_RECORDED] if form == "ids" else [])))
        if missing := [key for key in keys[:3] if key not in row]:
            given = f"found: {', '.join(row)}; needed: {', '.join(keys[:3])}"
            raise PromptError(f"the key '{missing[0]}' is missing; {given}.")
        position, group = row.get("answer_position"), row.get("group", "")
        if position is not None and (not isinstance(position, int) or isinstance(position, bool)):
            raise PromptError(f"'answer_position' is {found(position)}; accepted: a whole number.")
        if not isinstance(group, str):
            raise PromptError(f"'group' is {found(group)}; accepted: a text.")
        return (self._from_text if form == "text" else self._from_ids)(row, position, group)

    def _from_ids(self, row: dict[str, object], position: int | None, group: str) -> Pair:
        if self.bos is not None:
            raise _WholeFile(
                f"holds token ids, which are used as they are, but bos={self.bos} was asked for; "
                "accepted with ids: no decision about bos."
            )
        recorded = row.get(_RECORDED)
        if recorded is not None and not isinstance(recorded, bool):
            raise PromptError(f"'{_RECORDED}' is {found(recorded)}; accepted: true or false.")
        if self.recorded and self.recorded[0] != recorded:
            raise PromptError(
                f"'{_RECORDED}' is {found(recorded)}, but {found(self.recorded[0])} in the "
                "lines before it; accepted: the same in the whole file."
            )
        self.recorded.append(recorded)
        clean, corrupted, answers, distractors = (
            self._ids(key, row.get(key, []), empty=key == _IDS[3]) for key in _IDS
        )
        if len(clean) != len(corrupted):
            raise PromptError(
                f"clean_ids holds {len(clean)} tokens and corrupted_ids {len(corrupted)}; "
                "accepted: prompts of equal length, which align token by token."
            )
        return _pair((clean, corrupted), answers, distractors, position, group)

    def _ids(self, key: str, value: object, *, empty: bool) -> tuple[int, ...]:
        ids = list_of(key, value, int, "token ids", empty=empty)
        limit = _LARGEST_ID if self.vocab_size is None else self.vocab_size - 1
        for one in ids:
            if not 0 <= one <= limit:
                raise PromptError(f"'{key}' holds the id {one}; accepted: 0 to {limit}.")
        return ids

    def _from_text(self, row: dict[str, object], position: int | None, group: str) -> Pair:
        clean, corrupted = (text_of(key, row[key]) for key in _TEXT[:2])
        answers, distractors = (
            list_of(key, row.get(key, []), str, "texts", empty=key == _TEXT[3]) for key in _TEXT[2:]
        )
        if self.tokenizer is None:
            raise _WholeFile(
                "holds text, but no tokenizer was given; accepted: the model's tokenizer, or "
                f"pairs written as ids ({', '.join(_IDS)})."
            )
        if self.tokens is None:
            try:
                self.tokens = Tokens(self.tokenizer, self.bos)
            except PromptError as error:
                raise _WholeFile(str(error)) from None
        tokens = self.tokens
        clean_ids, corrupted_ids = tokens.prompts([clean, corrupted])
        self._note_start(clean_ids, corrupted_ids)
        if len(clean_ids) != len(corrupted_ids):
            raise PromptError(
                f"clean has {len(clean_ids)} tokens and corrupted {len(corrupted_ids)}; accepted: "
                "prompts that align token by token. "
                f"clean: {_shown(tokens, clean_ids)}; corrupted: {_shown(tokens, corrupted_ids)}."
            )
        if position is None:
            position = tokens.last(clean_ids)
        context = clean if position == tokens.last(clean_ids) else ""
        right, wrong = (
            tuple(_one_token(tokens, context, key, text) for text in texts)
            for key, texts in zip(_TEXT[2:], (answers, distractors), strict=True)
        )
        pair = _pair((clean_ids, corrupted_ids), right, wrong, position, group)
        for key, ids in zip(_TEXT, (clean_ids, corrupted_ids, right, wrong), strict=True):
            self._ids(key, list(ids), empty=True)
        return pair

    def _note_start(self, *prompts: Sequence[int]) -> None:
        """Refuse prompts of which some begin with BOS and others do not."""
        assert self.tokens is not None  # which has made the prompts
        for ids in prompts:
            begins = self.tokens.begins(ids)
            self.recorded = self.recorded or [begins]
            if begins != self.recorded[0]:
                one, rest = ("begins", "do not") if begins else ("does not begin", "do")
                raise PromptError(
                    f"a prompt {one} with the beginning-of-sequence token, and those before it "
                    f"{rest}; accepted: its text before every prompt of the file, or before none "
                    "(`bos` puts it before those without)."
                )


def _one_token(tokens: Tokens, context: str, key: str, text: str) -> int:
    """Return the one token of an answer or distractor behind a context."""
    ids = tokens.answer(context, text)
    if tokens.has_unknown(ids):
        raise PromptError(
            f"'{key}' holds {text!r}, which the tokenizer does not know; accepted: texts that "
            "are one token of its vocabulary."
        )
    if len(ids) != 1:
        raise PromptError(
            f"'{key}' holds {text!r}, which is {len(ids)} tokens ({_shown(tokens, ids)}); "
            "accepted: texts that are exactly one token, usually a word with its space before."
        )
    return ids[0]


def _pair(
    prompts: tuple[tuple[int, ...], tuple[int, ...]],
    answers: tuple[int, ...],
    distractors: tuple[int, ...],
    position: int | None,
    group: str,
) -> Pair:
    """Build the pair; a token named twice would count twice, or against itself."""
    clean, corrupted = prompts
    for what, ids in (("answers", answers), ("distractors", distractors)):
        if len(set(ids)) != len(ids):
            raise PromptError(f"the {what} name the same token twice; accepted: distinct tokens.")
    if set(answers) & set(distractors):
        raise PromptError(
            "a token is both answer and distractor; accepted: answers and distractors that differ."
        )
    last = -1 if position is None else position
    if not -len(clean) <= last < len(clean):
        raise PromptError(
            f"answer_position {last} lies outside the {len(clean)} tokens of the prompt; accepted: "
            f"{-len(clean)} to {len(clean) - 1}."
        )
    return Pair(clean, corrupted, answers, distractors, last, group)


def _form_of(row: dict[str, object]) -> str:
    used = [form for form, keys in _FORMS.items() if any(key in row for key in keys)]
    if len(used) == 2:
        mixed = [key for key in row if key in (*_TEXT, *_IDS)]
        raise PromptError(
            f"mixes text and ids ({', '.join(mixed)}); accepted: {', '.join(_TEXT)}, or "
            f"{', '.join(_IDS)}."
        )
    if used:
        return used[0]
    _refuse_unknown(row, (*_TEXT, *_IDS, *_COMMON))
    raise PromptError(
        f"no prompt is given; needed: {', '.join(_TEXT[:3])}, or {', '.join(_IDS[:3])}."
    )


def _refuse_unknown(row: dict[str, object], accepted: Sequence[str]) -> None:
    for key in row:
        if key not in accepted:
            raise PromptError(str(unknown("key", key, accepted)))


def _read_text(path: Path) -> str:
    what = "a JSON Lines file of prompt pairs, or the name of a built-in task"
    if path.is_dir() or not path.exists():
        reason = "Is a directory" if path.is_dir() else "No such file or directory"
        raise PromptError(f"cannot read prompt pairs from '{path}': {reason}; accepted: {what}.")
    try:
        return read_bounded(path, PROMPT_BYTES, what, PromptError).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise PromptError(
            f"'{path}', line {line}: the byte {error.object[error.start]:#04x} is not UTF-8; "
            "accepted: JSON Lines saved as UTF-8."
        ) from None


def _shown(tokens: Tokens, ids: Sequence[int]) -> str:
    return " ".join(repr(text) for text in tokens.show(ids))
