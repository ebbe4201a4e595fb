"""Make prompt pairs for a task: keep the candidates a tokenizer allows, count the rest.

1. The task names its spaces of candidates, made of words that are single tokens.
2. The spaces are walked in an order fixed by the seed, each candidate at most once.
3. A candidate is left out, under a reason, if it does not align, or an answer is not one token.
4. The first distinct `examples` pairs are the result; too few is an error that says how many.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

from ...graphs.calls.typed import typed
from ...graphs.errors import PromptError
from ..prompts.pairs import Pair, PromptPairs
from ..prompts.tokens import Tokens
from ..registries import look_up
from ._registry import END, TASKS, Task, get_task
from ._space import Candidate, Space, walk
from ._vocabulary import Vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MOST_EXAMPLES = 100_000
_MOST_CANDIDATES = 20_000
_PER_EXAMPLE = 50
_AT_ONCE = 64
_MOST_ANSWERS = 6
Spans = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class Sample:
    """One pair as people read it; `corrupted` is empty if there is none."""

    clean: str
    corrupted: str
    answers: tuple[str, ...]
    distractors: tuple[str, ...]
    group: str


@dataclass(frozen=True)
class TaskReport:
    """Numbers of pairs generated, kept, and left out by reason, and of words left out by list."""

    generated: int
    kept: int
    left_out: Mapping[str, int]
    words_left_out: Mapping[str, int]

    def __str__(self) -> str:
        text = f"{self.kept} pairs kept of {self.generated} generated"
        if self.left_out:
            text += f"; left out: {_counts(self.left_out)}"
        if self.words_left_out:
            text += f"; words that are not one token: {_counts(self.words_left_out)}"
        return text


@dataclass(frozen=True)
class TaskResult:
    """A task's prompt pairs, the same pairs as text, what was left out, and the options."""

    pairs: PromptPairs
    samples: tuple[Sample, ...]
    report: TaskReport
    options: Mapping[str, str | int | None]


@typed
def make_task(
    name: str,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    vocab_size: int | None = None,
    examples: int = 64,
    seed: int = 0,
    bos: bool | None = None,
    **options: object,
) -> TaskResult:
    """Make distinct prompt pairs of a built-in task for one tokenizer, determined by the seed.

    `bos` forces a beginning-of-sequence token or none (default: what the tokenizer does). Of
    `options`, `length` keeps only pairs of that many tokens, `groups` only these templates; the
    others are the task's own. Fewer examples are a prefix of more. Raises UnknownName, or
    PromptError if there are not enough distinct pairs.

    >>> result = make_task("induction", vocab_size=100, examples=3, period=5, repeat=2)
    >>> [len(pair.clean) for pair in result.pairs], result.report.kept
    ([7, 7, 7], 3)
    """
    making = _making(name, tokenizer, vocab_size, bos, options)
    maker = making.maker
    _check(examples, seed, vocab_size)
    maker.collect(walk(making.spaces, random.Random(seed)), examples)
    if len(maker.pairs) < examples:
        raise _too_few(name, examples, making.report, maker.exhausted)
    return making.result(name, seed)


def make_others(
    taken: PromptPairs,
    examples: int,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    vocab_size: int | None = None,
    bos: bool | None = None,
    **options: object,
) -> TaskResult | None:
    """Make further pairs of a built-in task that share no pair with those taken, to test on.

    They are made from `others_seed` of the taken ones' seed, by the arguments those were made by.
    Pairs whose clean prompt is not among the taken ones come first. As many as the task has, if
    those are fewer than `examples`; None if it has none.
    """
    making = _making(taken.name, tokenizer, vocab_size, bos, options)
    maker, seed = making.maker, others_seed(taken.seed or 0)
    _check(examples, seed, vocab_size)
    maker.avoid(taken)
    maker.collect(walk(making.spaces, random.Random(seed)), examples)
    return making.result(taken.name, seed) if maker.pairs else None


def others_seed(seed: int) -> int:
    """Return the seed of the pairs that are held out beside those of a seed.

    >>> others_seed(0) != others_seed(1)
    True
    """
    return int.from_bytes(hashlib.sha256(f"held out {seed}".encode()).digest()[:4], "big") // 2


@dataclass(frozen=True)
class _Making:
    """What pairs of a task are made of: its spaces, and what turns candidates into pairs."""

    maker: _Maker
    vocabulary: Vocabulary
    spaces: Sequence[Space]
    values: Mapping[str, str | int | None]

    @property
    def report(self) -> TaskReport:
        maker = self.maker
        counts = maker.generated, len(maker.pairs), dict(maker.left_out)
        return TaskReport(*counts, self.vocabulary.left_out)

    def result(self, name: str, seed: int) -> TaskResult:
        maker = self.maker
        bos = maker.tokens is not None and maker.tokens.bos_prepended
        pairs = PromptPairs(maker.labelled(), name, seed, bos)
        return TaskResult(pairs, tuple(maker.samples), self.report, self.values)


def _making(
    name: str,
    tokenizer: PreTrainedTokenizerBase | None,
    vocab_size: int | None,
    bos: bool | None,
    options: dict[str, object],
) -> _Making:
    found = get_task(name)
    length, groups = (cast("Any", options.pop(key, None)) for key in ("length", "groups"))
    values = found.read_options(options)
    _check(1, 0, vocab_size)
    if tokenizer is None and (found.needs_tokenizer or vocab_size is None):
        raise _no_tokenizer(found)
    if tokenizer is None and bos:
        raise PromptError("bos=True needs a tokenizer, which knows the token; accepted: bos=False.")
    tokens = None if tokenizer is None else Tokens(tokenizer, bos)
    vocabulary = Vocabulary(tokens, vocab_size)
    spaces = _spaces(found, vocabulary, values, groups)
    return _Making(_Maker(tokens, vocab_size, length), vocabulary, spaces, values)


def preview(
    name: str, *, examples: int = 4, seed: int = 0, **options: object
) -> tuple[Sample, ...]:
    """Return sample pairs of a task as text, without any tokenizer.

    >>> preview("capitals", examples=1)[0].answers[0].startswith(" ")
    True
    """
    found = get_task(name)
    values = found.read_options(options)
    _check(examples, seed, None)
    spaces = _spaces(found, Vocabulary(), values, None)
    chosen = islice(walk(spaces, random.Random(seed)), examples)
    return tuple(_sample(group, candidate, None) for group, candidate in chosen)


def format_samples(samples: Sequence[Sample]) -> str:
    """Return sample pairs as text: both prompts one below the other, then the answers.

    >>> print(format_samples([Sample("1 + 1 =", "1 + 2 =", (" 2",), (" 3",), "t0")]))
    [t0]
      clean       1 + 1 =
      corrupted   1 + 2 =
      answers     ' 2'
      distractors ' 3'
    """
    return "\n".join(
        f"[{one.group}]\n  clean       {one.clean}\n"
        + (f"  corrupted   {one.corrupted}\n" if one.corrupted else "")
        + f"  answers     {_listed(one.answers)}\n  distractors {_listed(one.distractors)}"
        for one in samples
    )


def _listed(texts: Sequence[str]) -> str:
    shown = " ".join(map(repr, texts[:_MOST_ANSWERS]))
    rest = len(texts) - _MOST_ANSWERS
    return f"{shown} … {rest} more" if rest > 0 else shown or "none"


@dataclass
class _Maker:
    """Turn candidates into pairs for one tokenizer and count those it leaves out."""

    tokens: Tokens | None
    vocab_size: int | None
    length: int | None
    generated: int = 0
    exhausted: bool = False
    left_out: Counter[str] = field(default_factory=Counter)
    pairs: list[Pair] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    _spans: list[tuple[str | tuple[int, ...], Spans]] = field(default_factory=list)
    _seen: set[tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=set)
    _known: set[tuple[int, ...]] = field(default_factory=set)
    _spare: list[tuple[Pair, Sample, Candidate]] = field(default_factory=list)

    def avoid(self, taken: PromptPairs) -> None:
        """Make none of these pairs, and of their clean prompts others only if there are no more."""
        self._seen.update((pair.clean, pair.twin) for pair in taken)
        self._known.update(pair.clean for pair in taken)

    def collect(self, candidates: Iterator[tuple[str, Candidate]], examples: int) -> None:
        """Add pairs until there are enough, or all candidates, or too many, were tried."""
        self._collect(candidates, examples)
        for pair, sample, candidate in self._spare[: examples - len(self.pairs)]:
            self._keep(pair, sample, candidate)

    def _keep(self, pair: Pair, sample: Sample, candidate: Candidate) -> None:
        self.pairs.append(pair)
        self.samples.append(sample)
        self._spans.append((candidate.clean, candidate.spans))

    def labelled(self) -> tuple[Pair, ...]:
        """Return the pairs with the positions of what their candidates declare."""
        prefix = 0 if self.tokens is None else len(self.tokens.prefix)
        texts = [clean for clean, _ in self._spans]
        where: list[Sequence[tuple[int, int]] | None] = [None] * len(texts)
        if self.tokens is not None and texts and isinstance(texts[0], str):
            where = self.tokens.offsets([str(text) for text in texts])
        found = []
        for pair, (_, spans), at in zip(self.pairs, self._spans, where, strict=True):
            offsets = [(i, i + 1) for i in range(len(pair.clean) - prefix)] if at is None else at
            named = {
                prefix + i: name
                for name, start, stop in spans
                for i, (first, last) in enumerate(offsets)
                if first < stop and start < last
            }
            named[pair.answer_position] = END
            declared = tuple((name, place) for place, name in sorted(named.items()))
            found.append(replace(pair, declared=declared))
        return tuple(found)

    def _collect(self, candidates: Iterator[tuple[str, Candidate]], examples: int) -> None:
        most = _MOST_CANDIDATES + _PER_EXAMPLE * examples
        while self.generated < most and len(self.pairs) < examples:
            some = list(islice(candidates, max(_AT_ONCE, examples - len(self.pairs))))
            if not some:
                self.exhausted = True
                return
            prompts = self._prompts([candidate for _, candidate in some])
            for (group, candidate), (clean, corrupted) in zip(some, prompts, strict=True):
                self.generated += 1
                answers, distractors = map(self._ids, (candidate.answers, candidate.distractors))
                reason = self._reason(clean, corrupted, (*answers, *distractors))
                if reason:
                    self.left_out[reason] += 1
                    continue
                self._seen.add((clean, corrupted))
                position = len(clean) - 1 if self.tokens is None else self.tokens.last(clean)
                pair = Pair(clean, corrupted, answers, distractors, position, group)
                sample = _sample(group, candidate, self.tokens)
                if clean in self._known:
                    self._spare.append((pair, sample, candidate))
                    if self.generated > _PER_EXAMPLE * examples and (
                        len(self.pairs) + len(self._spare) >= examples
                    ):
                        return
                    continue
                self._keep(pair, sample, candidate)
                if len(self.pairs) == examples:
                    return

    def _prompts(
        self, candidates: Sequence[Candidate]
    ) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Return the ids of both prompts; texts are tokenized all at once."""
        ids: list[Any] = [prompt for c in candidates for prompt in (c.clean, c.corrupted)]
        if self.tokens is not None:
            is_text = isinstance(ids[0], str)
            ids = self.tokens.prompts(ids) if is_text else list(map(self.tokens.wrap, ids))
        return list(zip(ids[::2], ids[1::2], strict=True))

    def _ids(self, answers: tuple[str, ...] | tuple[int, ...]) -> tuple[int, ...]:
        """Return the ids of answers; -1 for one that is not a single token."""
        ids = (self.tokens.single(a) if self.tokens and isinstance(a, str) else a for a in answers)
        return tuple(one if isinstance(one, int) else -1 for one in ids)

    def _reason(
        self, clean: tuple[int, ...], corrupted: tuple[int, ...], answers: tuple[int, ...]
    ) -> str:
        """Say why a pair with these answers and distractors is left out; empty if it is not."""
        prompts = (*clean, *corrupted)
        unknown_word = self.tokens is not None and self.tokens.has_unknown(prompts)
        beyond = self.vocab_size is not None and max(*prompts, *answers) >= self.vocab_size
        tests = (
            (-1 in answers, "an answer is not one token"),
            (len(set(answers)) < len(answers), "an answer is also another answer"),
            (len(clean) != len(corrupted), "the prompts do not align"),
            (clean == corrupted, "the prompts are the same"),
            (self.length not in (None, len(clean)), f"not {self.length} tokens long"),
            (unknown_word, "a word is unknown to the tokenizer"),
            (beyond, "a token lies beyond vocab_size"),
            ((clean, corrupted) in self._seen, "the same pair again"),
        )
        return next((reason for failed, reason in tests if failed), "")


def _spaces(
    found: Task, vocabulary: Vocabulary, values: Mapping[str, object], groups: Sequence[str] | None
) -> list[Space]:
    spaces = list(found.spaces(vocabulary, **values))
    if groups is None:
        return spaces
    tags = dict.fromkeys(space.group for space in spaces)
    for group in groups:
        look_up(f"group of task '{found.name}'", group, tags)
    return [space for space in spaces if space.group in groups]


def _sample(group: str, candidate: Candidate, tokens: Tokens | None) -> Sample:
    def text(value: str | tuple[int, ...]) -> str:
        if isinstance(value, str):
            return value
        return " ".join(map(str, value)) if tokens is None else tokens.text(value)

    def listed(values: tuple[str, ...] | tuple[int, ...]) -> tuple[str, ...]:
        return tuple(text(value if isinstance(value, str) else (value,)) for value in values)

    prompts = text(candidate.clean), text(candidate.corrupted)
    return Sample(*prompts, listed(candidate.answers), listed(candidate.distractors), group)


def _check(examples: int, seed: int, vocab_size: int | None) -> None:
    limits = (("examples", examples, 1), ("seed", seed, 0), ("vocab_size", vocab_size, 1))
    for what, value, least in limits:
        if value is not None and value < least:
            raise PromptError(f"{what} is {value}; accepted: a whole number from {least} up.")
    if examples > MOST_EXAMPLES:
        raise PromptError(f"examples is {examples}; accepted: at most {MOST_EXAMPLES:,}.")


def _no_tokenizer(found: Task) -> PromptError:
    if not found.needs_tokenizer:
        return PromptError(
            f"task '{found.name}' needs the size of the model's vocabulary; accepted: a "
            "vocab_size, or a tokenizer."
        )
    without = [task.name for task in TASKS.values() if not task.needs_tokenizer]
    return PromptError(
        f"task '{found.name}' is made of text and needs the model's tokenizer, but none was given; "
        "save it beside the model (save_pretrained), or take a task that is not made of text, only "
        f"of the ids below a vocab_size: {', '.join(without)}."
    )


def _too_few(name: str, examples: int, report: TaskReport, exhausted: bool) -> PromptError:
    lost = {
        "pairs left out": report.left_out,
        "words left out as not one token": report.words_left_out,
    }
    why = "; ".join(f"{what}: {_counts(counts)}" for what, counts in lost.items() if counts)
    why = f" ({why})" if why else ""
    among = "" if exhausted else f" among the {report.generated} candidates tried"
    many = f"only {report.kept} distinct" if report.kept else "no"
    fewer = f"at most {report.kept} examples, " if report.kept else ""
    return PromptError(
        f"task '{name}' has {many} pairs for this vocabulary and these options{among}, but "
        f"{examples} were asked for{why}; accepted: {fewer}other options, or pairs of your own "
        "in a file."
    )


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {reason}" for reason, number in counts.items())
