"""Bounds of losses are bounds: tiny steps and huge ones, light tails and heavy ones."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from edgewise.graphs.lift.lifted import LiftedModel
from edgewise.graphs.lift.lifting import describe
from edgewise.patching.incremental import readout
from edgewise.patching.incremental.readout import Reading, Readout, TokenReadout, make_readout
from edgewise.patching.metrics.registry import get_metric
from edgewise.patching.prompts.pairs import Pair, PromptPairs
from edgewise.patching.run.chunk import Chunk
from edgewise.patching.run.runner import Runner
from tests.configs import CONFIGS
from tests.engine import tiny_lift, tiny_pairs

FAMILIES = ["gpt2", "llama", "gptj", "granite", "cohere", "phi"]  # biases, scales
WORDS = 600


@cache
def big(name: str, words: int, peak: float, common: float) -> Any:
    """Make a model with many words, whose logits are `peak` wide and have `common` in common."""
    config_class, model_class, options = CONFIGS[name]
    torch.manual_seed(0)
    model = model_class(config_class(**{**options, "vocab_size": words})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
        output = model.get_output_embeddings()
        output.weight.div_(output.weight.std()).mul_(peak / output.weight.shape[1] ** 0.5)
        output.weight.add_(torch.randn(output.weight.shape[1]) * common)
    return model.double()


@dataclass(frozen=True)
class Case:
    """Hold a chunk, the same chunk without rounding, and a metric."""

    chunk: Chunk
    exact: Chunk
    metric: Any

    def losses(self, streams: Tensor) -> np.ndarray:
        """Return the losses of streams [n, B, D] by the metric's definition, in float64."""
        model = self.exact.model
        logits = model.logits(streams.double())
        losses: np.ndarray = self.metric.loss(logits, self.exact.target).sum(-1).numpy()
        return losses

    def slack(self, streams: Tensor) -> np.ndarray:
        """Return what rounding may add to losses [n], beyond what bounds are widened by."""
        size = self.exact.model.logits(streams.double()).abs().amax((-1, -2)).numpy()
        clean = float(self.exact.target.clean_logits.abs().max())  # type: ignore[union-attr]
        eps = torch.finfo(self.chunk.model.dtype).eps
        slack: np.ndarray = len(self.chunk.batch) * 16 * eps * (size + clean + 1)
        return slack


def case(model: Any, metric: str, words: int = WORDS, dtype: torch.dtype = torch.float64) -> Case:
    """Make pairs (one with two answers) and both chunks."""
    pairs = PromptPairs(
        (
            Pair((1, 2, 3), (1, 4, 3), (5, words - 1), (6,)),
            Pair((3, 4, 5, 6), (3, 4, 7, 6), (9,), (1, 2), 2),
        )
    )
    own = copy.deepcopy(model).to(dtype)
    chunks = []
    for one in (own, copy.deepcopy(own).double()):
        lifted: LiftedModel = describe(one)
        chunks.append(next(iter(Runner.create(lifted, pairs, metric=metric).chunks())))
    return Case(chunks[0], chunks[1], get_metric(metric))


@pytest.fixture
def small_heads() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readout, "SIZES", (8, 64))
        yield


def base(chunk: Chunk) -> Tensor:
    """Return the clean streams at the answers, [B, D]."""
    final = chunk.clean.streams.final
    at = chunk.batch.answer_position - chunk.start
    found: Tensor = final[torch.arange(len(final)), at]
    return found


def steps(chunk: Chunk, sizes: list[float], seed: int) -> Tensor:
    """Step from the clean streams by shares of their norm, [n, B, D]."""
    generator = torch.Generator().manual_seed(seed)
    start = base(chunk).double()
    noise = torch.randn(len(sizes), *start.shape, generator=generator, dtype=torch.float64)
    noise = noise * start.norm(dim=-1)[:, None] / start.shape[-1] ** 0.5
    far = start + torch.tensor(sizes, dtype=torch.float64)[:, None, None] * noise
    streams: Tensor = far.to(chunk.model.dtype)
    return streams


def check(
    reading: Reading, exact: np.ndarray, slack: np.ndarray, before: np.ndarray | None = None
) -> None:
    """Refuse bounds that are none; `before`: the loss that the first one rises from, [1]."""
    _, _, low, high = reading.bounds
    assert not np.isnan(low).any()
    assert not np.isnan(high).any()
    rise = np.diff(exact) if before is None else np.diff(exact, prepend=before)
    skip = int(before is None)
    both = slack[1:] + slack[:-1] if before is None else 2 * slack
    assert (low[skip:] <= rise + both).all(), (low[skip:] - rise, both)
    assert (high[skip:] >= rise - both).all(), (rise - high[skip:], both)
    assert not np.isnan(reading.bounds.low).any()
    assert not np.isnan(reading.bounds.high).any()
    assert (reading.bounds.low <= exact + slack).all(), (reading.bounds.low - exact, slack)
    assert (reading.bounds.high >= exact - slack).all(), (exact - reading.bounds.high, slack)


@settings(max_examples=80, deadline=None)
@given(
    name=st.sampled_from(FAMILIES),
    metric=st.sampled_from(["kl", "nll"]),
    dtype=st.sampled_from([torch.float64, torch.float64, torch.float32]),
    peak=st.sampled_from([0.3, 2.0, 6.0, 30.0]),
    common=st.sampled_from([0.0, 0.0, 1.0, 30.0]),
    sizes=st.lists(st.floats(-5, 3).map(lambda x: 10.0**x), min_size=1, max_size=6),
    blocks=st.lists(st.tuples(st.integers(0, 5), st.integers(1, 3)), max_size=5),
    seed=st.integers(0, 10**6),
)
def test_bounds_are_bounds(
    name: str, metric: str, dtype: torch.dtype, peak: float, common: float,
    sizes: list[float], blocks: list[tuple[int, int]], seed: int,
) -> None:  # fmt: skip
    bounds_hold(case(big(name, WORDS, peak, common), metric, dtype=dtype), sizes, blocks, seed)


def bounds_hold(asked: Case, sizes: list[float], blocks: list[tuple[int, int]], seed: int) -> None:
    """Read streams, sharpen blocks of them, and read others from the base points that leaves."""
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(readout, "SIZES", (8, 64))
        if asked.chunk.model.dtype == torch.float64:
            patch.setattr(readout, "ROUNDING", 0.0)  # the bounds themselves, to 1e-12
        read = make_readout(asked.chunk, asked.metric)
        assert type(read) is readout.NormaliserReadout
        first, second = (steps(asked.chunk, sizes, seed + i) for i in (0, 1))
        at = base(asked.chunk)[None]
        before = asked.losses(at)
        readings = [(s, read.read(s, at), asked.losses(s), asked.slack(s)) for s in (first, second)]
        for start, length in [*blocks, (0, len(sizes))]:
            for _, reading, exact, slack in readings:
                check(reading, exact, slack, before)
            start = min(start, len(sizes) - 1)
            _, reading, _, _ = readings[(start + length) % 2]
            reading.sharpen(start, min(len(sizes), start + length))
            again = read.read(first)
            check(again, readings[0][2], readings[0][3])
        for _, reading, exact, slack in readings:
            for _ in range(2):
                reading.sharpen(0, len(sizes))
            check(reading, exact, slack, before)
            assert np.array_equal(reading.bounds.low, reading.bounds.high)
            assert np.array_equal(reading.bounds.rise_low, reading.bounds.rise_high)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("common", [0.0, 20.0])
@pytest.mark.parametrize("peak", [1.0, 10.0, 60.0])
def test_huge_steps_and_common_shifts(dtype: torch.dtype, common: float, peak: float) -> None:
    sizes = [1e-3, 0.1, 1.0, 3.0, 10.0, 1e3]
    for name in ("gpt2", "llama", "gptj"):
        asked = case(big(name, WORDS, peak, common), "kl", dtype=dtype)
        for seed in range(6):
            bounds_hold(asked, sizes, [(0, 3), (2, 1)], 100 * seed)


@pytest.mark.usefixtures("small_heads")
@pytest.mark.parametrize("metric", ["kl", "nll"])
@pytest.mark.parametrize("name", FAMILIES)
def test_bounds_are_near_for_near_streams(name: str, metric: str) -> None:
    asked = case(big(name, WORDS, 6.0, 0.0), metric)
    read = make_readout(asked.chunk, asked.metric)
    with torch.no_grad():
        widths = []
        for size in (1e-4, 1e-3, 1e-2):
            reading = read.read(steps(asked.chunk, [size] * 4, 3))
            widths.append(
                float((reading.bounds.high - reading.bounds.low).max()) - 16e-6
            )  # ROUNDING, 2 pairs
        assert read.products == 1  # the clean run's own
        assert widths[0] < 1e-6
        assert widths[1] < 1e-4
        assert widths[2] < 1e-2  # they grow with the square of the step
        before = read.read(streams := steps(asked.chunk, [0.1] * 4, 5))
        low, high = before.bounds.low.copy(), before.bounds.high.copy()
        before.sharpen(0, 2)
        assert (before.bounds.low >= low).all()
        assert (before.bounds.high <= high).all()
        assert (before.bounds.high - before.bounds.low < high - low).any()  # the larger head
        before.sharpen(0, 2)
        assert np.array_equal(before.bounds.low[:2], before.bounds.high[:2])
        np.testing.assert_allclose(before.bounds.low[:2], asked.losses(streams)[:2], atol=1e-12)
        assert read.products == 3


def test_bounds_hold_where_nothing_is_to_spare() -> None:
    """Let rows be ±w and steps go along w: the bound's only loss is then of third order."""
    model = copy.deepcopy(big("llama", WORDS, 1.0, 0.0))
    start = base(case(model, "kl").chunk)
    scale = model.model.norm.weight.detach()
    y = start * scale
    across = torch.linalg.svd(torch.cat((y, start / scale)))[2][-1]  # at right angles to all four
    sign = torch.ones(WORDS, dtype=torch.float64)
    sign[1::2] = -1
    with torch.no_grad():
        model.lm_head.weight.copy_(sign[:, None] * across)
        asked = case(model, "kl")
        size = torch.tensor([0.01, 0.03, 0.1, 0.3], dtype=torch.float64)[:, None, None]
        streams = start + size * start.square().mean(-1, keepdim=True).sqrt() * across / scale
        for metric in ("kl", "nll"):
            asked = case(model, metric)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(readout, "SIZES", (8, 64))
                patch.setattr(readout, "ROUNDING", 0.0)
                reading = make_readout(asked.chunk, asked.metric).read(streams)
            check(reading, asked.losses(streams), asked.slack(streams))
            gap = reading.bounds.high - asked.losses(streams)
            assert (gap < 2 * size.flatten().numpy() ** 3).all()


def test_all_logits_may_fall_together() -> None:
    """Move every logit by up to 200: terms of the head then leave float32's range."""
    model = copy.deepcopy(big("llama", WORDS, 6.0, 0.0))
    asked = case(model, "kl", dtype=torch.float32)
    y = base(asked.chunk) * model.model.norm.weight.detach()
    away = torch.linalg.svd(y.double())[2][-1]
    with torch.no_grad():
        model.lm_head.weight.add_(100 * away)
        for dtype in (torch.float32, torch.float64):
            asked = case(model, "kl", dtype=dtype)
            start = base(asked.chunk)
            shifts = torch.linspace(-1, 1, 21)[:, None, None].to(dtype)
            streams = start + shifts * start.norm(dim=-1, keepdim=True) * away.to(dtype)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(readout, "SIZES", (8, 64))
                reading = make_readout(asked.chunk, asked.metric).read(streams)
                check(reading, asked.losses(streams), asked.slack(streams))
                reading.sharpen(0, 1)
                check(reading, asked.losses(streams), asked.slack(streams))


@pytest.mark.usefixtures("small_heads")
def test_bounds_are_near_where_almost_nothing_is_outside_the_head() -> None:
    asked = case(big("llama", WORDS, 100.0, 0.0), "kl", dtype=torch.float32)
    logits = asked.exact.target.clean_logits
    assert logits is not None
    p = logits.softmax(-1).sort(-1, descending=True).values
    assert float(p[:, 64:].sum(-1).max()) < 1e-40  # nothing at all in float32
    with torch.no_grad():
        reading = make_readout(asked.chunk, asked.metric).read(steps(asked.chunk, [1e-4], 1))
    assert float(reading.bounds.high[0] - reading.bounds.low[0]) < 1e-4


@pytest.mark.usefixtures("small_heads")
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_small_divergences_keep_their_digits_in_float32(name: str) -> None:
    """A normaliser minus the clean one would leave 1e-6 of anything; thresholds may be 1e-4."""
    asked = case(big(name, WORDS, 6.0, 1.0), "kl", dtype=torch.float32)
    read = make_readout(asked.chunk, asked.metric)
    with torch.no_grad():
        streams = steps(asked.chunk, [3e-4] * 8, 1)
        exact = asked.losses(streams)
        assert 1e-7 < exact.max() < 1e-5
        reading = read.read(streams)
        for _ in range(2):
            reading.sharpen(0, len(streams))
        np.testing.assert_allclose(reading.bounds.low, exact, rtol=0, atol=4e-7)


def test_the_real_sizes() -> None:
    words = 20_000
    for name, dtype in (("gptj", torch.float32), ("llama", torch.float64)):
        model = big(name, words, 5.0, 0.5)
        for metric in ("kl", "nll"):
            asked = case(model, metric, words, dtype)
            read = make_readout(asked.chunk, asked.metric)
            assert type(read) is readout.NormaliserReadout
            with torch.no_grad():
                streams = steps(asked.chunk, [1e-3, 0.1, 1.0, 10.0], 1)
                exact, slack = asked.losses(streams), asked.slack(streams)
                reading = read.read(streams)
                for _ in range(3):
                    check(reading, exact, slack)
                    reading.sharpen(1, 3)
                assert np.array_equal(reading.bounds.low[1:3], reading.bounds.high[1:3])


@pytest.mark.usefixtures("small_heads")
def test_a_heavy_tail_gets_another_head() -> None:
    """Move where other tokens are likely, many times: bounds stay bounds and become near again."""
    asked = case(big("gpt2", WORDS, 20.0, 0.0), "kl")
    read = make_readout(asked.chunk, asked.metric)
    with torch.no_grad():
        for seed in range(5):
            far = steps(asked.chunk, [5.0, 5.0], seed)
            reading = read.read(far)
            check(reading, asked.losses(far), asked.slack(far))
            reading.sharpen(0, 2)
            reading.sharpen(0, 2)
            near = far[-1:] * (1 + 1e-5) + 1e-6
            again = read.read(near)
            check(again, asked.losses(near), asked.slack(near))
            again.sharpen(0, 1)
            check(again, asked.losses(near), asked.slack(near))
            assert float(again.bounds.high[0] - again.bounds.low[0]) < 1e-4


# -- which readout, and the others ------------------------------------------------------------


TOKENS = ["logit_diff", "accuracy", "logit(answer) - 2 * logit(distractor)",
          "minimize: logit(distractor) ** 2"]  # fmt: skip


@pytest.mark.parametrize("metric", TOKENS)
@pytest.mark.parametrize(
    "name", ["gpt2", "gptj", "phi", "granite", "cohere", "gemma2-caps", "gemma3-one-kind"]
)
def test_single_tokens_give_what_all_logits_give(name: str, metric: str) -> None:
    pairs = tiny_pairs(1, (5, 4, 4, 6))
    runner = Runner.create(tiny_lift(name), pairs, metric=metric, batch_size=3)
    for chunk in runner.chunks():
        streams = steps(chunk, [0.0, 0.1, 1.0], 2)
        read = make_readout(chunk, runner.metric)
        assert type(read) is TokenReadout
        every = Readout(chunk, runner.metric)
        with torch.no_grad():
            found, expected = read.read(streams), every.read(streams)
        np.testing.assert_allclose(found.bounds.low, expected.bounds.low, atol=1e-12)
        assert np.array_equal(found.bounds.low, found.bounds.high)
        assert (read.products, every.products) == (0, 3)


@pytest.mark.usefixtures("small_heads")
def test_what_has_no_bounds_gets_all_logits() -> None:
    plain = big("gpt2", WORDS, 1.0, 0.0)
    for metric in ("prob_diff", "minimize: -log(p(answer))"):
        asked = case(plain, metric)
        assert type(make_readout(asked.chunk, asked.metric)) is Readout
    capped = case(big("gemma2-caps", WORDS, 1.0, 0.0), "kl")
    assert type(make_readout(capped.chunk, capped.metric)) is Readout
    few = next(iter(Runner.create(tiny_lift("gpt2"), tiny_pairs(), metric="kl").chunks()))
    assert type(make_readout(few, get_metric("kl"))) is Readout
    with torch.no_grad():
        streams = steps(capped.chunk, [0.0, 1.0], 1)
        reading = make_readout(capped.chunk, capped.metric).read(streams)
        np.testing.assert_allclose(reading.bounds.low, capped.losses(streams), atol=1e-12)
        assert reading.bounds.low[0] == pytest.approx(0, abs=1e-12)
