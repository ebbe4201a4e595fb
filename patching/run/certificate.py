"""The certificate: proof, on some tokens, that a lift computes what the model does."""

from __future__ import annotations

import math
import random
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ...graphs.calls.typed import typed
from ...graphs.circuit import Circuit
from ...graphs.errors import CertificateFailed
from ...graphs.files.circuit import CertificateBlock
from ...graphs.lift.devices import place
from ...graphs.lift.lifted import Attention, AttentionContext, LiftedModel
from ...graphs.lift.live.guards import naming_modules
from ...graphs.lift.live.untouched import untouched
from ...graphs.lift.own.observing import decoder_layers, layer_inputs
from ...graphs.lift.watching import start_afresh
from ..metrics.registry import nll
from ..prompts.pairs import Batch, Pair, PromptPairs
from ..trace import Trace, run_plain
from .chunk import Chunk, sender_deltas
from .rounding import block_excess
from .runner import Runner
from .widening import HALF_TYPES, Widening

RELATIVE_TOLERANCE = {
    torch.float64: 1e-5,  # some constants of models have been rounded to float32 before
    torch.float32: 1e-4,
}
SAMPLE, LENGTH, LONGEST_WINDOW = 4, 12, 128
LOGIT_BYTES = 1 << 28
"""Most memory that the logits of the compared prompts may take; one prompt is always compared."""


@dataclass(frozen=True)
class Rounding:
    """What a type of 16 bits does to the logits of the compared prompts, at most.

    `original`: how far the original's are from its own in float32; `lift`: how far the lift's are
    from the original's, both in the model's type.
    """

    original: float
    lift: float


@dataclass(frozen=True)
class Certificate:
    """The largest errors of a lift, computed in float32 at least, whatever the model's type.

    `kept_all`, `kept_none`: of logits with every edge kept, against the original model's, and with
    none, against the original on the corrupted prompts; at most `tolerance` is accepted. `stream`:
    of the stream at every port against the sum of its senders and constants, and against the
    original's hidden states, relative to its largest entry. `blocks`: how far single blocks are
    from the original's, in parts of what rounding explains (see `rounding`); at most 1 is accepted;
    None without an original's hidden states. `prompts`, `longest`: how many prompt pairs were
    compared, and the tokens of the longest. `compared`: whether there was an original; if not, a
    plain run of the description takes its place, which shows that the identities hold, not that
    the intended model is described. `rounding`: of models in types of 16 bits, what that type adds.
    `not_finite`: weights that hold NaN or infinite numbers; looked for only where an error is NaN.
    """

    kept_all: float
    kept_none: float
    stream: float
    tolerance: float
    stream_tolerance: float
    blocks: float | None
    prompts: int
    longest: int
    compared: bool = True
    rounding: Rounding | None = None
    not_finite: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Tell whether all errors are within tolerance."""
        return (
            self.kept_all <= self.tolerance
            and self.kept_none <= self.tolerance
            and self.stream <= self.stream_tolerance
            and (self.blocks is None or self.blocks <= 1)
        )

    def as_dict(self) -> CertificateBlock:
        """Return what circuit files store: the errors, and if there was no original."""
        errors = CertificateBlock(
            kept_all=self.kept_all, kept_none=self.kept_none, stream=self.stream,
            prompts=self.prompts, longest=self.longest,
        )  # fmt: skip
        if self.blocks is not None:
            errors["blocks"] = self.blocks
        if self.rounding is not None:
            errors["rounding_original"] = self.rounding.original
            errors["rounding_lift"] = self.rounding.lift
        return errors if self.compared else {**errors, "compared": False}

    def require(self) -> Certificate:
        """Return the certificate; CertificateFailed, with its errors, unless it passed."""
        if self.not_finite:
            raise CertificateFailed(f"{self.weights_error}. No result from it could be trusted.")
        if not self.passed:
            blocks = ""
            if self.blocks is not None:
                blocks = f", of single blocks in parts of what rounding explains {self.blocks:.3g} "
                blocks += "(at most 1)"
            raise CertificateFailed(
                "the lifted model does not compute what the original computes: largest error with "
                f"all edges kept {self.kept_all:.3g}, with none kept {self.kept_none:.3g} (at most "
                f"{self.tolerance:.3g} logits accepted), of the stream {self.stream:.3g} (at most "
                f"{self.stream_tolerance:.3g}){blocks}. The model has something its "
                "family's description misses; no result from it could be trusted."
            )
        return self

    @property
    def weights_error(self) -> str:
        """Tell which weights are at fault; empty if they are all finite or were not looked at."""
        names, rest = self.not_finite[:3], ", …" if len(self.not_finite) > 3 else ""
        found = f"{len(self.not_finite)} of the model's tensors hold numbers that are not finite"
        return f"{found} ({', '.join(names)}{rest})" if names else ""


@typed
def certify(model: LiftedModel, pairs: PromptPairs | None = None) -> Certificate:
    """Compare a lifted model with the original on a few pairs, or on generated tokens.

    Of the pairs the longest are compared, at their full length, and some of every other length.
    Both compute in float32 where the model's type is narrower; no weight is copied or changed.
    """
    pairs = generated_pairs(model) if pairs is None else _chosen(pairs, model)
    runner = Runner.create(model, pairs, metric=nll, batch_size=len(pairs))
    (chunk,) = runner.chunks()
    narrow, batch = model.dtype in HALF_TYPES, chunk.batch
    with _widening(model.dtype), torch.no_grad():
        clean, hidden = original_run(model, batch.clean, batch)
        corrupted, _ = original_run(model, batch.corrupted, batch)
        rows = batch.row
        ends = (Circuit.full(model.graph), Circuit.empty(model.graph))
        full, empty = (runner.chunk_logits(chunk, circuit.kept[None])[0] for circuit in ends)
        plain = _plain_run(model, batch)
        everywhere = model.logits(plain.streams.final)[batch.mask] - clean[batch.mask]
        at_answers = (full - clean[rows, batch.answer_position]).abs().max()
        kept_all = float(np.maximum(float(at_answers), float(everywhere.abs().max())))  # NaN stays
        kept_none = float((empty - corrupted[rows, batch.answer_position]).abs().max())
        hidden = [_completed(*both) for both in zip(hidden, plain.streams.attention, strict=False)]
        stream = _stream_error(chunk, plain, hidden)
        blocks = block_excess(model, batch, clean, hidden)
    share = RELATIVE_TOLERANCE[clean.dtype]
    broken = not math.isfinite(kept_all + kept_none + stream)
    weights = model.model.named_parameters() if broken and model.model is not None else ()
    return Certificate(
        kept_all=kept_all,
        kept_none=kept_none,
        stream=stream,
        tolerance=share * max(10.0, float(clean[batch.mask].abs().max())),
        stream_tolerance=share,
        blocks=blocks,
        prompts=len(pairs),
        longest=batch.mask.shape[1],
        compared=model.model is not None or model.original is not None,
        rounding=_rounding(model, batch, clean) if narrow else None,
        not_finite=tuple(name for name, w in weights if not bool(w.isfinite().all())),
    )


def _widening(dtype: torch.dtype) -> AbstractContextManager[object]:
    """Compute in float32 where a model's type is narrower, and in float64 alone where it is that.

    In float64 much of transformers' code still asks for float32, whose rounding delta nets and
    state spaces carry far.
    """
    if dtype in HALF_TYPES:
        return Widening(HALF_TYPES, torch.float32)
    if dtype == torch.float64:
        return Widening([torch.float32], torch.float64)
    return nullcontext()


def _chosen(pairs: PromptPairs, model: LiftedModel) -> PromptPairs:
    """Choose the longest pairs, and others of every length, as many as logits fit in memory."""
    vocabulary = len(model.unembed.weight)
    by_length = sorted(pairs, key=lambda pair: -len(pair.clean))
    most = min(SAMPLE, len(pairs), LOGIT_BYTES // (4 * vocabulary * len(by_length[0].clean)))
    step = len(by_length) / max(1, most)
    some = (by_length[int(i * step)] for i in range(max(1, most)))
    return PromptPairs(tuple(_twinned(pair, model) for pair in some), pairs.name)


def _plain_run(model: LiftedModel, batch: Batch) -> Trace:
    return run_plain(model, batch.clean, AttentionContext(batch.mask, batch.position_ids))


@torch.no_grad()
def _rounding(model: LiftedModel, batch: Batch, exact: Tensor) -> Rounding:
    own, _ = original_run(model, batch.clean, batch)
    lifted = model.logits(_plain_run(model, batch).streams.final)
    real = batch.mask
    found = (own[real].float() - exact[real], lifted[real].float() - own[real].float())
    return Rounding(*(float(part.abs().max()) for part in found))


def generated_pairs(model: LiftedModel, seed: int = 0) -> PromptPairs:
    """Make random pairs longer than short attention windows and limits of rotary frequencies."""
    draw = random.Random(seed)
    vocabulary = len(model.tokens)
    mixers = [block.attention for block in model.blocks]
    heads = [one for one in mixers if isinstance(one, Attention)]
    rotaries = [one.rotary for one in heads]
    windows = [one.window or 0 for one in heads]
    windows += [one.chunk or 0 for one in heads]
    windows += [rotary.limit or 0 for rotary in rotaries if rotary is not None]
    longest = max([LENGTH, *(w + 3 for w in windows if w <= LONGEST_WINDOW)])
    longest = min(longest, model.max_positions or longest)
    lengths = [longest] * 2 + [max(1, longest - 5)] * 2
    images: frozenset[int] = getattr(
        model.model, "placeholders", frozenset()
    )  # tokens that stand for no text
    tokens = (t for t in iter(lambda: draw.randrange(vocabulary), -1) if t not in images)
    a, b, c, d = (tuple(next(tokens) for _ in range(n)) for n in lengths)
    return PromptPairs((Pair(a, b, (0,), (1,)), Pair(c, d, (0,), (1,))))


def _twinned(pair: Pair, model: LiftedModel) -> Pair:
    """Return a pair with a corrupted prompt: one that has none gets other tokens throughout."""
    if pair.corrupted is not None:
        return pair
    count = len(model.tokens)
    images: frozenset[int] = getattr(model.model, "placeholders", frozenset())
    usual = [token for token in range(count) if token not in images]
    return replace(pair, corrupted=tuple(usual[(token + 1) % len(usual)] for token in pair.clean))


@torch.no_grad()
def original_run(model: LiftedModel, ids: Tensor, batch: Batch) -> tuple[Tensor, list[Tensor]]:
    """Run the original model on ids [B, T]; return logits [B, T, V] and what its blocks read.

    Those are states [B, T, D], of Hugging Face models only. Examples of equal length run together,
    without padding, on which some models give NaN; what stands at padding is 0.
    """
    found: list[Tensor] = []
    for mask in batch.mask.unique(dim=0):
        rows = (batch.mask == mask).all(1).nonzero()[:, 0]
        real = mask.nonzero()[:, 0]
        outputs = _original_outputs(model, ids[rows][:, real], batch.position_ids[rows][:, real])
        parts = [place(part, ids.device) for part in outputs]
        if not found:
            found = [part.new_zeros(*ids.shape, part.shape[-1]) for part in parts]
        for whole, part in zip(found, parts, strict=True):
            whole[rows[:, None], real] = part
    return found[0], found[1:]


def _original_outputs(model: LiftedModel, ids: Tensor, position_ids: Tensor) -> list[Tensor]:
    ones = torch.ones_like(ids)
    if (live := model.model) is not None:
        where = {"attention_mask": ones, "position_ids": position_ids}
        layers = decoder_layers(live, len(model.blocks))
        with untouched(live), naming_modules(live, "the model itself cannot be run on token ids"):
            start_afresh(live)
            if layers is None:  # the graph's layers are not the model's
                return [live(input_ids=ids, **where, use_cache=False).logits]
            with layer_inputs(layers, model.streams) as hidden:  # models name them in many ways
                out = live(input_ids=ids, **where, use_cache=False)
        scales = model.stream_scales or (1.0,) * len(hidden)
        return [out.logits, *(h / s for h, s in zip(hidden, scales, strict=False))]
    if model.original is not None:
        return [model.original(ids)]
    run = run_plain(model, ids, AttentionContext(ones.bool(), position_ids))
    return [model.logits(run.streams.final)]


def _completed(state: Tensor, stream: Tensor) -> Tensor:
    """Put behind an original's state what the stream here has beside it, [B, T, D]."""
    beside = stream[..., state.shape[-1] :]
    return torch.cat((state, beside.to(state)), -1) if beside.shape[-1] else state


@torch.no_grad()
def _stream_error(chunk: Chunk, plain: Trace, hidden: list[Tensor]) -> float:
    """Add up single senders and compare with every port's stream and the model's own states."""
    model, mask = chunk.model, chunk.batch.mask
    nothing = Trace(model, plain.values.zeros())
    single = sender_deltas(plain, nothing).flatten(1)
    streams, constants = plain.streams, nothing.streams
    shape, width = streams.final.shape, model.d_model
    largest, at = 0.0, model.sources
    total = single[:at].sum(0)

    def compare(stream: Tensor, constant: Tensor, own: Tensor | None = None) -> None:
        nonlocal largest
        summed = (total.view(shape) + constant)[mask]
        size = max(1.0, float(summed.abs().max()))
        for found in (stream, own):
            if found is not None:
                error = float((found[mask] - summed).abs().max()) / size
                largest = float(np.maximum(largest, error))  # NaN stays

    for layer in range(model.graph.layers):
        own = hidden[layer] if hidden else None
        compare(streams.attention[layer], constants.attention[layer], own)
        if model.graph.parallel:
            compare(streams.mlp[layer][..., :width], constants.mlp[layer][..., :width])
        number = len(model.graph.mixer_nodes(layer))
        heads = single[at : at + number].sum(0)
        at += number
        if model.graph.has_post(layer):
            before, total = total, heads
            compare(streams.post[layer], constants.post[layer])
            total = before + single[at]
            at += 1
        else:
            total = total + heads
        if not model.graph.parallel:
            compare(streams.mlp[layer][..., :width], constants.mlp[layer][..., :width])
        columns = model.graph.mlp_columns[layer]
        total = total + single[columns.start : columns.stop].sum(0)
        at = columns.stop
    compare(streams.final, constants.final)
    return largest
