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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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


class _WholeFile(PromptError):
    """Every line would fail alike, so the first one speaks for all."""


@dataclass(frozen=True)
class _Form:
    """Hold one of the two ways to write a pair: its keys, in the order of `_TEXT`."""

    name: str
    keys: tuple[str, ...]
    accepted: tuple[str, ...]


_FORMS = (
    _Form("text", _TEXT, (*_TEXT, *_COMMON)),
    _Form("ids", _IDS, (*_IDS, *_COMMON, _RECORDED)),
)


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
    Raises PromptError that lists the lines at fault, what was found and what is accepted.
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
    if problems:
        raise PromptError(_summary(path, problems))
    if not pairs:
        raise PromptError(
            f"'{path}' holds no prompt pairs: every line is blank; accepted: one JSON object a "
            'line, such as {"clean": "…", "corrupted": "…", "answers": [" Mary"]}.'
        )
    read = reader.tokens is not None and tokenizer is not None
    origin = {"tokens_sha256": tokens_sha256(tokenizer, pairs)} if read else {}
    return PromptPairs(
        tuple(pairs), name=path.stem, bos_prepended=reader.bos_prepended, origin=origin
    )


def pairs_from_rows(rows: Sequence[object], vocab_size: int | None = None) -> PromptPairs:
    """Read prompt pairs that another file holds as token ids; see `pair_rows`.

    Raises:
        PromptError: names the first entry at fault, what was found and what is accepted.
    """
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
    return [_row(pair, pairs.bos_prepended) for pair in pairs]


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


class _Reader:
    """Turn lines into pairs; remember the form of the first line."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase | None,
        bos: bool | None,
        vocab_size: int | None,
    ) -> None:
        self._tokenizer = tokenizer
        self._bos = bos
        self._limit = vocab_size
        self.tokens: Tokens | None = None
        self._form: _Form | None = None
        self._recorded: list[bool | None] = []

    @property
    def bos_prepended(self) -> bool | None:
        """Tell whether the prompts begin with BOS; None if the file does not say."""
        if self.tokens is not None:
            return self.tokens.bos_prepended
        return self._recorded[0] if self._recorded else None

    def pair(self, line: str) -> Pair:
        """Read one line."""
        row = parse_object(line)
        form = _form_of(row)
        if self._form is None:
            self._form = form
        if form is not self._form:
            raise PromptError(
                f"is written as {form.name}, but the lines before it as {self._form.name}; "
                "accepted: one form in the whole file."
            )
        self._check_keys(row, form)
        position = _position(row)
        group = row.get("group", "")
        if not isinstance(group, str):
            raise PromptError(f"'group' is {found(group)}; accepted: a text.")
        make = self._from_text if form.name == "text" else self._from_ids
        return make(row, position, group)

    def _check_keys(self, row: dict[str, object], form: _Form) -> None:
        for key in row:
            if key not in form.accepted:
                raise PromptError(str(unknown("key", key, form.accepted)))
        for key in form.keys[:3]:
            if key not in row:
                raise PromptError(
                    f"the key '{key}' is missing; found: {', '.join(row)}; needed: "
                    f"{', '.join(form.keys[:3])}."
                )

    def _from_ids(self, row: dict[str, object], position: int | None, group: str) -> Pair:
        if self._bos is not None:
            raise _WholeFile(
                f"holds token ids, which are used as they are, but bos={self._bos} was asked for; "
                "accepted with ids: no decision about bos."
            )
        recorded = row.get(_RECORDED)
        if recorded is not None and not isinstance(recorded, bool):
            raise PromptError(f"'{_RECORDED}' is {found(recorded)}; accepted: true or false.")
        if self._recorded and self._recorded[0] != recorded:
            raise PromptError(
                f"'{_RECORDED}' is {found(recorded)}, but {found(self._recorded[0])} in the "
                "lines before it; accepted: the same in the whole file."
            )
        self._recorded.append(recorded)
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
        limit = _LARGEST_ID if self._limit is None else self._limit - 1
        for one in ids:
            if not 0 <= one <= limit:
                raise PromptError(f"'{key}' holds the id {one}; accepted: 0 to {limit}.")
        return ids

    def _from_text(self, row: dict[str, object], position: int | None, group: str) -> Pair:
        clean, corrupted = (text_of(key, row[key]) for key in _TEXT[:2])
        answers, distractors = (
            list_of(key, row.get(key, []), str, "texts", empty=key == _TEXT[3]) for key in _TEXT[2:]
        )
        tokens = self._tokenizer_or_refuse()
        clean_ids, corrupted_ids = tokens.prompts([clean, corrupted])
        if len(clean_ids) != len(corrupted_ids):
            raise PromptError(
                f"clean has {len(clean_ids)} tokens and corrupted {len(corrupted_ids)}; accepted: "
                "prompts that align token by token. "
                f"clean: {_shown(tokens, clean_ids)}; corrupted: {_shown(tokens, corrupted_ids)}."
            )
        if position is None:
            position = tokens.last(clean_ids)
        context = clean if position == tokens.last(clean_ids) else None
        one = _one_token(tokens, context)
        chosen = (
            tuple(one(_TEXT[2], text) for text in answers),
            tuple(one(_TEXT[3], text) for text in distractors),
        )
        pair = _pair((clean_ids, corrupted_ids), *chosen, position, group)
        for key, ids in zip(_TEXT, (clean_ids, corrupted_ids, *chosen), strict=True):
            self._ids(key, list(ids), empty=True)
        return pair

    def _tokenizer_or_refuse(self) -> Tokens:
        if self._tokenizer is None:
            raise _WholeFile(
                "holds text, but no tokenizer was given; accepted: the model's tokenizer, or "
                f"pairs written as ids ({', '.join(_IDS)})."
            )
        if self.tokens is None:
            try:
                self.tokens = Tokens(self._tokenizer, self._bos)
            except PromptError as error:
                raise _WholeFile(str(error)) from None
        return self.tokens


def _one_token(tokens: Tokens, context: str | None) -> Callable[[str, str], int]:
    """Return the function that turns an answer or distractor into its one token."""

    def one(key: str, text: str) -> int:
        ids = tokens.answer(context or "", text)
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

    return one


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


def _form_of(row: dict[str, object]) -> _Form:
    used = [form for form in _FORMS if any(key in row for key in form.keys)]
    if len(used) == 2:
        mixed = [key for key in row if key in (*_TEXT, *_IDS)]
        raise PromptError(
            f"mixes text and ids ({', '.join(mixed)}); accepted: {', '.join(_TEXT)}, or "
            f"{', '.join(_IDS)}."
        )
    if used:
        return used[0]
    accepted = (*_TEXT, *_IDS, *_COMMON)
    for key in row:
        if key not in accepted:
            raise PromptError(str(unknown("key", key, accepted)))
    raise PromptError(
        f"no prompt is given; needed: {', '.join(_TEXT[:3])}, or {', '.join(_IDS[:3])}."
    )


def _position(row: dict[str, object]) -> int | None:
    value = row.get("answer_position")
    if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        raise PromptError(f"'answer_position' is {found(value)}; accepted: a whole number.")
    return value


def _row(pair: Pair, bos_prepended: bool | None) -> dict[str, object]:
    row: dict[str, object] = {
        "clean_ids": pair.clean,
        "corrupted_ids": pair.corrupted,
        "answer_ids": pair.answers,
    }
    if pair.distractors:
        row["distractor_ids"] = pair.distractors
    if pair.answer_position != len(pair.clean) - 1:
        row["answer_position"] = pair.answer_position
    if pair.group:
        row["group"] = pair.group
    if bos_prepended is not None:
        row[_RECORDED] = bos_prepended
    return row


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


def _summary(path: Path, problems: Sequence[str]) -> str:
    if len(problems) == 1:
        return f"'{path}', {problems[0]}"
    shown = "\n  ".join(problems[:_REPORTED])
    rest = len(problems) - _REPORTED
    more = f"\n  … and {rest} more." if rest > 0 else ""
    return f"'{path}' has {len(problems)} lines that cannot be used:\n  {shown}{more}"


def _shown(tokens: Tokens, ids: Sequence[int]) -> str:
    return " ".join(repr(text) for text in tokens.show(ids))
