"""The certificate: proof, on some tokens, that a lift computes what the model does."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ...graphs.circuit import Circuit
from ...graphs.errors import CertificateFailed
from ...graphs.files.circuit import CertificateBlock
from ...graphs.lift.devices import place
from ...graphs.lift.lifted import AttentionContext, LiftedModel
from ...graphs.lift.live.guards import naming_modules
from ...graphs.lift.live.untouched import untouched
from ...graphs.lift.watching import start_afresh
from ..metrics.registry import nll
from ..prompts.pairs import Batch, Pair, PromptPairs
from ..trace import Trace, run_plain
from .chunk import Chunk, sender_deltas
from .rounding import rounding_excess
from .runner import Runner

RELATIVE_TOLERANCE = {
    torch.float64: 1e-5,  # the norms of most model classes compute in float32 whatever the type
    torch.float32: 1e-4,
    torch.float16: 2e-2,
    torch.bfloat16: 1e-1,
}
SAMPLE, LENGTH, LONGEST_WINDOW = 8, 12, 128


@dataclass(frozen=True)
class Certificate:
    """The largest errors of a lift.

    `kept_all`, `kept_none`: of logits with every edge kept, against the original model's, and with
    none, against the original on the corrupted prompts; at most `tolerance` is accepted. `stream`:
    of the stream at every port against the sum of its senders and constants, and against the
    original's hidden states, relative to its largest entry. `compared`: whether there was an
    original; if not, a plain run of the description takes its place, which shows that the
    identities hold, not that the intended model is described. `rounding`: in types of 16 bits, how
    far single blocks are from the original's, in parts of what is accepted (see `rounding`).
    `not_finite`: weights that hold NaN or infinite numbers; looked for only where an error is NaN.
    """

    kept_all: float
    kept_none: float
    stream: float
    tolerance: float
    stream_tolerance: float
    compared: bool = True
    rounding: float | None = None
    not_finite: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Tell whether all errors are within tolerance."""
        return (
            self.kept_all <= self.tolerance
            and self.kept_none <= self.tolerance
            and self.stream <= self.stream_tolerance
            and (self.rounding is None or self.rounding <= 1)
        )

    def as_dict(self) -> CertificateBlock:
        """Return the three errors, as circuit files store them; and if there was no original."""
        errors = CertificateBlock(
            kept_all=self.kept_all, kept_none=self.kept_none, stream=self.stream
        )
        return errors if self.compared else {**errors, "compared": False}

    def require(self) -> Certificate:
        """Return the certificate; CertificateFailed, with its errors, unless it passed."""
        if self.not_finite:
            raise CertificateFailed(f"{self.weights_error}. No result from it could be trusted.")
        if not self.passed:
            blocks = ""
            if self.rounding is not None:
                blocks = f", of single blocks beyond their rounding {self.rounding:.3g} (at most 1"
                blocks += " accepted)"
            raise CertificateFailed(
                "the lifted model does not compute what the original computes: largest error with "
                f"all edges kept {self.kept_all:.3g}, with none kept {self.kept_none:.3g} (at most "
                f"{self.tolerance:.3g} logits accepted), of the stream {self.stream:.3g} (at most "
                f"{self.stream_tolerance:.3g}){blocks}. The model has something its "
                "family's description misses; no result from it could be trusted. (In 16 bits a "
                "mixture may fail because rounding sends tokens to other experts: use float32.)"
            )
        return self

    @property
    def weights_error(self) -> str:
        """Tell which weights are at fault; empty if they are all finite or were not looked at."""
        names, rest = self.not_finite[:3], ", …" if len(self.not_finite) > 3 else ""
        found = f"{len(self.not_finite)} of the model's tensors hold numbers that are not finite"
        return f"{found} ({', '.join(names)}{rest})" if names else ""


def certify(model: LiftedModel, pairs: PromptPairs | None = None) -> Certificate:
    """Compare a lifted model with the original on the first few pairs, or on generated tokens."""
    if pairs is None:
        pairs = generated_pairs(model)
    else:
        pairs = PromptPairs(tuple(_twinned(pair, model) for pair in pairs.pairs[:SAMPLE]))
    runner = Runner.create(model, pairs, metric=nll, batch_size=len(pairs))
    (chunk,) = runner.chunks()
    batch = chunk.batch
    clean, hidden = original_run(model, batch.clean, batch)
    corrupted, _ = original_run(model, batch.corrupted, batch)
    rows = batch.row
    ends = (Circuit.full(model.graph), Circuit.empty(model.graph))
    full, empty = (runner.chunk_logits(chunk, circuit.kept[None])[0] for circuit in ends)
    plain = run_plain(model, batch.clean, AttentionContext(batch.mask, batch.position_ids))
    everywhere = model.logits(plain.streams.final)[batch.mask] - clean[batch.mask]
    at_answers = (full - clean[rows, batch.answer_position]).abs().max()
    kept_all = float(np.maximum(float(at_answers), float(everywhere.abs().max())))  # NaN stays
    kept_none = float((empty - corrupted[rows, batch.answer_position]).abs().max())
    share = RELATIVE_TOLERANCE[model.dtype]
    stream = _stream_error(chunk, plain, hidden)
    broken = not math.isfinite(kept_all + kept_none + stream)
    weights = model.model.named_parameters() if broken and model.model is not None else ()
    return Certificate(
        kept_all=kept_all,
        kept_none=kept_none,
        stream=stream,
        tolerance=share * max(10.0, float(clean[batch.mask].abs().max())),
        stream_tolerance=share,
        compared=model.model is not None or model.original is not None,
        rounding=rounding_excess(model, batch, clean, hidden),
        not_finite=tuple(name for name, w in weights if not bool(w.isfinite().all())),
    )


def generated_pairs(model: LiftedModel, seed: int = 0) -> PromptPairs:
    """Make random pairs longer than short attention windows and limits of rotary frequencies."""
    draw = random.Random(seed)
    vocabulary = len(model.tokens)
    rotaries = [block.attention.rotary for block in model.blocks]
    windows = [block.attention.window or 0 for block in model.blocks]
    windows += [rotary.limit or 0 for rotary in rotaries if rotary is not None]
    longest = max([LENGTH, *(w + 3 for w in windows if w <= LONGEST_WINDOW)])
    longest = min(longest, model.max_positions or longest)
    lengths = [longest] * 2 + [max(1, longest - 5)] * 2
    a, b, c, d = (tuple(draw.randrange(vocabulary) for _ in range(n)) for n in lengths)
    return PromptPairs((Pair(a, b, (0,), (1,)), Pair(c, d, (0,), (1,))))


def _twinned(pair: Pair, model: LiftedModel) -> Pair:
    """Return a pair with a corrupted prompt: one that has none gets other tokens throughout."""
    if pair.corrupted is not None:
        return pair
    count = len(model.tokens)
    return replace(pair, corrupted=tuple((token + 1) % count for token in pair.clean))


@torch.no_grad()
def original_run(model: LiftedModel, ids: Tensor, batch: Batch) -> tuple[Tensor, list[Tensor]]:
    """Run the original model on ids [B, T]; return logits [B, T, V] and hidden states [B, T, D].

    Examples of equal length run together, without padding, on which some models give NaN; what
    stands at padding is 0. There are hidden states of Hugging Face models only.
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
        with untouched(live), naming_modules(live, "the model itself cannot be run on token ids"):
            start_afresh(live)
            out = live(input_ids=ids, **where, output_hidden_states=True, use_cache=False)
        return [out.logits, *out.hidden_states]
    if model.original is not None:
        return [model.original(ids)]
    run = run_plain(model, ids, AttentionContext(ones.bool(), position_ids))
    return [model.logits(run.streams.final)]


@torch.no_grad()
def _stream_error(chunk: Chunk, plain: Trace, hidden: list[Tensor]) -> float:
    """Add up single senders and compare with every port's stream and the model's own states."""
    model, mask = chunk.model, chunk.batch.mask
    nothing = Trace(model, plain.values.zeros())
    single = sender_deltas(plain, nothing).flatten(1)
    streams, constants = plain.streams, nothing.streams
    shape = streams.final.shape
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
            compare(streams.mlp[layer], constants.mlp[layer])
        heads = single[at : at + model.graph.heads].sum(0)
        at += model.graph.heads
        if model.graph.post_norm:
            before, total = total, heads
            compare(streams.post[layer], constants.post[layer])
            total = before + single[at]
            at += 1
        else:
            total = total + heads
        if not model.graph.parallel:
            compare(streams.mlp[layer], constants.mlp[layer])
        columns = model.graph.mlp_columns[layer]
        total = total + single[columns.start : columns.stop].sum(0)
        at = columns.stop
    compare(streams.final, constants.final)
    return largest
