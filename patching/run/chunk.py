"""One batch of pairs, its clean and corrupted runs and its ablation values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ...graphs.lift.devices import place, send
from ...graphs.lift.lifted import Attention, AttentionContext, LiftedModel
from ..ablations.registry import Ablation, Carried
from ..metrics.metric import Metric, Target
from ..prompts.pairs import Batch
from ..trace import Past, Trace, at_answers, run_plain, split
from .answer_logits import AnswerLogits, AnswerReader
from .masked_run import World
from .memory import LAPTOP, Budget


@dataclass(frozen=True)
class Chunk:
    """One batch of pairs and its runs; everything is computed once, when asked for.

    `carried` is the ablation, prepared: what ablated edges carry in this chunk. Under a paired
    ablation (`resample`) nothing differs before the first token at which a pair of the batch does:
    all runs after the clean one are confined to the window that begins there, of T positions. In a
    model that attends in both directions, or with mixers taken whole, which have no keys and values
    to be given, the window is the whole prompt. `budget`: how much memory work on it may take.
    `host`: the batch on the processor, looked at there without waiting for the model's device.
    """

    model: LiftedModel
    batch: Batch
    ablation: Ablation
    carried: Carried
    budget: Budget = LAPTOP
    host: Batch | None = None

    @cached_property
    def start(self) -> int:
        """Return the window's first position."""
        if not self.ablation.paired or not self.model.windowed:
            return 0
        batch = self._host
        differs = (batch.clean != batch.corrupted).any(0)
        first = int(differs.nonzero()[0, 0]) if bool(differs.any()) else len(differs)
        return min(first, int(batch.answer_position.min()))

    @property
    def _host(self) -> Batch:
        return self.batch if self.host is None else self.host

    @cached_property
    def context(self) -> AttentionContext:
        """Return the attention masks and rotation tables of the window."""
        return AttentionContext(self.batch.mask, self.batch.position_ids, self.start)

    @cached_property
    @torch.no_grad()
    def _clean(self) -> tuple[Trace, Past | None]:
        whole = AttentionContext(self.batch.mask, self.batch.position_ids)
        run = run_plain(self.model, self.batch.clean, whole)
        return split(run, self.start) if self.start else (run, None)

    @property
    def clean(self) -> Trace:
        """Return the run of the clean prompts."""
        return self._clean[0]

    @property
    def past(self) -> Past | None:
        """Return the keys and values before the window; None if it begins at 0."""
        return self._clean[1]

    @cached_property
    @torch.no_grad()
    def corrupted(self) -> Trace:
        """Return the run of the corrupted prompts."""
        return run_plain(self.model, self.batch.corrupted, self.context, self.past)

    @cached_property
    @torch.no_grad()
    def base(self) -> Trace:
        """Return the run whose values ablated edges carry."""
        return Trace(self.model, self.carried(self))

    @cached_property
    @torch.no_grad()
    def delta(self) -> Tensor:
        """Return what every sender writes on the clean run minus its ablation value, [S, B·T·D]."""
        return sender_deltas(self.clean, self.base).flatten(1)

    @cached_property
    @torch.no_grad()
    def given_delta(self) -> tuple[Tensor, ...]:
        """Return the same of what the embedding sends to each MLP past the stream, [B, T, P]."""
        return given_deltas(self.clean, self.base)

    @cached_property
    def moving_tokens(self) -> Tensor:
        """List the tokens of `moving_on_host`, on the model's device."""
        tokens = self.moving_on_host
        return send(tokens.numpy(), self.batch.clean) if tokens.device.type == "cpu" else tokens

    @cached_property
    def moving_on_host(self) -> Tensor:
        """List the tokens, as indices into B·T, at which an ablation can matter to the answer.

        Not: padding, and in causal models what stands behind the answer position or, where ablated
        values come from the corrupted prompt, before its first difference from the clean one.
        """
        batch = self._host
        if not self.model.causal:
            return batch.mask.flatten().nonzero()[:, 0]
        index = torch.arange(batch.mask.shape[1], device=batch.mask.device)
        matters = batch.mask & (index <= batch.last[:, None])
        if self.ablation.paired:
            matters &= (batch.clean != batch.corrupted).cumsum(1) > 0
        return matters[:, self.start :].flatten().nonzero()[:, 0]

    @cached_property
    def world(self) -> World:
        """Return what masked runs of this chunk start from."""
        sources = (self.clean.values.sources - self.base.values.sources).flatten(1)
        world = World(self.model, self.context, self.base, sources, self.past)
        return replace(world, given=self.given_delta, _sums={})

    @cached_property
    def restart_world(self) -> World:
        """Return the same, with every sender's clean delta known, to restart in any layer."""
        return replace(self.world, known=self.delta, _sums={})

    @cached_property
    def reading(self) -> AnswerReader:
        """Return what reads streams at the answers."""
        return AnswerReader(
            self.model, self.batch, lambda: self.at_answers(self.clean.streams.final)
        )

    @property
    def target(self) -> Target:
        """Return what metrics compare with."""
        return self.reading.target

    @property
    def empty_logits(self) -> Tensor:
        """Return the logits at the answers where every edge is ablated, [R, V]."""
        return self.logits(self.base.streams.final)

    def compared_with(self, clean_logits: Tensor | None) -> Target:
        """Return what metrics compare with, and the logits of a full model."""
        return self.reading.compared_with(clean_logits)

    @property
    def answer_logits(self) -> AnswerLogits:
        """Return what maps the stream at the answers to the logits of their tokens alone."""
        return self.reading.answer_logits

    def read(self, stream: Tensor, metrics: Sequence[Metric], losses: bool) -> list[Tensor]:
        """Map the stream at `logits`, [..., B, T, D], to values or losses of metrics, [..., B]."""
        return self.reading.values(self.at_answers(stream), metrics, losses)

    @torch.no_grad()
    def logits(self, stream: Tensor) -> Tensor:
        """Map the stream at `logits`, [..., B, T, D], to logits at the answers, [..., R, V]."""
        return self.logits_with_grad(stream)

    def logits_with_grad(self, stream: Tensor) -> Tensor:
        """Do the same, recording gradients."""
        return self.model.logits(self.at_answers(stream))

    def at_answers(self, stream: Tensor) -> Tensor:
        """Return what a stream holds where logits are read, [..., B, T, D] to [..., R, D].

        R is B but for answers of several tokens.
        """
        batch, row = self.batch, None if self.batch.steps is None else self.batch.row
        return at_answers(stream, batch.answer_position - self.start, row)


def given_deltas(run: Trace, base: Trace) -> tuple[Tensor, ...]:
    """Subtract what the embedding sends to each MLP past the stream in two runs, [B, T, P]."""
    both = zip(run.values.given, base.values.given, strict=True)
    return tuple(x - y for x, y in both)


def sender_deltas(run: Trace, base: Trace, tokens: Tensor | None = None) -> Tensor:
    """Subtract what senders write in two runs at some tokens, [S, n, D], float32 at least."""
    model, new, old = run.model, run.values, base.values

    def flat(x: Tensor, y: Tensor) -> Tensor:  # [B, T, …] to [n, …]
        x, y = x.flatten(0, 1), y.flatten(0, 1)
        if tokens is None:
            return x - y
        here = place(tokens, x.device)
        return x[here] - y[here]

    parts = [flat(x, y) for x, y in zip(new.sources, old.sources, strict=True)]
    dtype = torch.promote_types(parts[0].dtype, torch.float32)
    out = parts[0].new_empty((len(model.graph.senders), *parts[0].shape), dtype=dtype)
    at = len(parts)
    out[:at] = torch.stack(parts)
    for layer, block in enumerate(model.blocks):
        mixed = flat(new.z[layer], old.z[layer]).transpose(0, 1)  # [H, n, K]
        if isinstance(block.attention, Attention):
            mixed = block.attention.outputs(mixed)
        if len(mixed):
            out[at : at + len(mixed)] = mixed
        at += len(mixed)
        if model.graph.has_post(layer):
            out[at] = flat(new.post[layer], old.post[layer])
            at += 1
        for x, y in zip(new.mlp[layer], old.mlp[layer], strict=True):
            out[at] = flat(x, y)
            at += 1
    return out
