"""What several families share: norms, projections, rotary tables, and the final assembly."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...errors import UnsupportedModel
from ...graph import HEADS, ComputationGraph
from ..attention import Latent
from ..experts import Beside, Experts, Routing, SharedExpert
from ..lifted import MLP, Attention, Block, Growth, LiftedModel, Linear, Norm, Rotary, Whole
from ..lifting import by_head, optional, require_activation
from ..own.packed import Gathered

STATIC_ROTARY = ("default", "linear", "llama3", "yarn", "ntk_alpha", "proportional")
"""Rotary variants whose frequencies do not depend on the prompt's length."""

GROWING_ROTARY = ("dynamic", "longrope")
"""Those that choose frequencies by the length of each prompt, as if it were run first and alone."""


ROUTER_LOSS = "output_router_logits router_aux_loss_coef"
"""The router's losses and its logits as an output do not alter the logits of the model."""


NORMS = ("input_layernorm", "post_attention_layernorm")
"""What most models call the norms before attention and before the MLP."""


def layer_norm(module: Any) -> Norm:
    """Describe a LayerNorm."""
    eps = getattr(module, "eps", None) or module.variance_epsilon
    return Norm(optional(module.weight), optional(getattr(module, "bias", None)), eps, centred=True)


def rms_norm(module: Any) -> Norm:
    """Describe an RMSNorm."""
    return Norm(module.weight.detach(), None, module.variance_epsilon, centred=False)


def linear(module: Any) -> Linear:
    """Describe an `nn.Linear`, or transformers' `Conv1D`, which is stored [in, out]."""
    weight = module.weight.detach()
    stored = weight.t() if type(module).__name__ == "Conv1D" else weight
    return Linear(stored, optional(module.bias))


def rotary(
    config: Any, module: Any, *, interleaved: bool = False, layers: str | None = None
) -> Rotary:
    """Describe a model's rotary embedding from the table it computed itself.

    `layers`: the type of layers that it serves, in models that have a table for each type.
    """
    prefix = "" if layers is None else f"{layers}_"
    scaling = config.rope_parameters if layers is None else config.rope_parameters[layers]
    kind = scaling["rope_type"]
    if kind not in STATIC_ROTARY + GROWING_ROTARY:
        raise UnsupportedModel(
            f"rotary scaling '{kind}' is not known; known: "
            f"{', '.join(STATIC_ROTARY + GROWING_ROTARY)}."
        )
    built = module.rope_type if layers is None else module.rope_type[layers]
    if built == "ntk_alpha":  # what Hunyuan makes of "dynamic" with `alpha`: a larger base, once
        kind = built
    limit, now = module.original_max_seq_len, config.max_position_embeddings
    if built != kind or (kind == "dynamic" and limit != now):  # edited after it was built
        raise UnsupportedModel(
            f"the config says rotary scaling '{kind}' and {now} positions, but the model was built "
            f"with '{built}' and {limit}; set its config before it is built, not afterwards."
        )
    factor = float(getattr(module, f"{prefix}attention_scaling"))
    if kind in STATIC_ROTARY:
        return Rotary(getattr(module, f"{prefix}inv_freq").detach(), factor, interleaved)
    table = getattr(module, f"{prefix}original_inv_freq").detach()  # the other follows the length
    base, size = scaling["rope_theta"], 2 * len(table)
    if kind == "dynamic":
        growth = Growth(base, scaling["factor"], config.max_position_embeddings)
        return Rotary(table, factor, interleaved, limit=growth.limit, growth=growth)
    stretch = torch.tensor(scaling["long_factor"], dtype=torch.float32, device=table.device)
    steps = torch.arange(0, size, 2, device=table.device).float() / size
    limit = scaling["original_max_position_embeddings"]
    long = (1.0 / (stretch * base**steps)).to(table.dtype)
    return Rotary(table, factor, interleaved, limit=limit, long=long)


def rotary_tables(config: Any, body: Any) -> list[Rotary]:
    """Describe each layer's rotary table: one for all, or one for each kind of layer."""
    if not isinstance(body.rotary_emb.rope_type, dict):
        return [rotary(config, body.rotary_emb)] * len(body.layers)
    kinds = sorted(set(config.layer_types))
    tables = {kind: rotary(config, body.rotary_emb, layers=kind) for kind in kinds}
    return [tables[kind] for kind in config.layer_types]


def window(config: Any, layer: int) -> int | None:
    """Return how far a layer sees, from `sliding_window` and `layer_types`."""
    size: int | None = getattr(config, "sliding_window", None)
    types = getattr(config, "layer_types", None)
    if size is None or (types is not None and types[layer] == "full_attention"):
        return None
    return size


def matrices(
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None] | None,
    output: Any,
    heads: int,
    groups: int | None = None,
    **rest: Any,
) -> Attention:
    """Describe attention by its three matrices and biases, rows by head, and its output module."""
    counts = (heads, groups or heads, groups or heads)
    if heads % counts[1]:
        raise ValueError(f"{heads} query heads cannot share {groups} key/value heads evenly")
    wq, wk, wv = (by_head(weight, n) for weight, n in zip(weights, counts, strict=True))
    bq, bk, bv = (by_head(b, n) for b, n in zip(biases or (None,) * 3, counts, strict=True))
    wo, bo = by_head(output.weight.t(), heads), optional(output.bias)
    return Attention(wq=wq, wk=wk, wv=wv, wo=wo, bq=bq, bk=bk, bv=bv, bo=bo, **rest)


def separate(
    module: Any, output: Any, heads: int, groups: int | None = None, **rest: Any
) -> Attention:
    """Describe attention with modules `q_proj`, `k_proj`, `v_proj` and an output projection."""
    parts = (module.q_proj, module.k_proj, module.v_proj)
    weights, biases = [part.weight for part in parts], [part.bias for part in parts]
    return matrices(weights, biases, output, heads, groups, **rest)


def describe_blocks(
    layers: Iterable[Any],
    norm: Callable[[Any], Norm],
    attention: Callable[[Any, int], Attention | Whole | None],
    mlp: str | Callable[[Any], MLP | Experts | Beside | Whole | None],
    norms: Sequence[str | None] | Callable[[Any], Sequence[str | None]] = NORMS,
) -> tuple[Block, ...]:
    """Describe blocks; `attention` takes a block and its number.

    Both return None where a block has no such part, and a `Whole` for one that is taken whole.
    `mlp` takes a block; where that has its MLP as `mlp` or `ffn`, or is it, the activation will do.
    `norms`: the names of the norms before attention and before the MLP, and of those behind them;
    or what names those of a block.
    """

    def describe(layer: int, block: Any) -> Block:
        names = norms(block) if callable(norms) else norms
        own = (None if name is None else norm(block.get_submodule(name)) for name in names)
        first, second, *behind = own
        part = next(
            (getattr(block, name) for name in ("mlp", "ffn") if hasattr(block, name)), block
        )
        inner = feed_forward(part, mlp) if isinstance(mlp, str) else mlp(block)
        return Block(first, attention(block, layer), second, inner, *behind)

    described = tuple(describe(layer, block) for layer, block in enumerate(layers))
    if not described:
        raise UnsupportedModel(
            "the model has no layers; accepted: a decoder of one layer or more, as the number of "
            "layers in its config says."
        )
    return described


def rotary_decoder(
    family: str,
    model: Any,
    norm: Callable[[Any], Norm],
    *norms: str,
    interleaved: bool = False,
    parallel: bool = False,
    **attention: Any,
) -> LiftedModel:
    """Describe a model with Llama's modules and one rotary table for all layers.

    `norms`: as of `describe_blocks`, if they are others. `attention`: what else all layers have.
    """
    config, body = model.config, model.model
    table = rotary(config, body.rotary_emb, interleaved=interleaved)
    blocks = describe_blocks(
        body.layers,
        norm,
        lambda block, _: rotary_heads(config, block.self_attn, table, **attention),
        config.hidden_act,
        *((norms,) if norms else ()),
    )
    last = norm(body.norm if hasattr(body, "norm") else body.final_layernorm)
    return assemble(family, model, body.embed_tokens, blocks, last, table, parallel=parallel)


def normed_behind(
    model: Any,
    tables: Sequence[Rotary | None],
    mlp: Callable[[Any], MLP | Experts] | None = None,
    **attention: Any,
) -> tuple[Block, ...]:
    """Describe blocks with norms only behind queries, keys, attention and MLP.

    `mlp`: as of `describe_blocks`; default: with the config's activation.
    """
    config = model.config
    return describe_blocks(
        model.model.layers,
        rms_norm,
        lambda block, layer: rotary_heads(
            config, block.self_attn, tables[layer], window=window(config, layer), **attention
        ),
        mlp or config.hidden_act,
        (None, None, "post_attention_layernorm", "post_feedforward_layernorm"),
    )


def fused_heads(
    fused: Any, output: Any, heads: int, groups: int | None = None, **rest: Any
) -> Attention:
    """Describe attention with one projection that holds each group's queries, key and value."""
    groups = groups or heads
    shape = (groups, heads // groups + 2, -1)
    weight = fused.weight.detach().unflatten(0, shape)  # [G, H/G + 2, K, D]
    bias = None if fused.bias is None else fused.bias.detach().unflatten(0, shape)
    parts = (0 if groups == heads else slice(-2), -2, -1)
    q, k, v = (weight[:, part] for part in parts)
    bq, bk, bv = (None if bias is None else bias[:, part] for part in parts)
    rest.setdefault("scale", weight.shape[2] ** -0.5)
    return Attention(
        wq=q, wk=k, wv=v, wo=by_head(output.weight.t(), heads),
        bq=bq, bk=bk, bv=bv, bo=optional(output.bias), **rest,
    )  # fmt: skip


def positions_behind(module: Any) -> Tensor:
    """Return a table of position embeddings without its first rows, which no position takes."""
    table: Tensor = module.weight if hasattr(module, "weight") else module.weights
    return table.detach()[module.offset :]


def alibi_slopes(heads: int, like: Tensor) -> Tensor:
    """Return each head's slope, float32 [H], as the models compute it (Press et al. 2022)."""
    power = 2 ** math.floor(math.log2(heads))

    def steps(of: int, exponents: Tensor) -> Tensor:
        base = torch.tensor(2 ** (-(2 ** -(math.log2(of) - 3))), dtype=torch.float32)
        return torch.pow(base, exponents)

    slopes = steps(power, torch.arange(1, 1 + power))
    if power != heads:
        slopes = torch.cat((slopes, steps(2 * power, torch.arange(1, 1 + 2 * (heads - power), 2))))
    return slopes.to(like.device)


def rotary_heads(
    config: Any,
    module: Any,
    table: Rotary | None,
    head_norm: Callable[[Any], Any] = rms_norm,
    **rest: Any,
) -> Attention:
    """Describe attention with separate projections, rotary positions and the usual scale."""
    for letter, long in ("q", "query"), ("k", "key"):
        for name in (f"{letter}_norm", f"{letter}_layernorm", f"{long}_layernorm"):
            if hasattr(module, name):
                rest[f"{letter}_norm"] = head_norm(getattr(module, name))
    output = module.o_proj if hasattr(module, "o_proj") else module.dense
    heads = rest.pop("heads", config.num_attention_heads)
    groups = config.num_key_value_heads
    rest.setdefault("scale", module.head_dim**-0.5)
    return separate(module, output, heads, groups, rotary=table, **rest)


_PROJECTIONS = (
    ("up_proj", "down_proj"), ("dense_h_to_4h", "dense_4h_to_h"), ("c_fc", "c_proj"),
    ("fc_in", "fc_out"), ("fc1", "fc2"),
)  # fmt: skip
"""What families call the two projections of an MLP."""


def feed_forward(module: Any, activation: str, output_scale: float = 1.0) -> MLP:
    """Describe an MLP, plain or gated, by the names of its modules; gate and up may be packed."""
    activation = require_activation(activation)
    if hasattr(module, "gate_up_proj"):
        gate, up = map(Linear, module.gate_up_proj.weight.detach().chunk(2))
        return MLP(up, linear(module.down_proj), activation, gate)
    own = linear(module.gate_proj) if hasattr(module, "gate_proj") else None
    first, second = next(pair for pair in _PROJECTIONS if hasattr(module, pair[0]))
    projections = linear(getattr(module, first)), linear(getattr(module, second))
    return MLP(*projections, activation, own, output_scale)


def mixture(
    module: Any, activation: str, chosen: int, renormalise: bool = False, **rest: Any
) -> Experts:
    """Describe a router and packed experts, with a shared one where there is any.

    `rest`: further fields of `Experts`, among them the `routing` where it is not the usual.
    """
    if "router" not in rest:
        router = module.gate if hasattr(module, "gate") else module.router
        rest["router"] = (router.gate if hasattr(router, "gate") else router).weight.detach()
    both, down = module.experts.gate_up_proj.detach(), module.experts.down_proj.detach()
    if both.shape[-1] != rest["router"].shape[-1]:  # stored [in, out]
        both, down = both.mT, down.mT
    gate, up = both.chunk(2, 1)
    shared = next(
        (getattr(module, n) for n in ("shared_expert", "shared_experts") if hasattr(module, n)),
        None,
    )
    if shared is not None:
        own = getattr(module, "shared_expert_gate", None)
        weight = None if own is None else own.weight.detach()
        rest["shared"] = SharedExpert(feed_forward(shared, activation), weight)
    return Experts(
        gate=gate, up=up, down=down, chosen=chosen,
        activation=require_activation(activation), renormalise=renormalise, **rest,
    )  # fmt: skip


def corrected(router: Any, holder: Any = None, **rest: Any) -> Routing:
    """Describe DeepSeek V3's routing: groups, and sigmoid scores that a tensor corrects.

    `router`: the module; `holder`: the one that has the tensor, if that is another. `rest`: fields
    of `Routing` that differ.
    """
    correction = (holder or router).e_score_correction_bias.detach()
    usual = {
        "groups": getattr(router, "num_group", 1), "open_groups": getattr(router, "topk_group", 1),
        "scale": getattr(router, "routed_scaling_factor", 1.0),
    }  # fmt: skip
    own = {"score": "sigmoid", "wide": True, "best": 2, "epsilon": 1e-20}
    return Routing(**{**own, **usual, "correction": correction, **rest})


def sparse_or_dense(
    config: Any, module: Any, routing: Callable[[], Routing] | None = None, **rest: Any
) -> MLP | Experts:
    """Describe a layer's MLP module, which is a mixture where it has experts.

    `routing`: what to make of it; default: DeepSeek V3's. `rest`: further fields of `Experts`.
    """
    if not hasattr(module, "experts"):
        return feed_forward(module, config.hidden_act)
    how = corrected(module.gate) if routing is None else routing()
    router = module.gate if hasattr(module, "gate") else module.router
    usual = {"renormalise": getattr(router, "norm_topk_prob", True), "round_weights": False}
    chosen = config.num_experts_per_tok
    return mixture(module, config.hidden_act, chosen, routing=how, **{**usual, **rest})


def latent_heads(config: Any, module: Any, table: Rotary | None, **rest: Any) -> Attention:
    """Describe DeepSeek's attention: queries, keys and values through smaller spaces.

    Each head's own features stand before those that turn, which in keys all heads share; without a
    `table` nothing turns.
    """
    heads, own = config.num_attention_heads, config.qk_nope_head_dim
    up, down = by_head(module.kv_b_proj.weight, heads), linear(module.kv_a_proj_with_mqa)
    norm, rank = rms_norm(module.kv_a_layernorm), up.shape[-1]
    inner = Linear(down.weight[:rank], None if down.bias is None else down.bias[:rank])
    if getattr(module, "q_a_proj", None) is None:
        query, before = module.q_proj, None
    else:
        query = module.q_b_proj
        before = Latent(linear(module.q_a_proj), rms_norm(module.q_a_layernorm))
    rest.setdefault("scale", module.scaling)
    return Attention(
        wq=by_head(query.weight, heads), wk=up[:, :own], wv=up[:, own:],
        wo=by_head(module.o_proj.weight.t(), heads), bq=by_head(query.bias, heads),
        bk=None, bv=None, bo=optional(module.o_proj.bias),
        rotary=None if table is None else replace(table, start=own),
        q_latent=before, k_latent=Latent(down, norm), v_latent=Latent(inner, norm), **rest,
    )  # fmt: skip


def apart(module: Any, heads: int, gate: Any) -> dict[str, Any]:
    """Describe a gate of heads' outputs by its module and activation, for `Attention`."""
    return {"wgate": by_head(module.weight, heads), "gate": gate}


def words(
    blocks: Sequence[Block], *, positions: str, tied: bool, parallel: bool = False
) -> dict[str, str]:
    """Say in words what was found in a model."""
    heads = [b.attention for b in blocks if isinstance(b.attention, Attention)]
    whole = Counter(b.attention.words for b in blocks if isinstance(b.attention, Whole))
    mlps = Counter(b.mlp.words for b in blocks if b.mlp is not None)
    attention = heads[0] if heads else None
    biases: dict[str, Tensor | None] = {}
    if attention is not None:
        biases = {
            letter: bias if latent is None else latent.down.bias
            for letter, bias, latent in (
                ("q", attention.bq, attention.q_latent),
                ("k", attention.bk, attention.k_latent),
                ("v", attention.bv, attention.v_latent),
            )
        } | {"o": attention.bo}
    biases["mlp"] = next((b.mlp.bias for b in blocks if b.mlp is not None), None)
    found = {
        "norm": _counted(Counter(map(norm_words, blocks)), len(blocks)),
        "positions": positions,
        "block": "parallel" if parallel else "sequential",
    }
    if attention is not None:
        size = f"{attention.heads} heads of {attention.size}"
        found["attention"] = f"{size}, {attention.kv_heads} key/value heads"
        found["window"] = ", ".join(sorted({_span(one) for one in heads}))
    if whole:
        found["token mixer"] = _counted(whole, len(blocks))
    found["biases"] = ", ".join(n for n, bias in biases.items() if bias is not None) or "none"
    found["MLP"] = _counted(mlps, len(blocks)) or "none"
    found["unembedding"] = "tied" if tied else "untied"
    if attention is None:
        return found
    if attention.q_norm is not None:
        own = ", with weights of its own" if isinstance(attention.q_norm, tuple) else ""
        together = attention.norm_together
        found["q/k norms"] = "of all heads together" if together else f"per head{own}"
    if attention.k_latent is not None:
        through = [f"keys and values through {attention.wk.shape[-1]} features"]
        if attention.q_latent is not None:
            through.insert(0, f"queries through {attention.wq.shape[-1]}")
        found["attention"] += f", {', '.join(through)}"
    if shared := sum(block.shared is not None for block in blocks):
        found["keys and values"] = f"of an earlier layer in {shared} layers"
    if given := {block.given for block in blocks if block.gate is not None}:
        sizes = " and ".join(map(str, sorted(given)))
        found["embeddings per layer"] = f"{sizes} features, gated behind the MLP"
    if attention.gate is not None:
        found["gate of heads"] = attention.gate
    if attention.sinks is not None:
        found["sinks"] = "one score of nothing per head"
    if attention.clip is not None:
        found["clip"] = f"queries, keys and values to ±{attention.clip:g}"
    return found


def _span(attention: Attention) -> str:
    """Say in words how far a layer sees."""
    if attention.chunk is not None:
        return f"chunks of {attention.chunk}"
    return str(attention.window or "full")


def _counted(what: Counter[str], layers: int) -> str:
    """Say what layers have, and how many of them where it is not all."""
    each = [f"{one} ({n} layer{'s' * (n > 1)})" if n < layers else one for one, n in what.items()]
    return "; ".join(each)


def norm_words(block: Block) -> str:
    """Say in words which norms a block has, and where."""
    before = [block.attention_norm, block.mlp_norm]
    after = [block.attention_post_norm, block.mlp_post_norm]
    one = next((norm for norm in (*before, *after) if norm is not None), None)
    if one is None:
        return "none"
    kind = "LayerNorm" if one.centred else "RMSNorm"
    kind += "" if one.weight is not None else " without weight"
    kind += " (1 + w)" if one.offset else ""
    where = f", {'also' if any(before) else 'only'} after attention and MLP"
    return kind + where if any(after) else kind


def assemble(
    family: str,
    model: Any,
    embedding: Any,
    blocks: tuple[Block, ...],
    final_norm: Norm | Gathered | None,
    positions: str | Rotary,
    *,
    table: Tensor | None = None,
    max_positions: int | None = None,
    parallel: bool = False,
    **rest: Any,
) -> LiftedModel:
    """Put a description together; `rest` are further fields of `LiftedModel`.

    `positions`: how positions enter, in words or as the rotary table of the layers that turn.
    `table`: learned position embeddings, [positions, D]; without one, prompts are as long as
    `max_positions`. `parallel`: attention and MLP of a block read the same stream.
    """
    heads = [block.attention for block in blocks if isinstance(block.attention, Attention)]
    head = model.get_output_embeddings()
    if not isinstance(positions, str):
        without = sum(attention.rotary is None for attention in heads)
        turning = next((one.rotary for one in heads if one.rotary), positions)
        size = heads[0].size if heads else turning.size
        positions = rotary_words(model.config, turning, size, without)
    tied = bool(head.weight.data_ptr() == embedding.weight.data_ptr())
    mixtures = [block.mlp if isinstance(block.mlp, Experts) else None for block in blocks]
    counts = sorted({attention.heads for attention in heads})
    if len(counts) > 1:
        raise UnsupportedModel(
            f"the model's layers have {' and '.join(map(str, counts))} heads; accepted: the same "
            "number in every layer."
        )
    groups = min((attention.kv_heads for attention in heads), default=0)
    post_norms = {b.attention_post_norm is not None for b in blocks if b.mixer == HEADS}
    if len(post_norms) > 1:
        raise UnsupportedModel("some layers of the model have a norm behind attention, some not.")
    graph = ComputationGraph(
        len(blocks), sum(counts), groups, parallel,
        post_norm=post_norms == {True},
        experts=tuple(m.senders if m else 0 for m in mixtures),
        shared_experts=any(m.shared is not None and m.senders for m in mixtures if m),
        mixers=tuple(block.mixer for block in blocks),
        without_mlp=tuple(i for i, block in enumerate(blocks) if block.mlp is None),
        kv_sources=tuple(b.shared.source if b.shared else i for i, b in enumerate(blocks)),
    )  # fmt: skip
    variants = words(blocks, positions=positions, tied=tied, parallel=parallel)
    own = (blocks, final_norm, linear(head), graph, variants)
    most = max_positions if table is None else len(table)
    return LiftedModel(family, embedding.weight.detach(), table, *own, most, **rest)


def rotary_words(config: Any, table: Rotary, head: int, without: int = 0) -> str:
    """Say in words how positions enter; `without`: in how many layers they do not."""
    end = "last" if table.start else "first"
    share = "" if table.size == head else f", {end} {table.size} of {head} features"
    share += ", interleaved" if table.interleaved else ""
    share += f", none in {without} layer{'s' * (without > 1)}" if without else ""
    scaling = config.rope_parameters
    of_kinds = sorted((kind, v) for kind, v in scaling.items() if isinstance(v, dict))
    if not of_kinds:
        return f"rotary ({scaling['rope_type']}), base {scaling['rope_theta']:g}{share}"
    each = [f"{v['rope_theta']:g} ({v['rope_type']}, {kind})" for kind, v in of_kinds]
    return f"rotary, base {', '.join(each)}{share}"
