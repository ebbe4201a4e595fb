"""The incremental state and questions against the dense runner, for every lifted family."""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from edgewise.graphs.lift.lifting import describe
from edgewise.patching.incremental.candidates import ask
from edgewise.patching.incremental.state import IncrementalChunk
from edgewise.patching.prompts.pairs import Pair, PromptPairs
from edgewise.patching.run.chunk import Chunk
from edgewise.patching.run.runner import Runner
from tests.configs import CONFIGS
from tests.engine import random_mask, tiny_lift, tiny_model, tiny_pairs

DENSITIES = (1.0, 0.5, 0.15, 0.05)
SOME = [
    "gpt2",
    "llama-multi-query",
    "mistral-window",
    "bloom",
    "gemma2",
    "gemma4-e",
    "gptj",
    "olmo2",
    "mixtral",
]


@dataclass(frozen=True)
class Asked:
    """Hold questions about some ports: `ablated` is [n, rows, senders]."""

    rows: tuple[int, ...]
    ablated: np.ndarray

    def masks(self, kept: np.ndarray) -> np.ndarray:
        """Return the circuits that the questions mean, [n, ports, senders]."""
        masks = kept[None].repeat(len(self.ablated), 0)
        masks[:, list(self.rows)] &= ~self.ablated
        return masks


def prompts(kind: str, seed: int = 1) -> PromptPairs:
    """Make pairs whose windows differ: see the names."""
    if kind == "padded":
        return tiny_pairs(seed, (6, 5, 4, 6))
    if kind == "nothing shared":
        return tiny_pairs(seed, (5, 4, 3), shared=False)
    draw = random.Random(seed)
    shared = {"one token": (4, 4), "long prefixes": (4, 3, 2)}[kind]
    pairs = []
    for same in shared:  # tokens before the only one that differs
        behind = 1 if kind == "one token" else 3
        clean = tuple(draw.randrange(31) for _ in range(same + behind))
        corrupted = (*clean[:same], (clean[same] + 7) % 31, *clean[same + 1 :])
        position = len(clean) - 1 - (0 if kind == "one token" else same % 2)
        pairs.append(Pair(clean, corrupted, (draw.randrange(15),), (20,), position))
    return PromptPairs(tuple(pairs), name=kind)


KINDS = ("padded", "nothing shared", "one token", "long prefixes")


def questions(graph: Any, kept: np.ndarray, draw: random.Random) -> list[Asked]:
    """Draw questions: a port of each kind, and several attention ports of a layer together."""
    by_letter: dict[str, list[int]] = {}
    for row, port in enumerate(graph.ports):
        by_letter.setdefault(port.letter or port.kind, []).append(row)
    found = []
    for rows in by_letter.values():
        row = draw.choice([r for r in rows if kept[r].any()] or rows)
        edges = np.flatnonzero(kept[row])[::-1]
        ablated = np.zeros((3, 1, len(graph.senders)), dtype=bool)
        if len(edges):
            ablated[0, 0, draw.choice(edges.tolist())] = True  # a single edge
            ablated[1, 0, edges[: draw.randint(1, len(edges))]] = True  # a prefix
        ablated[2] = True  # the whole port
        found.append(Asked((row,), ablated))
    layers = [layer for layer in range(graph.layers) if graph.heads_of(layer)]
    if not layers:
        return found
    layer = draw.choice(layers)
    attention = [i for i, p in enumerate(graph.ports) if p.node.layer == layer and p.letter]
    rows = draw.sample(attention, draw.randint(2, min(4, len(attention))))
    prefixes = np.tril(np.ones((len(rows), len(rows)), dtype=bool))[..., None]
    some = np.random.default_rng(draw.randrange(99)).random((2, len(rows), len(graph.senders)))
    whole = np.broadcast_to(prefixes, (*prefixes.shape[:2], len(graph.senders)))
    return [*found, Asked(tuple(rows), np.concatenate((whole, some < 0.4)))]


def compare(runner: Runner, density: float, seed: int) -> tuple[Tensor, Tensor]:
    """Return logits at the answers of random questions, by `ask` and by the dense runner."""
    graph = runner.graph
    kept = random_mask(graph, density, seed)
    every = questions(graph, kept, random.Random(seed))
    masks = np.concatenate([asked.masks(kept) for asked in every])
    found, expected = [], []
    with torch.no_grad():
        for chunk in runner.chunks():
            state = IncrementalChunk(chunk)
            if density < 1:
                state.rebuild(random_mask(graph, 0.5, seed + 1))  # what was there must not matter
                state.rebuild(kept)
            streams = torch.cat([ask(state, asked.rows, asked.ablated) for asked in every])
            assert streams.dtype == torch.promote_types(chunk.model.dtype, torch.float32)
            assert streams.shape == (len(masks), len(chunk.batch), chunk.model.d_model)
            found.append(runner.model.logits(streams.to(runner.model.dtype)))
            expected.append(dense(runner, chunk, masks, found[-1]))
    return torch.cat(found, 1), torch.cat(expected, 1)


def dense(runner: Runner, chunk: Chunk, masks: np.ndarray, found: Tensor) -> Tensor:
    """Return the logits of masks by the dense runner.

    Masks that run together add up a port's stream in one way. Where it is the way that is bad for
    one of them (zero as a difference of sums, which a norm then divides by its size), run it alone.
    """
    logits = runner.chunk_logits(chunk, masks).clone()
    for i in range(len(masks)):
        if float((logits[i] - found[i]).abs().max()) > 1e-10:
            logits[i] = runner.chunk_logits(chunk, masks[i : i + 1])[0]
    return logits


def assert_equal(found: Tensor, expected: Tensor) -> None:
    """Compare in float64; 1e-9 is for logits of the size of 1."""
    size = max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9 * size)


@pytest.mark.parametrize("name", CONFIGS)
def test_answers_are_those_of_the_dense_runner(name: str) -> None:
    number = list(CONFIGS).index(name)
    for combination in range(4):  # each kind of prompts meets each combination in some model
        grouped = bool(combination % 2)
        ablation = (("resample", "mean"), ("zero", "mean"))[combination // 2][number % 2]
        model = tiny_lift(name, number, grouped_kv=grouped)
        kind = KINDS[(number + combination) % 4]
        runner = Runner.create(model, prompts(kind), metric="kl", ablation=ablation)
        density = DENSITIES[(3 * number + combination) % 4]
        assert_equal(*compare(runner, density, number + combination))


@pytest.mark.parametrize("name", SOME)
def test_every_window_and_density(name: str) -> None:
    for number, kind in enumerate(KINDS):
        model = tiny_lift(name, number, grouped_kv=bool(number % 2))
        runner = Runner.create(model, prompts(kind, number), metric="kl", batch_size=3)
        for density in DENSITIES:
            assert_equal(*compare(runner, density, number))


def test_the_window_of_one_token() -> None:
    runner = Runner.create(tiny_lift("gpt2"), prompts("one token"))
    (chunk,) = runner.chunks()
    assert IncrementalChunk(chunk).shape[1] == 1


def test_split_embeddings() -> None:
    model = tiny_lift("gpt2", split_embedding=True)
    for ablation in ("resample", "zero", "mean"):
        runner = Runner.create(model, prompts("padded"), ablation=ablation)
        for density in DENSITIES:
            assert_equal(*compare(runner, density, 3))


@pytest.mark.parametrize("name", ["gpt2", "helium", "gptj", "olmo2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_errors_of_narrow_types_are_those_of_the_dense_runner(
    name: str, dtype: torch.dtype
) -> None:
    errors = []
    for number, ablation in enumerate(("resample", "zero", "mean")):
        narrow = tiny_model(name, number, dtype)
        exact = describe(copy.deepcopy(narrow).double())  # the same weights, without rounding
        runners = [
            Runner.create(model, prompts("padded"), ablation=ablation)
            for model in (describe(narrow), exact)
        ]
        for density in DENSITIES:
            found, by_dense = compare(runners[0], density, number)
            _, truth = compare(runners[1], density, number)
            size = truth.abs().max().clamp(min=1)
            errors.append(torch.stack(((found - truth) / size, (by_dense - truth) / size)))
    own, other = torch.cat(errors, 1).square().mean((1, 2, 3)).sqrt().tolist()
    # both round products to the type; the incremental runner's sums are float32 at least
    assert own <= 1.2 * other
    # a few roundings of values up to ~1, through two layers: 2⁻²³, 2⁻⁸, 2⁻¹¹ each
    assert own <= 8 * torch.finfo(dtype).eps
    if dtype == torch.float32:
        worst = max(float(e[0].abs().max()) for e in errors)
        assert worst < 1e-5  # also where a stream is zero: nothing may be left of it by rounding
