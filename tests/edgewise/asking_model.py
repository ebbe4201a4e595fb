"""Tiny trained models that answer a question about a row of tokens, and prompt pairs for them.

A prompt is `BOS`, six tokens (one of class A, one of class B, fillers) and a question: `ASK_A` is
answered by the token of class A, `ASK_B` by that of class B. The corrupted prompt has another token
of the asked class in the same place.
"""

from __future__ import annotations

import copy
import random
from typing import Any

import torch
from torch import Tensor

from edgewise.patching.prompts.pairs import Pair, PromptPairs

BOS, FILLERS, CLASS_A, CLASS_B = 0, range(1, 16), range(16, 24), range(24, 32)
ASK_A, ASK_B, VOCABULARY, LENGTH = 32, 33, 34, 8


def ask(count: int, seed: int) -> PromptPairs:
    """Make prompt pairs."""
    draw = random.Random(seed)
    pairs = []
    for _ in range(count):
        clean = [BOS, *(draw.choice(FILLERS) for _ in range(LENGTH - 2))]
        at_a, at_b = draw.sample(range(1, LENGTH - 1), 2)
        clean[at_a], clean[at_b] = draw.choice(CLASS_A), draw.choice(CLASS_B)
        question, at, among = draw.choice([(ASK_A, at_a, CLASS_A), (ASK_B, at_b, CLASS_B)])
        other = draw.choice([token for token in among if token != clean[at]])
        corrupted = [*clean[:at], other, *clean[at + 1 :]]
        pairs.append(
            Pair((*clean, question), (*corrupted, question), (clean[at],), (other,), LENGTH - 1)
        )
    return PromptPairs(tuple(pairs), name="ask", seed=seed)


def answering(layers: int, heads: int, *, steps: int, jobs: bool = False, seed: int = 0) -> Any:
    """Train a GPT-2 of width 32 to answer.

    With `jobs` it has one layer of two heads and a dead MLP, and the heads get a job each: in every
    other step the first head is cut out of questions about class B and the second out of those
    about class A, and what a head writes is penalised.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    draw = torch.Generator().manual_seed(seed)
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY, n_positions=LENGTH, n_embd=32, n_layer=layers, n_head=heads,
            resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, bos_token_id=0, eos_token_id=0,
            tie_word_embeddings=False,
        )
    )  # fmt: skip
    if jobs:
        for parameter in model.transformer.h[0].mlp.c_proj.parameters():
            parameter.data.zero_()
            parameter.requires_grad_(False)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=3e-3)
    for step in range(steps):
        tokens, answers = _batch(draw)
        with _Heads(model, heads) as written:
            if jobs and step % 2:
                asks_b = (tokens[:, -1] == ASK_B).long()
                written.only = torch.nn.functional.one_hot(asks_b, heads).float()
            logits = model(tokens).logits[:, -1]
            loss = torch.nn.functional.cross_entropy(logits, answers)
            if jobs:
                loss = loss + 0.1 * written.size()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    tokens, answers = _batch(draw)
    assert bool((model(tokens).logits[:, -1].argmax(-1) == answers).all())
    return model.eval()


def _batch(draw: torch.Generator, count: int = 64) -> tuple[Tensor, Tensor]:
    tokens = torch.randint(1, 16, (count, LENGTH), generator=draw)
    tokens[:, 0] = BOS
    places = torch.rand(count, LENGTH - 2, generator=draw).argsort(1) + 1
    a = torch.randint(16, 24, (count,), generator=draw)
    b = torch.randint(24, 32, (count,), generator=draw)
    rows = torch.arange(count)
    tokens[rows, places[:, 0]], tokens[rows, places[:, 1]] = a, b
    asks_b = torch.randint(0, 2, (count,), generator=draw)
    tokens[:, -1] = ASK_A + asks_b
    return tokens, torch.where(asks_b == 0, a, b)


class _Heads:
    """Watch what the heads of the last layer write, and cut some out of some examples."""

    def __init__(self, model: Any, heads: int) -> None:
        self.projection = model.transformer.h[-1].attn.c_proj
        self.heads = heads
        self.only: Tensor | None = None  # [B, H]
        self.z: Tensor | None = None

    def __enter__(self) -> _Heads:
        self.hook = self.projection.register_forward_pre_hook(self._see)
        return self

    def __exit__(self, *_: object) -> None:
        self.hook.remove()

    def _see(self, module: Any, given: tuple[Tensor]) -> tuple[Tensor]:
        z = given[0].unflatten(-1, (self.heads, -1))  # [B, T, H, K]
        if self.only is not None:
            z = z * self.only[:, None, :, None]
        self.z = z
        return (z.flatten(-2),)

    def size(self) -> Tensor:
        """Return the heads' root mean square at the answer, summed over heads."""
        assert self.z is not None
        weight = self.projection.weight.unflatten(0, (self.heads, -1))
        written = torch.einsum("bhk,hkd->bhd", self.z[:, -1], weight)
        return (written.pow(2).mean(-1) + 1e-6).sqrt().sum(1).mean()


def without_head(model: Any, layer: int, head: int, keep: float = 0.0) -> Any:
    """Return a copy whose head writes nothing, or a part of what it did."""
    cut = copy.deepcopy(model)
    width = cut.config.n_embd // cut.config.n_head
    weight = cut.transformer.h[layer].attn.c_proj.weight
    weight.data[head * width : (head + 1) * width] *= keep
    return cut
