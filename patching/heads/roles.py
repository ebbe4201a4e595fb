"""Measured roles of attention heads; no score is more than the number its definition says.

On random tokens (see `random_tokens`), mean attention weights, averaged over the query positions
of a sequence, then over sequences:

* `previous`: from a token of the first copy to the token before it, the sequence's first tokens
  left out, on which heads often rest (Elhage et al. 2021; Olsson et al. 2022).
* `duplicate`: from a token of the second copy to the same token in the first (Wang et al. 2023).
* `induction`: from a token of the second copy to the token behind its first occurrence, "prefix
  matching" (Olsson et al. 2022).

At the answer position t of a task's clean prompts:

* `direct`: what the head's output adds to the logit of the answers minus that of the distractors,
  mean over prompts, norms frozen as in the run (direct logit attribution; see `direct`).
  `direct_share`: the same as a share of the model's own difference; None if that is not positive.
* `copy`: let s be the position that t attends to most, the first position left out. The head is
  made to attend to s alone; `copy` is the share of prompts in which the token at s is then among
  the 5 largest of the logits that the head adds. This is the copy score of Wang et al. 2023,
  taken on the head's actual values at s in place of the names behind the first MLP.
  `anti_copy`: among the 5 smallest, as of their negative name movers.
* `attended`: the mean weight that t gives to s.
* spans: the mean weight that t gives to parts of the prompt; each position counts once, for the
  first that fits of: `first` position; `last`, t itself; `answer`, `distractor`: tokens that are an
  answer or distractor; `changed`: the corrupted prompt has another token; `rest`.

Of an answer of several tokens each is a prompt of its own: t is where it is predicted, behind the
answer's tokens before it (teacher-forced), and the distractors are the tokens with which those that
begin alike go on there; where none does, the mean over all logits takes their place.

Shapes: B examples, T positions, D d_model, H heads, h wanted heads, K d_head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...graphs.errors import GraphMismatch
from ...graphs.lift.devices import place
from ...graphs.lift.lifted import AttentionContext, LiftedModel
from ...graphs.names import Kind, Node
from ...graphs.roles import ON_TASK, ON_TOKENS, SPANS, HeadRoles
from ..prompts.answers import token_by_token
from ..prompts.pairs import Batch, Pair, PromptPairs
from ..run.checks import check_prompts
from ..run.memory import Budget
from ..run.runner import Progress
from ..trace import Trace, at_answers, of_keys, patterns, project, run_plain
from .direct import Direct, frozen
from .random_tokens import RandomBlocks

TOP = 5  # among how many of the largest logits a copied token must be

EQUAL = 2.0**-17
"""Attention weights, and logits in units of the largest, are equal if they differ by less: 64 units
of float32, in which both are computed. Of equally attended positions the first counts."""

Figures = dict[str, float | None]  # by what they measure; None where there is none


@dataclass(frozen=True)
class Measured:
    """The heads' scores and, with a task, the model's own mean logit difference."""

    heads: tuple[HeadRoles, ...]
    difference: float | None = None


def measure(
    model: LiftedModel,
    blocks: RandomBlocks,
    pairs: PromptPairs | None = None,
    *,
    heads: Sequence[Node] | None = None,
    progress: Progress | None = None,
) -> Measured:
    """Measure heads (default: all) on random tokens and, if there are any, on prompt pairs."""
    every = [node for node in model.graph.senders if node.kind is Kind.HEAD]
    if not every:
        raise GraphMismatch(
            f"the model has no attention heads to measure: it has {model.graph.describe()}."
        )
    wanted = [node for node in every if heads is None or node in heads]
    if missing := [str(node) for node in heads or () if node not in every]:
        has = model.graph.describe()
        raise GraphMismatch(f"the model has no head {', '.join(missing)}; it has {has}.")
    if pairs is not None:
        check_prompts(model, pairs)
        pairs = token_by_token(pairs)
    on_tokens = token_scores(model, blocks, progress)
    on_task: list[tuple[Figures, Figures]] = [({}, {})] * len(wanted)
    difference = None
    if pairs is not None:
        on_task, difference = task_scores(model, pairs, wanted, progress)
    found = []
    for node, (scores, spans) in zip(wanted, on_task, strict=True):
        own = {key: float(on_tokens[key][node.layer or 0, node.index or 0]) for key in ON_TOKENS}
        found.append(HeadRoles.of(node, {**own, **scores}, spans))
    return Measured(tuple(found), difference)


@torch.no_grad()
def token_scores(
    model: LiftedModel, blocks: RandomBlocks, progress: Progress | None = None
) -> dict[str, np.ndarray]:
    """Return `previous`, `duplicate` and `induction` of every head, float64 [layers, H] each."""
    shape = (len(blocks.sequences), len(model.blocks), model.graph.heads)
    found = {key: np.zeros(shape) for key in ON_TOKENS}
    pairs = PromptPairs(tuple(Pair(one, one, one[:1]) for one in blocks.sequences))
    for some in batches(model, pairs):
        batch = pairs.batch(some, device=str(model.device))
        context = AttentionContext(batch.mask, batch.position_ids)
        run = run_plain(model, batch.clean, context)
        for layer in range(len(model.blocks)):
            if not model.graph.heads_of(layer):
                continue
            pattern = patterns(run, layer, context).cpu()  # [B, H, T, T]
            for row, sequence in enumerate(some):
                for key, (t, s) in _targets(blocks.lead, blocks.lengths[sequence]).items():
                    found[key][sequence, layer] = pattern[row][:, t, s].double().mean(-1).numpy()
        if progress is not None:
            progress(some[-1] + 1, len(blocks.sequences), "random tokens")
    return {key: values.mean(0) for key, values in found.items()}


def _targets(lead: int, length: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Return, for each score, the queries and the key of each, for a block of this length."""
    t = torch.arange(lead, lead + length)
    again = t + length
    return {"previous": (t[1:], t[:-1]), "duplicate": (again, t), "induction": (again, t + 1)}


def batches(model: LiftedModel, pairs: PromptPairs) -> Iterator[range]:
    """Divide examples so that what one run keeps, about 6 D a token and layer, fits in memory."""
    length = max(len(pair.clean) for pair in pairs)
    each = length * model.d_model * len(model.blocks) * 6 * model.tokens.element_size()
    size = max(1, min(16, Budget.of(model).patterns // each))
    for start in range(0, len(pairs), size):
        yield range(start, min(start + size, len(pairs)))


@torch.no_grad()
def task_scores(
    model: LiftedModel, pairs: PromptPairs, heads: Sequence[Node], progress: Progress | None = None
) -> tuple[list[tuple[Figures, Figures]], float]:
    """Return each head's mean scores and span weights at answers, and the model's difference."""
    sums = {key: np.zeros(len(heads)) for key in ON_TASK if key != "direct_share"}
    weights = np.zeros((len(model.blocks), model.graph.heads, len(SPANS)))
    present, total = np.zeros(len(SPANS), dtype=bool), 0.0
    for some in batches(model, pairs):
        run = _AnswerRun(model, pairs.batch(some, device=str(model.device)))
        spans = spans_of(run.batch)
        present |= spans.any(0).any(-1)
        total += float(run.direct.total.double().sum())
        for layer in (i for i in range(len(model.blocks)) if model.graph.heads_of(i)):
            pattern = run.pattern(layer)
            weights[layer] += np.einsum("bht,bst->hs", pattern, spans)
            columns = [i for i, node in enumerate(heads) if node.layer == layer]
            if columns:
                own = [heads[i].index or 0 for i in columns]
                for key, values in run.measure(layer, own, pattern[:, own]).items():
                    sums[key][columns] += values.sum(-1)
        if progress is not None:
            progress(some[-1] + 1, len(pairs), "prompts")
    difference = total / len(pairs)
    if abs(difference) <= EQUAL * np.abs(sums["direct"]).max(initial=0.0) / len(pairs):
        difference = 0.0  # what is left of the heads' contributions is rounding
    means = {key: (values / len(pairs)).tolist() for key, values in sums.items()}
    shares = (sums["direct"] / len(pairs) / difference).tolist() if difference > 0 else None
    means["direct_share"] = shares or [None] * len(heads)
    found = []
    for number, node in enumerate(heads):
        each = weights[node.layer or 0, node.index or 0] / len(pairs)
        read = [x if there else None for x, there in zip(each.tolist(), present, strict=True)]
        scores = {key: means[key][number] for key in ON_TASK}
        found.append((scores, dict(zip(SPANS, read, strict=True))))
    return found, difference


def spans_of(batch: Batch) -> np.ndarray:
    """Tell which span each position of the clean prompts belongs to, bool [B, spans, T]."""
    mask, clean = batch.mask, batch.clean
    index = torch.arange(mask.shape[1], device=mask.device).expand(mask.shape)
    start = mask.long().argmax(-1, keepdim=True)
    fits = {
        "first": index == start,
        "last": index == batch.answer_position[:, None],
        "answer": (clean[:, :, None] == batch.answers[:, None]).any(-1),
        "distractor": (clean[:, :, None] == batch.distractors[:, None]).any(-1),
        "changed": clean != batch.corrupted,
        "rest": torch.ones_like(mask),
    }
    free, found = mask, {}
    for name, fit in fits.items():  # in the order of what comes first
        found[name] = fit & free
        free = free & ~fit
    return np.asarray(torch.stack([found[name] for name in SPANS], 1).cpu())


class _AnswerRun:
    """One batch's clean run, seen from the answer positions."""

    def __init__(self, model: LiftedModel, batch: Batch) -> None:
        self.model, self.batch = model, batch
        self.at, places = batch.answer_position, (batch.mask, batch.position_ids)
        self.run: Trace = run_plain(model, batch.clean, AttentionContext(*places))
        self.context = AttentionContext(*places, at=self.at)
        final = at_answers(self.run.streams.final, self.at)
        self.direct = Direct(model, final, batch.answers, batch.distractors)

    def pattern(self, layer: int) -> np.ndarray:
        """Return how the answer positions weigh all positions, float64 [B, H, T]."""
        weights = patterns(self.run, layer, self.context)[:, :, 0]
        return np.asarray(weights.double().cpu())

    def measure(self, layer: int, heads: list[int], pattern: np.ndarray) -> dict[str, np.ndarray]:
        """Return each score of some heads of a layer on each prompt, float64 [h, B]."""
        attention = self.model.blocks[layer].by_head
        z = self.run.values.z[layer]  # [B, T, H, K]
        rows = torch.arange(len(z), device=z.device)
        z = z[rows, self.at.to(z.device)][:, heads].transpose(0, 1)  # [h, B, K]
        written = self.direct.normed(self._to_stream(layer, attention.outputs(z, heads)))
        direct = self.direct.difference(written).double().cpu().numpy()
        attended, weight = self._attended(layer, pattern.transpose(1, 0, 2))  # [h, B, T]
        copy, anti_copy = self._copies(layer, heads, attended)
        return {"direct": direct, "attended": weight, "copy": copy, "anti_copy": anti_copy}

    def _to_stream(self, layer: int, x: Tensor) -> Tensor:
        """Return what heads' outputs x [h, B, D] add to the stream."""
        if not self.model.graph.post_norm:
            return x
        summed = at_answers(self.run.streams.post[layer], self.at)
        return frozen(self.model.blocks[layer].attention_post_norm, place(summed, x.device), x)

    def _attended(self, layer: int, pattern: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the positions attended to most, behind the first, [h, B], and their weight."""
        attention = self.model.blocks[layer].by_head
        hidden = attention.hidden(self.context)[:, 0, 0].cpu().numpy()
        start = self.batch.mask.long().argmax(-1).cpu().numpy()
        seen = np.where(hidden, -2.0, pattern)
        rows = np.arange(len(start))
        seen[:, rows, start] = np.where(hidden[rows, start], -2.0, -1.0)  # if there is no other
        at: np.ndarray = (seen >= seen.max(-1, keepdims=True) - EQUAL).argmax(-1)
        return at, np.take_along_axis(pattern, at[..., None], -1)[..., 0]

    def _copies(self, layer: int, heads: list[int], attended: np.ndarray) -> np.ndarray:
        """Tell whether heads that attend there alone raise, or lower, the token most, [2, h, B]."""
        block = self.model.blocks[layer]
        attention = block.by_head
        streams = self.run.streams.attention
        normed = block.read(streams[layer])
        keys = block.read(of_keys(block, streams, layer), "v")
        v = project(block, "v", keys)  # [B, T, G, K]
        v = attention.values(v)
        rows = torch.arange(len(v), device=v.device)
        q = project(block, "q", normed[rows, self.at.to(v.device)])  # [B, H, K]
        found = np.zeros((2, *attended.shape))
        for number, head in enumerate(heads):
            at = torch.from_numpy(attended[number]).to(v.device)
            value = v[rows, at, head // attention.group_size][None]  # [1, B, K]
            if attention.gate is not None:  # of the query that attends
                value = attention.gated(value, q[:, head][None])
            written = self._to_stream(layer, attention.outputs(value, [head]))
            logits = self.direct.logits(self.direct.normed(written)[0])  # [B, V]
            token = self.batch.clean[rows.to(self.at.device), at.to(self.at.device)]
            found[:, number] = _extreme(logits, token.to(logits.device))
        return found


def _extreme(logits: Tensor, token: Tensor) -> np.ndarray:
    """Tell whether a token is ahead of all but few logits [B, V], or behind; of equal ones none."""
    known = token < logits.shape[-1]
    own = logits.gather(-1, token.clamp(max=logits.shape[-1] - 1)[:, None])
    same = EQUAL * logits.abs().amax(-1, keepdim=True)
    at_least, at_most = (logits >= own - same).sum(-1), (logits <= own + same).sum(-1)
    hits = torch.stack(((at_least <= TOP) & known, (at_most <= TOP) & known))
    return np.asarray(hits.double().cpu())
