"""Prompt pairs: clean and corrupted prompts that align token by token, and their answers."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ...graphs.calls.typed import short_value, typed
from ...graphs.errors import PromptError, out_of_memory, unknown
from ...graphs.names import SPAN_FORM, is_span

if TYPE_CHECKING:
    from torch import Tensor


OTHER = "other"
"""The span of all positions that have no name."""

_SIDES = ("answers", "distractors")
STANDS_FOR = (
    "in whose place this model puts an image or sound, so that it stands for no text; accepted: "
    "prompts of text alone."
)
"""What is wrong with a placeholder among a prompt's tokens."""


@dataclass(frozen=True)
class Spelled:
    """Answers and distractors of several tokens, each read token by token behind its prompt."""

    answers: tuple[tuple[int, ...], ...]
    distractors: tuple[tuple[int, ...], ...] = ()


@typed
@dataclass(frozen=True)
class Pair:
    """One clean and corrupted prompt as token ids; the answer is predicted at `answer_position`.

    `corrupted`: None if there is none; ablations that need one refuse the pair. `spelled`: answers
    of several tokens (see `spelling`); `answers` and `distractors` are then their first tokens.
    `spans` names positions of the prompts, as (name, position), a name once for each of its
    positions; noise is added to these alone. `declared`: the same by the task that made the pair,
    which only tells positions apart (see `PromptPairs.at_spans`).
    """

    clean: tuple[int, ...]
    corrupted: tuple[int, ...] | None
    answers: tuple[int, ...]
    distractors: tuple[int, ...] = ()
    answer_position: int = -1
    group: str = ""
    spans: tuple[tuple[str, int], ...] = ()
    spelled: Spelled | None = None
    declared: tuple[tuple[str, int], ...] = field(default=(), compare=False, repr=False)

    def __post_init__(self) -> None:
        if not self.clean:
            raise PromptError("a prompt pair is empty; accepted: at least one token.")
        if self.corrupted is not None and len(self.clean) != len(self.corrupted):
            raise PromptError(
                f"clean has {len(self.clean)} tokens and corrupted {len(self.corrupted)}; a pair "
                "must align token by token, so both need the same number."
            )
        if not self.answers:
            raise PromptError("a prompt pair has no answer; accepted: at least one answer token.")
        if not all(one for many in self.sequences for one in many):
            raise PromptError("an answer is empty; accepted: at least one token.")
        position = self.answer_position + len(self.clean) * (self.answer_position < 0)
        if not 0 <= position < len(self.clean):
            raise PromptError(
                f"answer_position {self.answer_position} lies outside the {len(self.clean)} tokens."
            )
        object.__setattr__(self, "answer_position", position)

    @typed
    def spelling(
        self,
        answers: Sequence[tuple[int, ...]],
        distractors: Sequence[tuple[int, ...]] = (),
    ) -> Pair:
        """Return the same prompts with answers of several tokens; of one token each, plain ones.

        >>> pair = Pair((5, 17), (5, 9), (0,)).spelling([(40, 41)], [(40, 42)])
        >>> pair.answers, pair.distractors, pair.runs
        ((40,), (40,), (((5, 17, 40), (5, 9, 40)),))
        """
        first, wrong = (tuple(dict.fromkeys(a[0] for a in x)) for x in (answers, distractors))
        plain = all(len(one) == 1 for one in (*answers, *distractors))
        spelled = None if plain else Spelled(tuple(answers), tuple(distractors))
        return replace(self, answers=first, distractors=wrong, spelled=spelled)

    @property
    def sequences(self) -> tuple[tuple[tuple[int, ...], ...], tuple[tuple[int, ...], ...]]:
        """Return all answers and all distractors, each as its tokens."""
        if self.spelled is not None:
            return self.spelled.answers, self.spelled.distractors
        return tuple((one,) for one in self.answers), tuple((one,) for one in self.distractors)

    @property
    def named(self) -> tuple[tuple[str, int], ...]:
        """Return the named positions: the pair's own, or those that its task declares."""
        return self.spans or self.declared

    @property
    def twin(self) -> tuple[int, ...]:
        """Return the corrupted prompt or, if there is none, the clean one."""
        return self.clean if self.corrupted is None else self.corrupted

    @cached_property
    def continuations(self) -> tuple[tuple[int, ...], ...]:
        """Return what is put behind the prompts, one run for each: nothing, of plain answers.

        An answer of several tokens is read behind its own first ones; one that begins as another
        does is read in the same run.
        """
        if self.spelled is None:
            return ((),)
        every = [one[:-1] for many in self.sequences for one in many]
        longer = [one for one in every if not any(o[: len(one)] == one and o != one for o in every)]
        return tuple(dict.fromkeys(longer))

    @cached_property
    def runs(self) -> tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]:
        """Return the clean and the corrupted ids of each run; what stands behind answers is cut."""
        if self.spelled is None:
            return ((self.clean, self.twin),)
        end = self.answer_position + 1
        clean, twin = self.clean[:end], self.twin[:end]
        return tuple((clean + more, twin + more) for more in self.continuations)

    @property
    def longest(self) -> int:
        """Return the number of tokens of the longest run."""
        return max(len(clean) for clean, _ in self.runs)


@dataclass(frozen=True)
class Steps:
    """How answers of several tokens are put together from R reads; N steps, Q answers, P pairs.

    A step is one token of an answer at one read: `read`, `token`, `answer`: int64 [N]. `answers`,
    `distractors`: int64 [P, A], each pair's answers among the Q, padded with -1. `pair`: int64 [R],
    whose each read is; `share`: float32 [R], which share of the pair's answers goes through it.
    """

    read: Tensor
    token: Tensor
    answer: Tensor
    answers: Tensor
    distractors: Tensor
    pair: Tensor
    share: Tensor

    def of_first(self) -> Steps:
        """Return those of the first pair alone."""
        reads = int((self.pair == 0).sum())  # of each pair the reads stand together, in order
        here = self.read < reads
        first = self.answers[:1], self.distractors[:1], self.pair[:reads], self.share[:reads]
        return Steps(self.read[here], self.token[here], self.answer[here], *first)

    def to(self, device: str) -> Steps:
        """Return the same on a device."""
        ahead = str(device).startswith("cuda")  # nothing waits for the card
        parts = (getattr(self, one.name) for one in fields(self))
        return Steps(*(part.to(device, non_blocking=ahead) for part in parts))


@dataclass(frozen=True)
class Batch:
    """Padded pairs as tensors; P pairs, B runs (one a pair, of plain answers), T positions.

    `clean`, `corrupted`: int64 [B, T]. `mask`: bool [B, T], True on real tokens.
    `position_ids`: int64 [B, T], counted over real tokens. `answers`, `distractors`: int64 [P, A],
    padded with -1. Logits are read at R places: `row`, `answer_position`: int64 [R], run and
    column; of plain answers one in each run. `first`, `last`: int64 [B], the columns of each run's
    answer position, where its prompt ends, and of its last read. `named`: bool [B, T], True at
    positions that spans name. `span`: int64 [B, T], the number of each position's span, where spans
    are told apart; padding counts as the last.
    `steps`: how answers of several tokens are read; None if all are plain. `groups`: the pairs'
    labels.
    """

    clean: Tensor
    corrupted: Tensor
    mask: Tensor
    position_ids: Tensor
    answer_position: Tensor
    answers: Tensor
    distractors: Tensor
    row: Tensor
    first: Tensor
    last: Tensor
    named: Tensor
    steps: Steps | None = None
    span: Tensor | None = None
    groups: tuple[str, ...] = ()

    def __len__(self) -> int:
        return int(self.clean.shape[0])

    def to(self, device: str) -> Batch:
        """Return the same on a device."""
        parts: dict[str, Any] = {one.name: getattr(self, one.name) for one in fields(self)}
        steps, groups = parts.pop("steps"), parts.pop("groups")
        ahead = str(device).startswith("cuda")
        there = {name: x for name, x in parts.items() if x is not None}
        moved = {name: x.to(device, non_blocking=ahead) for name, x in there.items()}
        steps = None if steps is None else steps.to(device)
        return Batch(**moved, steps=steps, groups=groups)

    @property
    def examples(self) -> int:
        """Return the number of pairs."""
        return int(self.answers.shape[0])

    @cached_property
    def owner(self) -> Tensor:
        """Return whose each run is, int64 [B]: a pair's number; a pair's runs are neighbours."""
        import torch

        if self.steps is None:
            return torch.arange(len(self), device=self.row.device)
        return torch.empty_like(self.first).scatter_(0, self.row, self.steps.pair)


@typed
@dataclass(frozen=True)
class PromptPairs:
    """The prompt pairs of one task, validated; `origin` tells how to make them again.

    `told_apart`: the spans that circuits on these pairs tell apart, in order; see `at_spans`.

    >>> pairs = PromptPairs((Pair((5, 17, 3), (5, 9, 3), (40,), (41,)),), name="mine")
    >>> len(pairs), pairs.batch().clean.tolist()
    (1, [[5, 17, 3]])
    """

    pairs: tuple[Pair, ...]
    name: str = "pairs"
    seed: int | None = None
    bos_prepended: bool | None = None
    origin: Mapping[str, object] = field(default_factory=dict, compare=False, repr=False)
    told_apart: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.pairs:
            raise PromptError(f"'{self.name}' holds no prompt pairs; accepted: at least one.")

    def __repr__(self) -> str:
        return f"PromptPairs({len(self):,} pairs, name={self.name!r}, seed={self.seed})"

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[Pair]:
        return iter(self.pairs)

    @typed
    def batch(
        self, indices: Sequence[int] | None = None, *, device: str = "cpu", padding: str = "right"
    ) -> Batch:
        """Pad some of the pairs (default: all) to tensors on a device."""
        import torch

        rows_of = range(len(self.pairs)) if indices is None else indices
        if not len(rows_of) or not all(-len(self) <= i < len(self) for i in rows_of):
            raise PromptError(
                f"batch: `indices` are {short_value(indices)}; accepted: one or more of the "
                f"numbers 0 to {len(self) - 1}."
            )
        if padding not in ("right", "left"):
            raise unknown("padding", padding, ("right", "left"))
        chosen = [self.pairs[i] for i in rows_of]
        runs = [run for pair in chosen for run in pair.runs]
        length = max(len(ids) for ids, _ in runs)
        mask = torch.zeros(len(runs), length, dtype=torch.bool)
        clean = torch.zeros(len(runs), length, dtype=torch.long)
        corrupted = torch.zeros_like(clean)
        starts = [0 if padding == "right" else length - len(ids) for ids, _ in runs]
        for row, ((ids, twin), start) in enumerate(zip(runs, starts, strict=True)):
            real = slice(start, start + len(ids))
            mask[row, real] = True
            clean[row, real] = torch.tensor(ids)
            corrupted[row, real] = torch.tensor(twin)
        named = torch.zeros_like(mask)
        owners = (pair for pair in chosen for _ in pair.runs)
        for row, (pair, start) in enumerate(zip(owners, starts, strict=True)):
            for _, at in pair.spans:
                if pair.spelled is None or at <= pair.answer_position:
                    named[row, start + at] = True
        position_ids = (mask.long().cumsum(-1) - 1).clamp(min=0)
        reads, steps = _reads(chosen)
        rows = torch.tensor([row for row, _ in reads])
        position = torch.tensor([starts[row] + at for row, at in reads])
        ends = [pair.answer_position for pair in chosen for _ in pair.runs]
        first = torch.tensor([start + end for start, end in zip(starts, ends, strict=True)])
        last = torch.zeros(len(runs), dtype=torch.long)
        last.scatter_reduce_(0, rows, position, "amax")
        answers, distractors = (_ragged([getattr(p, key) for p in chosen]) for key in _SIDES)
        of_tokens = (clean, corrupted, mask, position_ids, position)
        owners = (pair for pair in chosen for _ in pair.runs)
        span = self._spans(mask, list(zip(owners, starts, strict=True)))
        groups = tuple(pair.group for pair in chosen)
        of_reads = (rows, first, last, named)
        found = Batch(*of_tokens, answers, distractors, *of_reads, steps, span, groups)
        try:
            return found.to(device)
        except RuntimeError as error:
            raise out_of_memory(error) or PromptError(
                f"batch: `device` is {device!r}, which cannot be used ("
                f"{str(error).partition(chr(10))[0].rstrip('.')}); accepted: cpu, cuda, mps."
            ) from None

    @property
    def span_names(self) -> tuple[str, ...]:
        """List the names of positions of all pairs, in the order in which they are first met."""
        return tuple(dict.fromkeys(name for pair in self for name, _ in pair.named))

    @typed
    def at_spans(self, names: Sequence[str] | None = None) -> PromptPairs:
        """Tell spans of positions apart, by default those that the pairs name; without any, none.

        Prompts align by these names, not by their places. All positions without a name are of one
        more span, `OTHER`. A PromptError says if nothing is named, or another name, or one that
        cannot name a span.

        >>> pair = Pair((5, 17, 3), (5, 9, 3), (40,), spans=(("s2", 1), ("end", 2)))
        >>> PromptPairs((pair,)).at_spans().told_apart
        ('s2', 'end', 'other')
        """
        found = self.span_names
        if names is not None and not names:
            return replace(self, told_apart=())
        if not found:
            raise PromptError(
                f"'{self.name}' names no spans of its prompts' positions, so that none can be told "
                "apart; accepted: a built-in task, or a file whose lines have spans, such as "
                '"spans": {"subject": [1, 2], "end": -1}.'
            )
        wanted = tuple(found if names is None else names)
        wanted = (*(name for name in wanted if name != OTHER), OTHER)
        if unfit := [name for name in wanted if not is_span(name)]:
            raise PromptError(f"'{unfit[0]}' cannot name a span; accepted: {SPAN_FORM}.")
        if more := [name for name in found if name not in wanted]:
            raise PromptError(
                f"'{self.name}' names the spans {', '.join(more)}, and those told apart are "
                f"{', '.join(wanted)}; accepted: pairs with no other names."
            )
        for number, pair in enumerate(self, start=1):
            twice = [at for at, n in Counter(at for _, at in pair.named).items() if n > 1]
            if twice:
                both = " and ".join(name for name, at in pair.named if at == twice[0])
                raise PromptError(
                    f"pair {number} of '{self.name}' has its position {twice[0]} in the spans "
                    f"{both}; accepted: each position in one span at most."
                )
        return replace(self, told_apart=wanted)

    def _spans(self, mask: Tensor, rows: Sequence[tuple[Pair, int]]) -> Tensor | None:
        """Number the span of every position, [B, T], of runs of pairs that begin at columns.

        What stands behind a prompt, answers' own tokens, is of the span of its last position.
        """
        if not self.told_apart:
            return None
        import torch

        number = {name: i for i, name in enumerate(self.told_apart)}
        found = torch.full(mask.shape, number[OTHER], dtype=torch.long)
        for row, (pair, start) in enumerate(rows):
            for name, at in pair.named:
                found[row, start + at] = number[name]
            if pair.spelled is not None:
                last = start + pair.answer_position
                found[row, last + 1 :] = found[row, last]
        return found

    @property
    def groups(self) -> tuple[str, ...]:
        """Return each pair's label, empty where it has none."""
        return tuple(pair.group for pair in self.pairs)

    @property
    def sha256(self) -> str:
        """Return a hash of everything a result depends on: ids, answers, positions, groups."""
        rows = [
            [p.clean, p.corrupted, p.answers, p.distractors, p.answer_position, p.group]
            + ([] if p.spelled is None else [p.spelled.answers, p.spelled.distractors])
            + ([p.spans] if p.spans else [])
            for p in self.pairs
        ]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def _reads(pairs: Sequence[Pair]) -> tuple[list[tuple[int, int]], Steps | None]:
    """List where logits are read, as run and place within its tokens, and how they make answers."""
    if all(pair.spelled is None for pair in pairs):
        return [(row, pair.answer_position) for row, pair in enumerate(pairs)], None
    import torch

    reads: list[tuple[int, int]] = []
    steps: list[tuple[int, int, int]] = []  # read, token, answer
    owners: list[int] = []
    passing: list[float] = []
    sides: tuple[list[list[int]], list[list[int]]] = ([], [])
    first = number = 0
    for which, pair in enumerate(pairs):
        known: dict[tuple[int, ...], int] = {}  # what stands before a token, and its read
        for side, answers in zip(sides, pair.sequences, strict=True):
            side.append([*range(number, number + len(answers))])
            for answer in answers:
                for at, token in enumerate(answer):
                    before = answer[:at]
                    if before not in known:
                        known[before] = len(reads)
                        ways = enumerate(pair.continuations)
                        run = next(i for i, one in ways if one[:at] == before)
                        reads.append((first + run, pair.answer_position + at))
                        owners.append(which)
                        passing.append(0.0)
                    passing[known[before]] += side is sides[0]
                    steps.append((known[before], token, number))
                number += 1
        for read in known.values():
            passing[read] /= len(pair.sequences[0])
        first += len(pair.runs)
    right, wrong = map(_ragged, sides)
    each = (torch.tensor(column) for column in zip(*steps, strict=True))
    of_reads = torch.tensor(owners), torch.tensor(passing)
    return reads, Steps(next(each), next(each), next(each), right, wrong, *of_reads)


def _ragged(rows: Sequence[Sequence[int]]) -> Tensor:
    """Stack rows of unequal length, padded with -1."""
    import torch

    width = max(1, max(len(r) for r in rows))
    return torch.tensor([[*r, *[-1] * (width - len(r))] for r in rows], dtype=torch.long)
