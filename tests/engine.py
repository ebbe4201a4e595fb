"""Tiny random models of every lifted family, and the definition of a circuit's run, spelled out."""

from __future__ import annotations

import hashlib
import random
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from edgewise.graphs.graph import WHOLE
from edgewise.graphs.lift.lifted import Attention, AttentionContext, LiftedModel, Norm
from edgewise.graphs.lift.lifting import describe
from edgewise.graphs.names import Kind, Port
from edgewise.patching.ablations.registry import ablations, get_ablation
from edgewise.patching.prompts.pairs import Pair, PromptPairs
from edgewise.patching.run.chunk import Chunk
from edgewise.patching.run.runner import Runner
from tests.configs import ALL, CONFIGS
from tests.configs_whole import WHOLE_CONFIGS

LEARNED = "optimal"
"""The ablation that learns first, which takes long; it has tests of its own."""

ABLATIONS = [name for name in ablations() if name != LEARNED]
WITH_GROUPS = [("resample", False), ("resample", True), ("zero", False), ("zero", True),
               ("mean", True), ("position-mean", False)]  # fmt: skip
"""Ablations, each with one port or one for each group of heads where key/value heads are shared."""


UNGROUPED = ("mimo", "gemma4")


def held(model: LiftedModel, port: Port) -> int:
    """Count the features that a port holds: of the stream, and what an MLP is given past it."""
    mlp = port.node.kind is Kind.MLP and port.node.layer is not None
    return model.d_model + (model.blocks[port.node.layer].given if mlp else 0)


def moved_by(chunk: Chunk, port: Port, gradient: Tensor) -> Tensor:
    """Multiply what every sender brings to a port, clean minus ablated, with a gradient, [S]."""
    width = chunk.model.d_model
    total = chunk.delta @ gradient[..., :width].flatten()
    if gradient.shape[-1] > width:
        past = chunk.given_delta[port.node.layer] * gradient[..., width:]
        total[0] += past.sum()
    return total


def tiny_model(name: str, seed: int = 0, dtype: torch.dtype = torch.float64) -> Any:
    """Make a random model whose every parameter (biases and norms too) is far from its default.

    So are the buffers that correct routers' scores or multiply the stream.
    """
    config_class, model_class, options = ALL[name]
    torch.manual_seed(seed)
    model = model_class(config_class(**deepcopy(options))).eval()  # tests change what they get
    with torch.no_grad():
        for parameter in model.parameters():
            spread = 0.3 if parameter.dim() > 1 else 0.5
            parameter.add_(torch.randn_like(parameter) * spread)
        for key, buffer in model.named_buffers():
            if "correction_bias" in key or "expert_bias" in key:
                buffer.add_(torch.randn_like(buffer) * 0.5)
            if key.endswith("layer_scalar"):
                buffer.mul_(torch.rand_like(buffer) + 0.5)
    return model.to(dtype)


def one_of_each_type(copies: bool = True) -> dict[str, str]:
    """Map each model type to the first configuration of it; near copies are left out on wish."""
    found: dict[str, str] = {}
    for name, (config, _, _) in (ALL if copies else {**CONFIGS, **WHOLE_CONFIGS}).items():
        found.setdefault(config.model_type, name)
    return found


def tiny_lift(
    name: str, seed: int = 0, dtype: torch.dtype = torch.float64, **graph: Any
) -> LiftedModel:
    """Lift a tiny random model; one whose layers differ in their groups of heads without groups."""
    if name in UNGROUPED:
        graph["grouped_kv"] = False
    return describe(tiny_model(name, seed, dtype), **graph)


def tiny_pairs(
    seed: int = 0, lengths: tuple[int, ...] = (6, 6, 6), vocabulary: int = 31, shared: bool = True
) -> PromptPairs:
    """Make random pairs that differ in some tokens; answers stand before the end in some."""
    draw = random.Random(seed)
    pairs = []
    for i, length in enumerate(lengths):
        clean = [draw.randrange(vocabulary) for _ in range(length)]
        same = draw.randrange(max(1, length - 1)) if shared else 0  # tokens before the first change
        corrupted = [
            draw.randrange(vocabulary) if t > same and draw.random() < 0.5 else token
            for t, token in enumerate(clean)
        ]
        corrupted[same] = (clean[same] + draw.randrange(1, vocabulary)) % vocabulary
        answer, wrong, other = draw.sample(range(vocabulary), 3)
        position = length - 1 - (i % 2 if length > 2 else 0)
        answers = (answer, other) if i % 3 == 0 else (answer,)
        pairs.append(Pair(tuple(clean), tuple(corrupted), answers, (wrong,), position))
    return PromptPairs(tuple(pairs), name="tiny")


def whole(chunk: Chunk) -> AttentionContext:
    """Return the attention context of a chunk without a window."""
    return AttentionContext(chunk.batch.mask, chunk.batch.position_ids)


def ablated_values(runner: Runner, chunk: Chunk) -> list[Tensor]:
    """Return what every sender's ablated edges carry, by the definitions, one sender at a time."""
    model, every = runner.model, runner.reference.batch()
    everywhere = AttentionContext(every.mask, every.position_ids)
    if runner.ablation.name == "resample":
        return naive_values(model, chunk.batch.corrupted, whole(chunk))
    if runner.ablation.name == "zero":
        return [torch.zeros((), dtype=model.dtype)] * len(model.graph.senders)
    if runner.ablation.name == "noise":
        return noisy_values(runner, chunk)
    if runner.ablation.name == "counterfactual-mean":
        return partners_values(runner, chunk)
    wrote = naive_values(model, every.clean, everywhere)
    if runner.ablation.name == "mean":
        return [x[every.mask].mean(0) for x in wrote]
    assert runner.ablation.name == "position-mean"
    return [x.mean(0) for x in wrote]


def partners_values(runner: Runner, chunk: Chunk) -> list[Tensor]:
    """Return the mean of what every sender writes on all corrupted prompts like the example's.

    These are of its length, answer position and group; for references in which no more are alike
    than the ablation averages over.
    """
    batch, every = chunk.batch, runner.reference.pairs
    alike: dict[tuple[int, int, str], dict[tuple[int, ...], None]] = {}
    for pair in every:
        shape = len(pair.clean), pair.answer_position, pair.group
        alike.setdefault(shape, {})[tuple(pair.corrupted or ())] = None
    assert max(map(len, alike.values())) <= 10
    rows: list[list[Tensor]] = []
    for row, (mask, own) in enumerate(zip(batch.mask, batch.corrupted[:, None], strict=True)):
        shape = next(
            (len(pair.clean), pair.answer_position, pair.group)
            for pair in every
            if tuple(own[0][mask].tolist()) == tuple(pair.corrupted or ())
            and tuple(batch.clean[row][mask].tolist()) == pair.clean
        )
        context = AttentionContext(mask[None], batch.position_ids[row][None])
        total: list[Tensor] = []
        for partner in alike[shape]:
            ids = own.clone()
            ids[0, mask] = torch.tensor(partner)
            wrote = naive_values(runner.model, ids, context)
            total = [a + b for a, b in zip(total, wrote, strict=True)] if total else wrote
        rows.append([x / len(alike[shape]) for x in total])
    return [torch.cat(column) for column in zip(*rows, strict=True)]


def noisy_values(runner: Runner, chunk: Chunk) -> list[Tensor]:
    """Return what every sender writes on average where noise is added to the embeddings."""
    model, batch = runner.model, chunk.batch
    tokens = [token for pair in runner.reference.pairs for token in pair.clean]
    sigma = 3 * float(embedding(model, torch.tensor([tokens]))[0][..., : noisy(model)].std())
    everything = torch.from_numpy(np.ones_like(model.graph.reads, dtype=float))
    zeros = [torch.zeros(())] * len(model.graph.senders)
    total: list[Tensor] = []
    for draw in range(10):
        given = [x.clone() for x in embedding(model, batch.clean, batch.position_ids)]
        for row, (ids, real) in enumerate(zip(batch.clean, batch.mask, strict=True)):
            noise = drawn_noise(ids[real].tolist(), noisy(model))[draw]
            given[0][row, real, : noisy(model)] += sigma * noise.to(given[0])
        wrote, _ = naive_run(model, batch.clean, whole(chunk), zeros, everything, sources=given)
        total = [a + b for a, b in zip(total, wrote, strict=True)] if total else wrote
    return [x / 10 for x in total]


def embedding(model: LiftedModel, ids: Tensor, places: Tensor | None = None) -> list[Tensor]:
    """Return what the embedding's senders write; behind the first what layers are given past it."""
    places = torch.zeros_like(ids) if places is None else places
    first, *rest = model.embed(ids, places).unbind(0)
    return [torch.cat((first, *model.give(ids)), -1), *rest]


def noisy(model: LiftedModel) -> int:
    """Count the features of the embedding that noise is added to."""
    return model.embedded + model.given


def drawn_noise(ids: list[int], width: int) -> Tensor:
    """Draw, by its definition, what is added to a prompt's embeddings, in deviations."""
    seed = int.from_bytes(hashlib.sha256(f"0: {ids}".encode()).digest()[:7], "big")
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(10, len(ids), width, generator=generator)


def fitting(ablation: str, lengths: tuple[int, ...]) -> tuple[int, ...]:
    """Return lengths of prompts that an ablation takes: some need prompts of one length."""
    return (max(lengths),) * len(lengths) if get_ablation(ablation).aligned else lengths


def naive_values(model: LiftedModel, ids: Tensor, context: AttentionContext) -> list[Tensor]:
    """Return what every sender writes on token ids, by the plain definition, one at a time."""
    everything = np.ones_like(model.graph.reads, dtype=float)
    zeros = [torch.zeros(())] * len(model.graph.senders)
    return naive_run(model, ids, context, zeros, torch.from_numpy(everything))[0]


def naive_run(
    model: LiftedModel,
    ids: Tensor,
    context: AttentionContext,
    ablated: list[Tensor],
    mask: Tensor,
    offsets: dict[int, Tensor] | None = None,
    sources: list[Tensor] | None = None,
) -> tuple[list[Tensor], Tensor]:
    """Run a circuit as the definition says: x_p = Σ m o_u + Σ (1 − m) a_u + constants.

    `mask` [ports, senders] may be soft; `offsets` are added to ports, by row. Returns what
    senders wrote and the stream at `logits`. `sources`: what the embedding writes.

    Behind the stream's features stand those that the embedding gives to single layers' MLPs.
    """
    graph, width = model.graph, model.d_model
    wrote = list(sources or embedding(model, ids, context.position_ids))
    ends = [
        width,
        *(width + sum(b.given for b in model.blocks[: i + 1]) for i in range(graph.layers)),
    ]

    def stream(row: int, layer: int) -> Tensor:
        total = torch.zeros_like(wrote[0])
        for column in np.flatnonzero(graph.reads[row]):
            m = mask[row, column]
            for share, value in ((m, wrote[column]), (1 - m, ablated[column])):
                value = pad(value, (0, ends[-1] - value.shape[-1])) if value.dim() else value
                total = total + share * value
        node, parts = graph.ports[row].node, [total[..., :width]]
        if node.kind is Kind.MLP and node.layer is not None:
            parts.append(total[..., ends[node.layer] : ends[node.layer + 1]])
        total = torch.cat(parts, -1)
        if offsets is not None:
            total = total + offsets[row]
        if not graph.post_norm:
            for block in model.blocks[:layer]:
                if isinstance(block.attention, Attention) and block.attention.constant is not None:
                    total = total + pad(block.attention.constant, (0, total.shape[-1] - width))
        return total

    rows = {
        (p.node.kind, p.node.layer, p.node.index, p.letter): i for i, p in enumerate(graph.ports)
    }
    for layer, block in enumerate(model.blocks):
        attention = block.attention
        if graph.mixer(layer) == WHOLE:
            x = stream(rows[Kind.MIXER, layer, None, None], layer)
            wrote.append(block.write_whole(x, context))
        for head in range(graph.heads_of(layer)):
            assert isinstance(attention, Attention)
            inputs = []
            for letter in "qkv":
                group = head // attention.group_size
                grouped = graph.grouped_kv and letter != "q"
                kind, index = (Kind.KV, group) if grouped else (Kind.HEAD, head)
                x = block.read(stream(rows[kind, layer, index, letter], layer), letter)
                weight, bias = attention.projection(letter)
                at = head if letter == "q" else group
                x, shared = before(attention, letter, x)
                y = x @ weight[at].t() + (0 if bias is None else bias[at])
                y = torch.cat((y, shared), -1)
                if attention.norm_together and letter != "v":
                    y = together(attention, letter, x)[..., at, :]
                inputs.append(y[..., None, :])
            z = attention.mix(*inputs, context, heads=[head])[..., 0, :]
            wrote.append(z @ attention.wo[head] * attention.output_scale)
        if graph.has_post(layer):
            assert isinstance(attention, Attention)
            summed = stream(rows[Kind.POST, layer, None, None], layer)
            constant = attention.constant
            wrote.append(block.write_post(summed if constant is None else summed + constant))
        if not graph.has_mlp(layer):
            continue
        after = layer if graph.parallel else layer + 1
        wrote += block.writes(stream(rows[Kind.MLP, layer, None, None], after)).unbind(0)
    return wrote, stream(len(graph.ports) - 1, len(model.blocks))


def before(attention: Attention, letter: str, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return what a letter's heads project, and what stands behind each head's projection."""
    latent = attention.latent(letter)
    if latent is None:
        return x, x[..., :0]
    size = attention.projection(letter)[0].shape[-1]
    y = x @ latent.down.weight.t() + (0 if latent.down.bias is None else latent.down.bias)
    inner, shared = y[..., :size], y[..., size:]
    if (norm := latent.norm) is not None:
        assert norm.weight is not None
        inner = inner / root(norm, inner.square().mean(-1, keepdim=True)) * norm.weight
    return inner, shared


def together(attention: Attention, letter: str, x: Tensor) -> Tensor:
    """Project one port's own input through every head and divide by the root mean square of all."""
    weight, bias = attention.projection(letter)
    y = torch.stack([x @ w.t() for w in weight], -2)  # [B, T, H or G, K]
    y = y if bias is None else y + bias
    norm = attention.q_norm if letter == "q" else attention.k_norm
    assert isinstance(norm, Norm)
    assert norm.weight is not None
    size = root(norm, y.square().mean((-2, -1), keepdim=True))
    return y / size * norm.weight.view(y.shape[-2:])


def root(norm: Norm, square: Tensor) -> Tensor:
    """Return the size that a norm divides by; a gradient rule can take it for a constant."""
    size = (square + norm.eps).sqrt()
    return size.detach() if norm.constant else size


def random_mask(graph: Any, density: float, seed: int) -> np.ndarray:
    """Keep each edge with a probability."""
    return graph.reads & (np.random.default_rng(seed).random(graph.reads.shape) < density)
