"""A layer's heads with changed queries, keys or values, where those are linear in what ports hold.

Behind its norm a port's input n goes into attention scores linearly, s[t, j] = q_t·k_j (turned and
scaled), where no norm of heads and no bound stands between. With n' in its place

    s'[t, j] = s[t, j] + (n' − n)_t · M_q[t, j]   of new queries,
    s'[t, j] = s[t, j] + (n' − n)_j · M_k[j, t]   of new keys,

M_q[t, j] = W_qᵀ·∂s[t, j]/∂q_t. What a head writes changes by Σ_j (p' − p)[t, j]·v_j, p the softmax,
so the score of an edge is Σ_{t, j} (p' − p)[t, j]·A[t, j] with A[t, j] = v_j·g_t, g the gradient
at what heads mix. Of values it is Σ_j (n' − n)_j · M_v[j]. So one product for each token, of all
senders' n' − n with the few columns of M, takes the place of all projections; it pays where prompts
are short.

Shapes: B examples, T positions of the window, T' keys, s senders, D d_model, H heads, K d_head.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ....graphs.lift.attention import Attention, AttentionContext
from ....graphs.lift.norms import working_dtype
from .heads import HeadsRun


def folds(attention: Attention, window: int, length: int) -> bool:
    """Tell whether queries, keys and values are linear in what is read, and few are asked for."""
    between = (
        attention.q_norm, attention.k_norm, attention.value_norm, attention.clip, attention.gate,
        attention.q_latent, attention.k_latent, attention.v_latent,
    )  # fmt: skip
    projected = (attention.heads + 2 * attention.kv_heads) * attention.size
    return all(one is None for one in between) and (
        attention.heads * (window + length) <= 2 * projected
    )


@dataclass(frozen=True)
class FoldedHeads:
    """One layer's scores s, [B, H, T, T'], A of the same shape, and M of each letter.

    `matrices`: [B·T, D, H·T'] of queries, [B·T, D, H·T] of keys, [B·T, D, H] of values.
    """

    attention: Attention
    context: AttentionContext
    scores: Tensor
    pattern: Tensor
    worth: Tensor
    matrices: dict[str, Tensor]

    @staticmethod
    def of(run: HeadsRun) -> FoldedHeads:
        """Take a layer of a run."""
        attention, q, k, v, g_z = run.block.by_head, run.q, run.k, run.v, run.g_z
        if run.past is not None:
            k, v = (torch.cat(both, 1) for both in zip(run.past, (k, v), strict=True))
        wide = working_dtype(q.dtype)
        context = run.context.on(q.device)
        window, length = q.shape[1], k.shape[1]
        start = length - window

        with torch.enable_grad():  # each pair of a query and a key has its own copy of both
            every_q = q.expand(length, *q.shape).detach().requires_grad_()
            every_k = k.expand(window, *k.shape).detach().requires_grad_()
            turned, _ = attention.turned(every_q, k, context)
            _, keys = attention.turned(q, every_k, context)
        far, near = keys[0].detach(), turned[0].detach()  # [B, T', H, K], [B, T, H, K]
        of_keys = far.transpose(0, 1)[:, :, None].expand_as(turned)
        of_queries = near.transpose(0, 1)[:, :, None].expand_as(keys)
        (u_q,) = torch.autograd.grad(turned, every_q, of_keys * attention.scale)
        (u_k,) = torch.autograd.grad(keys, every_k, of_queries * attention.scale)
        scores = torch.einsum("bthk,bjhk->bhtj", near.to(wide), far.to(wide)) * attention.scale
        pattern = attention.weigh(scores, context)
        g_z = g_z.to(wide)
        g_v = torch.einsum("bhtj,bthk->bjhk", pattern, g_z)[:, start:]
        w_q, w_k, w_v = (attention.projection(letter)[0].to(wide) for letter in "qkv")
        w_k, w_v = (w.repeat_interleave(attention.group_size, 0) for w in (w_k, w_v))
        m_q = torch.einsum("jbthk,hkd->btdhj", u_q.to(wide), w_q)
        m_k = torch.einsum("tbjhk,hkd->bjdht", u_k[:, :, start:].to(wide), w_k)
        m_v = torch.einsum("bjhk,hkd->bjdh", g_v, w_v)
        matrices = {"q": m_q.flatten(3), "k": m_k.flatten(3), "v": m_v}
        return FoldedHeads(
            attention,
            context,
            scores,
            pattern,
            torch.einsum("bthk,bjhk->bhtj", g_z, attention.values(v).to(wide)),
            {letter: m.flatten(0, 1) for letter, m in matrices.items()},
        )

    def numbers(self, width: int) -> int:
        """Count what is made on the way for one token and sender."""
        return 4 * width + 4 * sum(m.shape[-1] for m in self.matrices.values())

    def changes(self, letters: tuple[str, ...], new: Tensor, now: Tensor) -> dict[str, Tensor]:
        """Score what ports hold behind the norm, n' [s, B, T, D] in place of n: [s, B, H] each."""
        moved = new - now
        chosen = [self.matrices[letter] for letter in letters]
        matrix = chosen[0] if len(chosen) == 1 else torch.cat(chosen, -1)
        rows = moved.flatten(1, 2).transpose(0, 1).to(matrix)  # [B·T, s, D]
        product = torch.bmm(rows, matrix).unflatten(0, moved.shape[1:3])  # [B, T, s, columns]
        parts = product.split([m.shape[-1] for m in chosen], -1)
        return {
            letter: self._score(letter, part) for letter, part in zip(letters, parts, strict=True)
        }

    def _score(self, letter: str, part: Tensor) -> Tensor:
        """Score what a letter's products [B, T, s, columns] make of attention, [s, B, H]."""
        if letter == "v":
            return part.sum(1).transpose(0, 1)
        apart = part.unflatten(-1, (self.attention.heads, -1))  # [B, T, s, H, T' or T]
        if letter == "q":
            new = self.scores + apart.permute(2, 0, 3, 1, 4)
        else:
            new = self.scores.repeat(apart.shape[2], 1, 1, 1, 1)
            new[..., -apart.shape[1] :] += apart.permute(2, 0, 3, 4, 1)
        change = self.attention.weigh(new, self.context) - self.pattern
        found: Tensor = change.mul_(self.worth).sum((-2, -1))
        return found
