"""Prompt pairs in files: read in any shape that is known, written as JSON Lines.

    {"clean": "…gave a drink to", "corrupted": "…", "answers": [" Mary"], "distractors": [" John"]}
    {"clean_ids": [5, 17, 3], "corrupted_ids": [5, 9, 3], "answer_ids": [40]}

Optional keys: `corrupted` or `corrupted_ids`, for ablations that need none; `distractors` or
`distractor_ids`; `answer_position` (counts tokens from the first, special tokens included, or from
the end if negative; default: the last token of the prompt); `group` (a label); `spans` (names of
positions: one, or the first and the last of several; `span_labels`: the same, but that noise is
not confined to them); with ids also `bos_prepended`. Nothing is ever cut, padded or guessed: every
line that cannot be used is reported with its number. What other people's files are called and how
they become such lines is said by the `shapes`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...graphs.calls.typed import typed
from ...graphs.errors import PromptError, unknown
from ...graphs.files.atomic import write_text
from ...graphs.files.exchange.kinds import no_circuit
from .answers import EITHER, WAYS, Sequences, with_answers
from .chat import Chat
from .content import Content
from .json_fields import found, list_of, parse_object, text_of
from .pairs import STANDS_FOR, Pair, PromptPairs
from .row_context import Misfit, RowContext, WholeFile
from .shapes import Rows, Shape, read_shape
from .tokens import Tokens, tokens_sha256

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_REPORTED = 5
_TOGETHER = 2000  # rows whose texts are tokenized together
_LARGEST_ID = 2**31 - 1
_TEXT = ("clean", "corrupted", "answers", "distractors")
_IDS = ("clean_ids", "corrupted_ids", "answer_ids", "distractor_ids")
_COMMON = ("answer_position", "group", "spans", "span_labels")
_RECORDED = "bos_prepended"
Prompts = tuple[tuple[int, ...], tuple[int, ...] | None]  # a clean and a corrupted one, if any
APART = "answer and distractor cannot be told apart in the way asked for"
SHAPE = "shape"
"""Under which key of the pairs' origin, and of a file's task block, their file's shape stands."""


@typed
def read_pairs(
    path: str | Path,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    bos: bool | None = None,
    vocab_size: int | None = None,
    seed: int | None = None,
    answers: str | None = None,
    chat: Chat | None = None,
) -> PromptPairs:
    """Read prompt pairs from a file of any shape that is known.

    Text needs the model's tokenizer; `bos` forces a beginning-of-sequence token (True) or none
    (False), default what the tokenizer does. With `vocab_size`, ids must lie below it. `seed`
    (default 0) decides which pairs are formed of a file that holds none, but samples to form them
    of. `answers`: how those of several tokens are taken, `first` or `whole`; default: they are
    refused. `chat`: what stands around messages. `origin["shape"]` of the pairs says what was
    understood. A PromptError lists what is at fault, by line.
    """
    if answers is not None and answers not in WAYS:
        raise unknown("way to take `answers`", answers, WAYS)
    context = RowContext(tokenizer, bos, vocab_size, seed or 0, answers, chat or Chat())
    return read_with(path, context)


def fitting_pairs(
    path: str | Path,
    tokenizer: PreTrainedTokenizerBase,
    *,
    vocab_size: int | None = None,
    seed: int | None = None,
    answers: str | None = None,
) -> PromptPairs:
    """Read those pairs of a file that fit a tokenizer, as of a file made for another one.

    Pairs that do not align token by token, and answers that the tokenizer does not know or that
    are not one token, are left out and counted in `origin["shape"]`; else as `read_pairs`.
    """
    context = RowContext(tokenizer, None, vocab_size, seed or 0, answers, fitting=True)
    return read_with(path, context)


def read_with(path: str | Path, context: RowContext) -> PromptPairs:
    """Read prompt pairs from a file; `context` says with what; see `read_pairs`."""
    with no_circuit(path):
        return _read(Path(path), context)


def _read(path: Path, context: RowContext) -> PromptPairs:
    content, shape = read_shape(path)
    if context.chat and not shape.chat:
        raise PromptError(
            f"'{path}' holds no chat, so that `system` and `continued`, which stand around "
            "messages, mean nothing; leave them out, or write the prompts as messages."
        )
    try:
        rows = shape.read(content, context)
    except WholeFile as error:
        raise PromptError(f"'{path}' {error}") from None
    reader = _Reader(context, formed=shape.draws)
    pairs = _read_rows(path, rows, reader)
    origin: dict[str, object] = {SHAPE: _understood(content, shape, rows, pairs, reader)}
    if context.used is not None and context.tokenizer is not None:
        origin["tokens_sha256"] = tokens_sha256(context.tokenizer, pairs)
    drawn = context.seed if shape.draws else None
    return PromptPairs(tuple(pairs), path.stem, drawn, reader.bos_prepended, origin)


def _read_rows(path: Path, rows: Rows, reader: _Reader) -> list[Pair]:
    """Return the pairs of all rows, or refuse all those at fault together."""
    pairs: list[Pair] = []
    problems: list[str] = []
    misfits = 0
    for number, (place, row) in enumerate(rows.rows):
        if number % _TOGETHER == 0:
            reader.prepare(row for _, row in rows.rows[number : number + _TOGETHER])
        try:
            if isinstance(row, PromptError):
                raise row
            pair = reader.pair_or_reason(row)
            if isinstance(pair, str):
                rows.left_out[pair] += 1
            else:
                pairs.append(pair)
        except WholeFile as error:
            raise PromptError(f"'{path}', {place}: {rows.own_words(str(error))}") from None
        except PromptError as error:
            problems.append(f"{place}: {rows.own_words(str(error))}")
            misfits += isinstance(error, Misfit)
    if len(problems) == 1:
        raise PromptError(f"'{path}', {problems[0]}{reader.besides(' ')}")
    if problems:
        shown, rest = "\n  ".join(problems[:_REPORTED]), len(problems) - _REPORTED
        more = f"\n  … and {rest} more." if rest > 0 else ""
        kind = rows.rows[0][0].split()[0]
        what = {"line": "lines", "entry": "entries", "sample": "samples"}.get(kind, "places")
        others = ""
        if misfits == len(problems) and pairs:
            others = (
                f"\n  The other {len(pairs):,} fit this model's tokenizer; `edgewise tasks` with "
                "`fitting` writes them."
            )
        raise PromptError(
            f"'{path}' has {len(problems)} {what} that cannot be used:\n  {shown}{more}{others}"
            + reader.besides("\n  ")
        )
    if not pairs:
        left = f"; left out: {_counted(rows.left_out)}" if rows.left_out else ""
        needed = f" What is missing: {rows.missing}" if rows.missing else ""
        raise PromptError(f"'{path}' gives no prompt pair ({rows.said}{left}).{needed}")
    return pairs


def _counted(left_out: Mapping[str, int]) -> str:
    return ", ".join(f"{count} ({why})" for why, count in sorted(left_out.items()))


def _understood(
    content: Content, shape: Shape, rows: Rows, pairs: Sequence[Pair], reader: _Reader
) -> dict[str, object]:
    """Return what was understood of a file: its shape and kind, and all of it in words."""
    said = f"{content.kind}: {rows.said}"
    if rows.mixed and reader.tokens is not None:
        first = pairs[0]
        ids = [*first.answers[:1], *first.distractors[:1]]
        shown = " and ".join(
            f"{one} is {text!r}" for one, text in zip(ids, reader.tokens.show(ids), strict=True)
        )
        said += f", ids of the file's own tokenizer (here {shown})"
    said += f"; {len(pairs):,} pair{'s' * (len(pairs) != 1)}"
    if rows.left_out:
        said += f"; left out: {_counted(rows.left_out)}"
    if unused := [key for key in rows.unused if key.strip()]:
        said += f"; not used: {', '.join(unused)}"
    about: dict[str, object] = {"name": shape.name, "kind": content.kind, "understood": said}
    if rows.left_out:
        about["left_out"] = dict(sorted(rows.left_out.items()))
    return {**about, "native": True} if rows.native else about


def pairs_from_rows(rows: Sequence[object], vocab_size: int | None = None) -> PromptPairs:
    """Read prompt pairs that another file holds as token ids; see `pair_rows`."""
    reader = _Reader(RowContext(vocab_size=vocab_size, answers="whole"))  # as they were written
    pairs = []
    for number, row in enumerate(rows, start=1):
        try:
            pairs.append(reader.pair(parse_object(json.dumps(row))))
        except PromptError as error:
            raise PromptError(f"entry {number}: {error}") from None
    return PromptPairs(tuple(pairs), bos_prepended=reader.bos_prepended)


def pair_rows(pairs: PromptPairs) -> list[dict[str, object]]:
    """Return pairs as token ids, as a line of a file holds each."""
    rows = []
    for pair in pairs:
        every = (pair.clean, pair.corrupted, *map(_flat, pair.sequences))
        row: dict[str, object] = {k: ids for k, ids in zip(_IDS, every, strict=True) if ids}
        if pair.answer_position != len(pair.clean) - 1:
            row["answer_position"] = pair.answer_position
        if pair.group:
            row["group"] = pair.group
        if pair.spans:
            row["spans"] = _places(pair.spans)
        if pairs.told_apart and pair.declared:
            row["span_labels"] = _places(pair.declared)
        if pairs.bos_prepended is not None:
            row[_RECORDED] = pairs.bos_prepended
        rows.append(row)
    return rows


@typed
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
    """What turns rows into pairs, and remembers what the first of them decided.

    `formed`: the pairs are not a person's, but formed of a file's samples: one that makes no sense
    is left out. `alone`, `several`, `undistracted`: how many refused rows have no corrupted prompt,
    answers of several tokens, and no distractor.
    """

    context: RowContext
    formed: bool = False
    form: str = ""
    recorded: list[bool | None] = field(default_factory=list)
    alone: int = 0
    several: int = 0
    undistracted: int = 0

    @property
    def tokens(self) -> Tokens | None:
        """Return what tokenizes, if anything was tokenized or is read beside text."""
        return self.context.used

    @property
    def bos_prepended(self) -> bool | None:
        """Tell whether the prompts begin with BOS; None if the file does not say."""
        return self.recorded[0] if self.recorded else None

    def besides(self, before: str) -> str:
        """Say what else refused rows need, whichever way is taken of those that are named."""
        words, context = list[str](), self.context
        if self.several and context.whole:
            words.append(f"`answers` whole needs one of the metrics {', '.join(context.whole)}.")
        if self.alone:
            many = "" if self.alone == 1 else f" in {self.alone:,} of them"
            named = f": {', '.join(context.twinless)}" if context.twinless else ""
            words.append(
                f"There is no corrupted prompt{many} either: write one, or choose an `ablation` "
                f"that needs none{named}."
            )
        if words and self.undistracted and context.undistracted:
            words.append(
                f"{'Nor is there a' if self.alone else 'There is no'} distractor: write one, or "
                f"choose a `metric` that needs none: {', '.join(context.undistracted)}."
            )
        return before + " ".join(words) if words else ""

    def prepare(self, rows: Iterable[object]) -> None:
        """Tokenize the texts of some rows together; what is wrong with a row is said later."""
        if self.context.tokenizer is None:
            return
        texts = list[tuple[str, list[str]]]()
        for row in rows:
            if not isinstance(row, Mapping):
                continue
            clean, corrupted = (row.get(key) for key in _TEXT[:2])
            sides = [row.get(key) for key in _TEXT[2:]]
            many = [one for side in sides if isinstance(side, list) for one in side]
            if isinstance(clean, str):
                texts.append((clean, [one for one in many if isinstance(one, str)]))
            if isinstance(corrupted, str):
                texts.append((corrupted, []))
        if texts:
            self.context.tokens().prepare(texts)

    def pair_or_reason(self, row: Mapping[str, object]) -> Pair | str:
        """Return a row's pair or, where such rows are left out, why it is none."""
        before = self.form, list(self.recorded)
        try:
            return self.pair(row)
        except WholeFile:
            raise
        except PromptError as error:
            if not (self.formed or (self.context.fitting and isinstance(error, Misfit))):
                raise
            self.form, self.recorded = before
            return error.reason if isinstance(error, Misfit) else APART

    def pair(self, row: Mapping[str, object]) -> Pair:
        """Return a row's pair; see `keys.FIELDS` for what a row holds."""
        prompts, answers = _forms_of(row)
        form = prompts if prompts == answers else f"{prompts} with answers as {answers}"
        self.form = self.form or form
        if form != self.form:
            raise PromptError(
                f"is written as {form}, but the lines before it as {self.form}; "
                "accepted: one form in the whole file."
            )
        keys = (*_KEYS[prompts][:2], *_KEYS[answers][2:])
        _refuse_unknown(row, (*keys, *_COMMON, *([_RECORDED] if prompts == "ids" else [])))
        needed = (keys[0], keys[2])
        if missing := [key for key in needed if key not in row]:
            given = f"found: {', '.join(row)}; needed: {' and '.join(needed)}"
            raise PromptError(f"the key '{missing[0]}' is missing; {given}.")
        position = _position(row)
        clean, corrupted = (self._from_text if prompts == "text" else self._from_ids)(row)
        before = ""
        if prompts == "text":
            tokens = self.context.tokens()
            position = tokens.last(clean) if position is None else position
            before = str(row["clean"]) if position == tokens.last(clean) else ""
        try:
            right, wrong = (
                (self._answer_texts if answers == "text" else self._answer_ids)(row, key, before)
                for key in keys[2:]
            )
        except WholeFile:
            raise
        except PromptError:
            self.alone += corrupted is None
            self.undistracted += not row.get(keys[3])
            raise
        pair = _prompts(clean, corrupted, position, _group(row))
        spans, labels = (_named(key, row.get(key), len(clean)) for key in ("spans", "span_labels"))
        pair = replace(pair, spans=spans, declared=labels)
        found = with_answers(pair, right, wrong, self.context.answers, self._show)
        every = (found.clean, found.corrupted or (), *(sum(x, ()) for x in found.sequences))
        for key, ids in zip(_TEXT, every, strict=True):
            self._ids(key, list(ids), empty=True)
            if self.context.placeholders.intersection(ids):
                self._refuse_placeholder(key, ids)
        return found

    def _refuse_placeholder(self, key: str, ids: Sequence[int]) -> None:
        token = next(one for one in ids if one in self.context.placeholders)
        shown = f" ({self._show([token])})" if self.tokens is not None else ""
        raise Misfit(
            f"'{key}' holds the token {token}{shown}, {STANDS_FOR}", "a token stands for an image"
        )

    def _show(self, ids: Sequence[int]) -> str:
        return ", ".join(map(str, ids)) if self.tokens is None else _shown(self.tokens, ids)

    def _from_ids(self, row: Mapping[str, object]) -> Prompts:
        if self.context.bos is not None:
            raise WholeFile(
                f"holds token ids, which are used as they are, but bos={self.context.bos} was "
                "asked for; accepted with ids: no decision about bos."
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
        clean, *twin = (self._ids(key, row[key], empty=False) for key in _IDS[:2] if key in row)
        corrupted = twin[0] if twin else None
        if corrupted is not None and len(clean) != len(corrupted):
            raise PromptError(
                f"clean_ids holds {len(clean)} tokens and corrupted_ids {len(corrupted)}; "
                "accepted: prompts of equal length, which align token by token."
            )
        return clean, corrupted

    def _ids(self, key: str, value: object, *, empty: bool) -> tuple[int, ...]:
        ids = list_of(key, value, int, "token ids", empty=empty)
        size = self.context.vocab_size
        limit = _LARGEST_ID if size is None else size - 1
        for one in ids:
            if not 0 <= one <= limit:
                raise PromptError(f"'{key}' holds the id {one}; accepted: 0 to {limit}.")
        return ids

    def _from_text(self, row: Mapping[str, object]) -> Prompts:
        texts = [text_of(key, row[key]) for key in _TEXT[:2] if key in row]
        tokens = self.context.tokens()
        clean_ids, *twin = tokens.prompts(texts)
        self._note_start(clean_ids, *twin)
        corrupted_ids = twin[0] if twin else None
        if corrupted_ids is not None and len(clean_ids) != len(corrupted_ids):
            raise Misfit(
                f"clean has {len(clean_ids)} tokens and corrupted {len(corrupted_ids)}; accepted: "
                "prompts that align token by token. "
                f"clean: {_shown(tokens, clean_ids)}; corrupted: {_shown(tokens, corrupted_ids)}.",
                "the prompts do not align",
            )
        return clean_ids, corrupted_ids

    def _answer_texts(self, row: Mapping[str, object], key: str, before: str) -> Sequences:
        texts = list_of(key, row.get(key, []), str, "texts", empty=key == _TEXT[3])
        return [self._answer_text(key, text, before) for text in texts]

    def _answer_text(self, key: str, text: str, before: str) -> tuple[int, ...]:
        """Return the tokens of an answer or distractor behind a prompt; of one it is said which."""
        tokens = self.context.tokens()
        ids = tokens.answer(before, text)
        if tokens.has_unknown(ids):
            raise Misfit(
                f"'{key}' holds {text!r}, which the tokenizer does not know; accepted: texts that "
                "are of its vocabulary.",
                "the tokenizer does not know an answer",
            )
        if not ids or (len(ids) > 1 and self.context.answers is None):
            self.several += bool(ids)
            raise Misfit(
                f"'{key}' holds {text!r}, which is {len(ids)} tokens ({_shown(tokens, ids)}); "
                "accepted: texts that are exactly one token, usually a word with its space "
                f"before; or {EITHER}.",
                "an answer is not one token",
            )
        return ids

    def _answer_ids(self, row: Mapping[str, object], key: str, before: str) -> Sequences:
        given, empty = row.get(key, []), key == _IDS[3]
        if not isinstance(given, list) or not any(isinstance(one, list) for one in given):
            return [(one,) for one in self._ids(key, given, empty=empty)]
        return [
            self._ids(key, one if isinstance(one, list) else [one], empty=False) for one in given
        ]

    def _note_start(self, *prompts: Sequence[int]) -> None:
        """Refuse prompts of which some begin with BOS and others do not."""
        for ids in prompts:
            begins = self.context.tokens().begins(ids)
            self.recorded = self.recorded or [begins]
            if begins != self.recorded[0]:
                one, rest = ("begins", "do not") if begins else ("does not begin", "do")
                raise PromptError(
                    f"a prompt {one} with the beginning-of-sequence token, and those before it "
                    f"{rest}; accepted: its text before every prompt of the file, or before none "
                    "(`bos` puts it before those without)."
                )


def _position(row: Mapping[str, object]) -> int | None:
    position = row.get("answer_position")
    if position is not None and (not isinstance(position, int) or isinstance(position, bool)):
        raise PromptError(f"'answer_position' is {found(position)}; accepted: a whole number.")
    return position


def _group(row: Mapping[str, object]) -> str:
    group = row.get("group", "")
    if not isinstance(group, str):
        raise PromptError(f"'group' is {found(group)}; accepted: a text.")
    return group


def _named(key: str, named: object, length: int) -> tuple[tuple[str, int], ...]:
    """Return the positions that a row names, of a prompt of so many tokens."""
    if not named:
        return ()
    if not isinstance(named, dict):
        raise PromptError(f"'{key}' is {found(named)}; accepted: positions by their names.")
    places: list[tuple[str, int]] = []
    for name, given in named.items():
        for first, last in _ranges(key, given):
            for at in (first, last):
                if not -length <= at < length:
                    raise PromptError(
                        f"'{key}' has '{name}' at {at}, outside the {length} tokens of the "
                        f"prompt; accepted: {-length} to {length - 1}."
                    )
            ends = first % length, last % length
            if ends[0] > ends[1]:
                raise PromptError(
                    f"'{key}' has '{name}' from {first} to {last}; accepted: [first, last] of "
                    "several positions, both counted."
                )
            places += [(text_of(key, name), at) for at in range(ends[0], ends[1] + 1)]
    return tuple(dict.fromkeys(places))


def _ranges(key: str, given: object) -> list[tuple[int, int]]:
    """Return what a name has for positions: one, or the first and last of one run, or of several.

    >>> _ranges("spans", 3), _ranges("spans", [3, 5]), _ranges("spans", [[1, 2], 4])
    ([(3, 3)], [(3, 5)], [(1, 2), (4, 4)])
    """
    if type(given) is int:
        return [(given, given)]
    if isinstance(given, list) and len(given) == 2 and all(type(one) is int for one in given):
        return [(given[0], given[1])]
    parts = given if isinstance(given, list) else []
    if any(isinstance(x, list) for x in parts) and all(
        type(x) is int or (isinstance(x, list) and len(x) == 2) for x in parts
    ):
        return [one for part in parts for one in _ranges(key, part)]
    raise PromptError(
        f"'{key}' holds {found(given)}; accepted: a whole number for each name, or "
        "[first, last] of several positions."
    )


def _places(named: Sequence[tuple[str, int]]) -> dict[str, object]:
    """Write named positions: of a name its only one, the first and last of a run, or of several."""
    runs: dict[str, list[list[int]]] = {}
    for name, at in named:
        of = runs.setdefault(name, [])
        if of and of[-1][1] == at - 1:
            of[-1][1] = at
        else:
            of.append([at, at])
    return {
        name: of if len(of) > 1 else of[0] if of[0][0] < of[0][1] else of[0][0]
        for name, of in runs.items()
    }


def _prompts(
    clean: tuple[int, ...], corrupted: tuple[int, ...] | None, position: int | None, group: str
) -> Pair:
    """Build a pair without its answers."""
    last = -1 if position is None else position
    if not -len(clean) <= last < len(clean):
        raise PromptError(
            f"answer_position {last} lies outside the {len(clean)} tokens of the prompt; accepted: "
            f"{-len(clean)} to {len(clean) - 1}."
        )
    return Pair(clean, corrupted, clean[:1], answer_position=last, group=group)


def _flat(sequences: Sequence[tuple[int, ...]]) -> list[int | list[int]]:
    """Write answers of one token each as tokens, those of several as lists."""
    return [one[0] if len(one) == 1 else list(one) for one in sequences]


_KEYS = {"text": _TEXT, "ids": _IDS}  # the two ways to write each half of a pair


def _forms_of(row: Mapping[str, object]) -> tuple[str, str]:
    """Return how a row has its prompts, and how its answers: as text, or as ids."""
    halves = []
    for half in (slice(0, 2), slice(2, 4)):
        used = [form for form, keys in _KEYS.items() if any(key in row for key in keys[half])]
        if len(used) == 2:
            mixed = [key for key in row if key in (*_TEXT[half], *_IDS[half])]
            raise PromptError(
                f"mixes text and ids ({', '.join(mixed)}); accepted: {', '.join(_TEXT[half])}, or "
                f"{', '.join(_IDS[half])}."
            )
        halves += used or [""]
    if not any(halves):
        _refuse_unknown(row, (*_TEXT, *_IDS, *_COMMON))
        raise PromptError(
            f"no prompt is given; needed: {', '.join(_TEXT[:3])}, or {', '.join(_IDS[:3])}."
        )
    prompts, answers = (one or next(filter(None, halves)) for one in halves)
    return prompts, answers


def _refuse_unknown(row: Mapping[str, object], accepted: Sequence[str]) -> None:
    for key in row:
        if key not in accepted:
            raise PromptError(str(unknown("key", key, accepted)))


def _shown(tokens: Tokens, ids: Sequence[int]) -> str:
    return " ".join(repr(text) for text in tokens.show(ids))
