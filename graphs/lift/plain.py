"""Models that are no Hugging Face classes, such as hand-built and compiled transformers.

They are described by their weights, head by head. Shape letters: V vocabulary, P positions,
D d_model, H heads, G key/value heads (most have as many as heads), K d_head, M inner width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

from torch import Tensor

from ..calls.typed import typed
from ..errors import UnsupportedModel, unknown_argument
from ..graph import ComputationGraph
from .lifted import ACTIVATIONS, MLP, Attention, Block, LiftedModel, Linear, Norm
from .lifting import tensors_of


@typed
def plain_block(
    *,
    wq: Tensor,
    wk: Tensor,
    wv: Tensor,
    wo: Tensor,
    bq: Tensor | None = None,
    bk: Tensor | None = None,
    bv: Tensor | None = None,
    bo: Tensor | None = None,
    scale: float | None = None,
    up: Tensor | None = None,
    down: Tensor | None = None,
    up_bias: Tensor | None = None,
    down_bias: Tensor | None = None,
    activation: str = "relu",
    attention_norm: Norm | None = None,
    mlp_norm: Norm | None = None,
    **attention: Any,
) -> Block:
    """Describe a layer: attention by head, then an MLP  down·act(up·x + up_bias) + down_bias.

    A head's query is wq·x + bq, and it writes woᵀ·z, where z is its mixture of values; attention
    weights are softmax(scale · q·k). A layer without `up` and `down` has an MLP of inner width 0:
    its node `m{l}` exists and writes 0, or `down_bias`. A layer without attention is one whose
    `wo` is 0.

    Args:
        wq, wk, wv, wo: [H, K, D], or [G, K, D] for `wk` and `wv`; biases: [H, K] or [G, K].
        bo: [D], added to the sum of the heads.
        scale: of attention scores; default 1/√K.
        up, down, up_bias, down_bias: [M, D], [D, M], [M] and [D].
        activation: a name in `graphs.lifted.ACTIVATIONS`.
        attention: further fields of `graphs.lifted.Attention`, such as `rotary` or `window`.
    """
    own = [name for name in Attention.__dataclass_fields__ if name not in ("wq", "wk", "wv", "wo")]
    for name in attention:
        if name not in own:
            raise unknown_argument("plain_block", name, own)
    if min(wq.ndim, wk.ndim, wv.ndim, wo.ndim) < 3:
        raise UnsupportedModel(
            f"plain_block: `wq`, `wk`, `wv` and `wo` have the shapes {list(wq.shape)}, "
            f"{list(wk.shape)}, {list(wv.shape)} and {list(wo.shape)}; accepted: three numbers "
            "each, the first of which counts heads."
        )
    if up is None or down is None:
        up, down, up_bias = wo.new_zeros(0, wo.shape[-1]), wo.new_zeros(wo.shape[-1], 0), None
    return Block(
        attention_norm=attention_norm,
        attention=Attention(
            wq=wq, wk=wk, wv=wv, wo=wo, bq=bq, bk=bk, bv=bv, bo=bo,
            scale=wq.shape[-2] ** -0.5 if scale is None else scale, **attention,
        ),
        mlp_norm=mlp_norm,
        mlp=MLP(up=Linear(up, up_bias), down=Linear(down, down_bias), activation=activation),
    )  # fmt: skip


@typed
def plain_model(
    *,
    tokens: Tensor,
    blocks: Sequence[Block],
    unembed: Tensor,
    positions: Tensor | None = None,
    unembed_bias: Tensor | None = None,
    final_norm: Norm | None = None,
    causal: bool = True,
    parallel: bool = False,
    grouped_kv: bool = False,
    split_embedding: bool = False,
    original: Callable[[Tensor], Tensor] | None = None,
    name: str = "plain",
) -> LiftedModel:
    """Describe a model by its weights; they are used as they are, not copied.

    Args:
        tokens: [V, D].
        blocks: the layers, as `plain_block` makes them.
        unembed, unembed_bias: [V', D] and [V']; there may be more or fewer logits than tokens.
        positions: [P, D], added to the token embeddings; no prompt may be longer than P.
        causal: no position sees a later one; False: every position sees all.
        parallel: attention and MLP of a layer read the same stream.
        grouped_kv, split_embedding: see `ComputationGraph`.
        original: the model's own code, from token ids [B, T] to logits [B, T, V'], for the
            certificate to compare with.
        name: the family's name in circuit files.

    An UnsupportedModel lists all parts that do not fit together.
    """
    tables = {"tokens": tokens, "unembed": unembed, "positions": positions}
    wrong = _problems(blocks, tokens.shape[-1], tables)
    if not causal and any(block.by_head.window is not None for block in blocks):
        wrong.append("attention in both directions has no window")
    if wrong:
        raise UnsupportedModel(f"the model cannot be described: {'; '.join(wrong)}.")
    first = blocks[0]
    model = LiftedModel(
        family=name,
        tokens=tokens,
        positions=positions,
        blocks=tuple(replace(b, attention=replace(b.by_head, causal=causal)) for b in blocks),
        final_norm=final_norm,
        unembed=Linear(unembed, unembed_bias),
        graph=ComputationGraph(
            layers=len(blocks), heads=first.by_head.heads, kv_heads=first.by_head.kv_heads,
            parallel=parallel, post_norm=first.attention_post_norm is not None,
            grouped_kv=grouped_kv, split_embedding=split_embedding,
        ),
        variants={"attention": "causal" if causal else "in both directions"},
        max_positions=None if positions is None else len(positions),
        original=original,
    )  # fmt: skip
    detached: LiftedModel = _detached(model)
    return detached


def _problems(
    blocks: Sequence[Block], width: int, tables: Mapping[str, Tensor | None]
) -> list[str]:
    if not blocks:
        return ["it has no layers; accepted: one or more"]
    wrong = [
        f"{name} has shape {list(table.shape)}; accepted: [·, {width}]"
        for name, table in tables.items()
        if table is not None and (table.dim() != 2 or table.shape[-1] != width)
    ]
    for layer, block in enumerate(blocks):
        wrong += [f"layer {layer}: {problem}" for problem in _misfits(block, width)]
    kinds = {(b.by_head.heads, b.by_head.kv_heads, b.attention_post_norm is None) for b in blocks}
    if len(kinds) > 1:
        wrong.append("the layers differ in their heads or in having a norm behind attention")
    weights = (*tensors_of(tuple(blocks)), *tables.values())
    types = {str(weight.dtype) for weight in weights if weight is not None}
    if len(types) > 1:
        wrong.append(f"the weights have types {', '.join(sorted(types))}; accepted: one type")
    return wrong


def _misfits(block: Block, width: int) -> list[str]:
    a, mlp = block.by_head, block.mlp
    assert isinstance(mlp, MLP)
    if any(w.dim() != 3 for w in (a.wq, a.wk, a.wv, a.wo)):
        return ["wq, wk, wv and wo must be given by head, [heads, d_head, d_model]"]
    heads, groups, size, inner = a.heads, a.kv_heads, a.wk.shape[1], a.wv.shape[1]
    hidden = len(mlp.up.weight)
    must: dict[str, tuple[Tensor | None, tuple[int, ...]]] = {
        "wq": (a.wq, (heads, size, width)),
        "wk": (a.wk, (groups, size, width)),
        "wv": (a.wv, (groups, inner, width)),
        "wo": (a.wo, (heads, inner, width)),
        "bq": (a.bq, (heads, size)),
        "bk": (a.bk, (groups, size)),
        "bv": (a.bv, (groups, inner)),
        "bo": (a.bo, (width,)),
        "up": (mlp.up.weight, (hidden, width)),
        "down": (mlp.down.weight, (width, hidden)),
        "up_bias": (mlp.up.bias, (hidden,)),
        "down_bias": (mlp.down.bias, (width,)),
    }
    wrong = [
        f"{name} has shape {list(tensor.shape)}; accepted: {list(shape)}"
        for name, (tensor, shape) in must.items()
        if tensor is not None and tuple(tensor.shape) != shape
    ]
    if heads % groups:
        wrong.append(f"{heads} query heads cannot share {groups} key/value heads")
    if mlp.activation not in ACTIVATIONS:
        wrong.append(
            f"the activation '{mlp.activation}' is not known; known: {', '.join(ACTIVATIONS)}"
        )
    return wrong


def _detached(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, tuple):
        return tuple(map(_detached, value))
    if is_dataclass(value) and not isinstance(value, type | ComputationGraph):
        changed = {f.name: _detached(getattr(value, f.name)) for f in fields(value) if f.init}
        return replace(value, **changed)
    return value
