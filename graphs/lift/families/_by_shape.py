"""Describe a model of any type by the shape of its modules: what is not known is taken whole.

The structure of each layer is found by watching it run (see ../own/structure.py). An attention of
Llama's shape is split into heads, and an MLP described, if what the description computes is what
the module gave; any other part is a node that runs the module itself. What this cannot place is
refused; the guards of lifting.py and the certificate decide as ever.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import Linear as TorchLinear
from torch.nn import Module

from ...errors import UnsupportedModel
from ..attention import project
from ..experts import Experts, SharedExpert
from ..lifted import (
    ACTIVATIONS,
    MLP,
    Attention,
    AttentionContext,
    Block,
    LiftedModel,
    Linear,
    Norm,
    Rotary,
    Whole,
)
from ..live.untouched import untouched
from ..own.observing import Observed, OwnCalls, decoder_layers, observed, run_own
from ..own.structure import Core, Section, close, factors, nearest, norm_of, outermost, sections_of
from ..whole import WholePart
from ._experts_by_shape import mixtures, routed_alike, stacks_of
from ._parts import GROWING_ROTARY, assemble, linear, rotary, separate

TOKENS = 9  # of the prompt that is watched, at least
LONGEST_WINDOW = 128  # that a watched prompt is made longer than


def describe_by_shape(model: Any, name: str = "by shape") -> LiftedModel:
    """Describe a live model for causal language modelling by what its modules do."""
    return _Watched(model, name).describe()


@dataclass(frozen=True)
class _Found:
    """What a layer's parts are: its token mixer and its MLP, with the section each stands in."""

    mixer: tuple[Section, tuple[Core, ...]] | None
    mlp: tuple[Section, tuple[Core, ...]] | None
    parallel: bool


class _Watched:
    """One run of a model's own code, and what is read from it."""

    def __init__(self, model: Any, name: str) -> None:
        self.model, self.family = model, name
        self.config = model.config
        self.modules: dict[str, Module] = dict(model.named_modules())
        self.names = {id(module): key for key, module in self.modules.items()}
        count = getattr(self.config, "num_hidden_layers", None)
        layers = decoder_layers(model, count) if isinstance(count, int) else None
        if not layers:
            raise UnsupportedModel(self._no("it has no list of layers"))
        self.layers = [self.names[id(layer)] for layer in layers]
        self.known = sorted(set(_numbers(self.config.to_dict())))
        self.eps = [x for x in self.known if 0 < x < 1e-2]
        vocabulary = model.get_input_embeddings().weight.shape[0]
        generator = torch.Generator().manual_seed(0)
        window = getattr(self.config, "sliding_window", None)
        self.window = window if isinstance(window, int) else None
        self.length = TOKENS
        if self.window is not None and self.window <= LONGEST_WINDOW:
            self.length = max(TOKENS, self.window + 3)
        self.ids = torch.randint(1, max(2, vocabulary), (1, self.length), generator=generator)
        with untouched(model), observed(self.modules) as calls:
            self.logits: Tensor = run_own(model, self.ids).logits
        self.calls: list[Observed] = calls
        mask = torch.ones(1, self.length, dtype=torch.bool, device=self.logits.device)
        positions = torch.arange(self.length, device=mask.device)[None]
        self.context = AttentionContext(mask, positions)
        self.tables = self._rotary_tables()
        self.routed: dict[type, int] = {}  # which of a mixture's possible routings was found

    def _no(self, why: str) -> str:
        kind = self.config.model_type
        return f"a model of type '{kind}' cannot be lifted by the shape of its modules: {why}."

    @torch.no_grad()
    def describe(self) -> LiftedModel:
        """Put the description together."""
        try:
            return self._described()
        except UnsupportedModel as error:
            if str(error).startswith("a model of type"):
                raise
            raise UnsupportedModel(self._no(str(error).rstrip("."))) from None

    def _described(self) -> LiftedModel:
        embedding = self.model.get_input_embeddings()
        stream, embed = self._embedding(embedding)
        found = []
        for layer in self.layers:
            call = self._only(layer)
            calls = outermost(layer, self.calls, self.modules)
            if layer == self.layers[0] and (first := self._norm_before(stream, calls)):
                embed["embed_norm"], stream, calls = first
            if not close(stream if layer == self.layers[0] else call.given, stream):
                raise UnsupportedModel(f"{layer} does not read what the layer before it returned")
            steps = sections_of(layer, stream, calls, call.output, self.known, self.eps)
            found += self._parts_of(layer, steps)
            stream = call.output
        parallel = {one.parallel for one in found if one.mixer and one.mlp}
        if len(parallel) > 1:
            raise UnsupportedModel("some of its layers are parallel, and some are not")
        blocks = tuple(self._block(one) for one in found)
        final_norm, rest = self._end(stream)
        heads = [b.attention for b in blocks if isinstance(b.attention, Attention)]
        turning = next((one.rotary for one in heads if one.rotary is not None), None)
        words: Any = "as its mixers take them" if turning is None else turning
        return assemble(
            self.family, self.model, embedding, blocks, final_norm, words,
            parallel=parallel == {True}, **embed, **rest,
        )  # fmt: skip

    def _only(self, name: str) -> Observed:
        calls = [call for call in self.calls if call.name == name]
        if len(calls) != 1:
            raise UnsupportedModel(f"{name} runs {len(calls)} times in a forward pass, not once")
        return calls[0]

    # -- the ends of the stream ---------------------------------------------------------------

    def _embedding(self, embedding: Any) -> tuple[Tensor, dict[str, Any]]:
        """Return what the first layer reads, and how it comes from the tokens' embeddings."""
        stream = self._only(self.layers[0]).given
        token = embedding.weight.detach()[self.ids.to(embedding.weight.device)].to(stream)
        scale = factors(stream, [token], self.known + [x**0.5 for x in self.known if x > 0])
        if scale is not None:
            return stream, {"embed_scale": scale[0]}
        for call in self.calls:
            module = self.modules[call.name]
            if call.reads_stream and close(call.output, stream) and close(call.given, token):
                norm = norm_of(module, call.given, call.output, self.eps)
                if norm is not None:
                    return stream, {"embed_norm": norm}
        raise UnsupportedModel("its first layer reads more than the embeddings of the tokens")

    def _norm_before(
        self, stream: Tensor, calls: list[Any]
    ) -> tuple[Norm, Tensor, list[Any]] | None:
        """Return a norm with which the first layer begins its stream, and what follows it."""
        if len(calls) < 2:
            return None
        (first, module), (second, _) = calls[:2]
        norm = norm_of(module, first.given, first.output, self.eps)
        begins = norm is not None and close(first.given, stream)
        if norm is None or not begins or not close(second.given, first.output):
            return None
        if norm_of(self.modules[second.name], second.given, second.output, self.eps) is None:
            return None
        return norm, first.output, calls[1:]

    def _end(self, stream: Tensor) -> tuple[Norm | None, dict[str, Any]]:
        """Return the final norm, and by what logits differ from the unembedding's output."""
        head = self._only(self.names[id(self.model.get_output_embeddings())])
        final: Norm | None = None
        normed = stream
        for call in self.calls:
            inside = any(call.name.startswith(f"{layer}.") for layer in self.layers)
            if inside or call is head or not call.reads_stream or not close(call.given, stream):
                continue
            norm = norm_of(self.modules[call.name], call.given, call.output, self.eps)
            if norm is not None:
                final, normed = norm, call.output
        before = factors(head.given, [normed], self.known)
        after = factors(self.logits, [head.output.to(self.logits)], self.known)
        if before is None:
            raise UnsupportedModel("its unembedding reads something else than a norm of the stream")
        out = head.output.to(self.logits)
        caps = [x for key, x in self.config.to_dict().items() if "cap" in key and x]
        bent = [(cap, (out / cap).tanh() * cap) for cap in caps if isinstance(cap, float)]
        cap = nearest([*bent, (0.0, out if after is None else out * after[0])], self.logits)
        if cap:  # small logits are hardly bent, so the nearest counts
            return final, {"logit_scale": before[0], "logit_softcap": cap}
        if after is None:
            raise UnsupportedModel("its logits are not what its unembedding gives")
        if before[0] != 1 and self.model.get_output_embeddings().bias is not None:
            raise UnsupportedModel("its unembedding has a bias and a scale")
        return final, {"logit_scale": before[0] * after[0]}

    # -- a layer's parts ----------------------------------------------------------------------

    def _parts_of(self, layer: str, steps: list[list[Section]]) -> list[_Found]:
        """Tell mixers from MLPs: what a position gives depends on others, or on itself alone.

        A layer with several mixers, or an MLP before its mixer, is several layers of the graph.
        """
        found: list[_Found] = []
        for step in steps:
            here: dict[bool, list[tuple[Section, tuple[Core, ...]]]] = {True: [], False: []}
            for section in step:
                kinds = [self._mixes(core) for core in section.cores]
                for kind, into in here.items():
                    own = tuple(c for c, k in zip(section.cores, kinds, strict=True) if k == kind)
                    if own:
                        into.append((section, own))
            mixers, mlps = here[True], here[False]
            if len(mixers) > 1 or len(mlps) > 1:
                raise UnsupportedModel(f"{layer} has several parts of a kind beside each other")
            mixer, mlp = (one[0] if one else None for one in (mixers, mlps))
            if mixer and mlp and mixer[0] is mlp[0] and mixer[0].post_norm is not None:
                raise UnsupportedModel(f"{layer} normalises its mixer and MLP together")
            if mixer is None and found and found[-1].mlp is None:
                found[-1] = replace(found[-1], mlp=mlp)  # behind a mixer
            else:
                found.append(_Found(mixer, mlp, bool(mixer and mlp)))
        return found

    def _mixes(self, core: Core) -> bool:
        """Tell whether a part's output at a position depends on what stands at others."""
        whole = self._whole((core,), alone=False)
        changed = core.given.clone()
        changed[:, 2] = 1.5 * changed[:, 2].flip(-1)  # of another sign it could give the same
        old, new = (whole(x / core.input_scale, self.context) for x in (core.given, changed))
        moved = (old - new).abs()
        own, others = float(moved[:, 2].max()), moved[:, [0, 1, *range(3, self.length)]]
        return float(others.max()) > 1e-3 * own

    def _block(self, found: _Found) -> Block:
        """Describe a layer."""
        attention: Attention | Whole | None = None
        mlp: MLP | Experts | Whole | None = None
        norms: list[Norm | None] = [None] * 4
        if found.mixer is not None:
            section, cores = found.mixer
            attention = self._attention(cores) or self._whole(cores, alone=False)
            norms[0], norms[2] = section.norm, section.post_norm
        if found.mlp is not None:
            section, cores = found.mlp
            mlp = self._mlp(cores) or self._experts(cores) or self._whole(cores, alone=True)
            norms[1], norms[3] = section.norm, section.post_norm
            if isinstance(mlp, Experts) and section.post_norm is not None:
                mlp = replace(mlp, together=True)
        return Block(norms[0], attention, norms[1], mlp, norms[2], norms[3])

    def _whole(self, cores: tuple[Core, ...], *, alone: bool) -> Whole:
        parts = tuple(
            WholePart(core.name, core.module, core.input_scale, core.output_scale) for core in cores
        )
        label = " + ".join(type(core.module).__name__ for core in cores)
        names = [core.name for core in cores]
        kinds = [getattr(module, "rope_type", "") for module in self.modules.values()]
        if not alone and any(kind in str(kinds) for kind in GROWING_ROTARY):
            raise UnsupportedModel(
                "its rotary frequencies follow the length of each prompt, so that no mixer can be "
                "taken whole"
            )
        return Whole(parts, None if alone else OwnCalls(self.model, names), label=label)

    def _rotary_tables(self) -> list[Rotary]:
        found = []
        for module in self.modules.values():
            own: Any = getattr(module, "rope_type", None)
            if own is None:
                continue
            kinds: list[str | None] = sorted(own) if isinstance(own, dict) else [None]
            for kind, turned in itertools.product(kinds, (False, True)):
                try:
                    found.append(rotary(self.config, module, interleaved=turned, layers=kind))
                except (UnsupportedModel, AttributeError, KeyError, TypeError):
                    continue
        return found

    def _attention(self, cores: tuple[Core, ...]) -> Attention | None:
        """Split an attention of Llama's shape into heads, if that gives what the module gave."""
        core = cores[0]
        if len(cores) != 1 or core.input_scale != 1:
            return None
        module: Any = core.module
        own = [getattr(module, f"{x}_proj", None) for x in "qkv"]
        output: Any = next((getattr(module, n) for n in OUTPUTS if hasattr(module, n)), None)
        linears: list[Any] = [*own, output]
        if not all(isinstance(one, TorchLinear) for one in linears):
            return None
        used = [t for one in linears for t in (one.weight, one.bias)]

        def tried() -> Iterator[tuple[Attention, Tensor]]:
            for attention in self._candidates(module, output):
                norms = [n for n in (attention.q_norm, attention.k_norm) if isinstance(n, Norm)]
                if _claims(module, [*used, *(t for n in norms for t in (n.weight, n.bias))]):
                    yield attention, self._output(attention, core.given)

        found = nearest(tried(), core.output)
        return None if found is None else replace(found, output_scale=core.output_scale)

    def _candidates(self, module: Any, output: Any) -> Iterator[Attention]:
        """Yield descriptions of an attention that its modules' shapes allow."""
        heads = getattr(self.config, "num_attention_heads", None)
        size = getattr(module, "head_dim", None)
        if not isinstance(heads, int) or not isinstance(size, int):
            return
        widths = [getattr(module, f"{x}_proj").weight.shape[0] for x in "qkv"]
        groups, rest = divmod(widths[1], size)
        if rest or not groups or heads % groups or widths[2] != widths[1]:
            return
        share = widths[0] // (heads * size)
        if output.weight.shape[1] != heads * size or widths[0] != share * heads * size:
            return
        if share not in (1, 2):
            return
        gate = {"gate": "sigmoid"} if share == 2 else {}
        norms: dict[str, Any] = {}
        for letter, ending in itertools.product("qk", ("norm", "layernorm")):
            own = getattr(module, f"{letter}_{ending}", None)
            if isinstance(own, Module):
                norms[f"{letter}_norm"] = own
        windows = self._windows(module)
        together = any(n.weight.shape[0] != size for n in norms.values() if hasattr(n, "weight"))
        scales = [getattr(module, key, None) for key in ("scaling", "scale")]
        scales += [getattr(self.config, "attention_multiplier", None), size**-0.5]
        described = list(self._described_norms(norms)) or [{}]
        tables: list[Rotary | None] = [*self.tables, None]
        for table, own_norms, window, scale in itertools.product(
            tables, described, windows, dict.fromkeys(x for x in scales if isinstance(x, float))
        ):
            if table is not None and table.size > size:
                continue
            yield separate(
                module, output, heads, groups, rotary=table, scale=scale,
                window=window, norm_together=together,
                **own_norms, **gate,
            )  # fmt: skip

    def _windows(self, module: Any) -> list[int | None]:
        """List how far an attention may see; what a watched prompt cannot show must be stated."""
        if self.window is None:
            return [None]
        if self.window <= LONGEST_WINDOW:
            return [None, self.window]
        return [module.sliding_window] if hasattr(module, "sliding_window") else []

    def _described_norms(self, norms: Mapping[str, Module]) -> Iterator[dict[str, Norm]]:
        """Yield what norms of queries and keys may be: with or without a mean, as w or 1 + w."""
        if not norms:
            return
        for centred, offset in itertools.product((False, True), (0.0, 1.0)):
            found = {}
            for key, module in norms.items():
                stated = (getattr(module, name, None) for name in ("variance_epsilon", "eps"))
                small = next((e for e in stated if isinstance(e, float)), 1e-6)
                own = {n: p.detach() for n, p in module.named_parameters()}
                found[key] = Norm(own.get("weight"), own.get("bias"), small, centred, offset)
            yield found

    def _output(self, attention: Attention, x: Tensor) -> Tensor:
        """Return what an attention writes of its normalised input, [B, T, D]."""
        found = []
        for letter in "qkv":
            y = project(x, *attention.projection(letter))
            norm = attention.norm_of_all(letter)
            found.append(y if norm is None else norm(y.flatten(-2)).view_as(y))
        q, *both = found
        k, v = (y.repeat_interleave(attention.group_size, -2) for y in both)
        out = attention.merge(attention.mix(q, k, v, self.context))
        constant = attention.constant
        return out if constant is None else out + constant

    def _mlp(self, cores: tuple[Core, ...]) -> MLP | None:
        """Describe an MLP of a usual shape, if that gives what the module gave."""
        core = cores[0]
        if len(cores) != 1 or core.input_scale != 1:
            return None
        tried = ((mlp, mlp(core.given)) for mlp in _mlps(core.module))
        found = nearest(tried, core.output)
        return None if found is None else replace(found, output_scale=core.output_scale)

    def _experts(self, cores: tuple[Core, ...]) -> Experts | None:
        """Describe a mixture of experts, and an MLP beside it, if that gives what they gave."""
        stacks = {i: stacks_of(core.module, core.given.shape[-1]) for i, core in enumerate(cores)}
        found = [(cores[i], one) for i, one in stacks.items() if one is not None]
        scales = {(core.input_scale, core.output_scale) for core in cores}
        if len(found) != 1 or len(cores) > 2 or len(scales) > 1 or cores[0].input_scale != 1:
            return None
        core, own = found[0]
        shared: MLP | None = None
        if own.shared:
            shared = self._shared(f"{core.name}.{own.shared}")
            if shared is None:
                return None
        every = list(mixtures(core.module, own, self.config, shared))
        at, before = None, self.routed.get(type(core.module))  # layers of one class are alike
        with untouched(core.module):
            if before is not None and before < len(every):
                at = routed_alike(core.module, every, core.given, [before])
            if at is None:
                at = routed_alike(core.module, every, core.given, range(len(every)))
        if at is None:
            return None
        self.routed[type(core.module)], mixture = at, every[at]
        if beside := [other for other in cores if other is not core]:
            plain = self._mlp((beside[0],))
            if plain is None or mixture.shared is not None:
                return None
            mixture = replace(mixture, shared=SharedExpert(replace(plain, output_scale=1.0)))
        return replace(mixture, output_scale=core.output_scale)

    def _shared(self, name: str) -> MLP | None:
        """Describe a mixture's shared expert, of what it was given and gave."""
        calls = [call for call in self.calls if call.name == name]
        if len(calls) != 1:
            return None
        given = (*calls[0].args, *calls[0].kwargs.values())
        x = next((one for one in given if isinstance(one, Tensor)), None)
        if x is None:
            return None
        tried = ((mlp, mlp(x)) for mlp in _mlps(self.modules[name]))
        return nearest(tried, calls[0].output)


def _mlps(module: Module) -> Iterator[MLP]:
    """Yield what a module of the usual shapes of an MLP can be."""
    for names in MLP_NAMES:
        own: list[Any] = [getattr(module, name, None) for name in names]
        if not all(isinstance(one, TorchLinear) for one in own):
            continue
        projections = [linear(one) for one in own]
        if _claims(module, [t for one in projections for t in (one.weight, one.bias)]):
            for gate, up, down in _arranged(projections):
                for activation in ACTIVATIONS:
                    yield MLP(up, down, activation, gate)


OUTPUTS = ("o_proj", "out_proj", "dense")
MLP_NAMES = (
    ("gate_proj", "up_proj", "down_proj"), ("w1", "w3", "w2"), ("up_proj", "down_proj"),
    ("fc1", "fc2"), ("c_fc", "c_proj"), ("gate_up_proj", "down_proj"),
    ("input_linear", "output_linear"),
)  # fmt: skip
"""What the projections of an MLP are called: gate, up and down, or the first and the second."""


def _arranged(projections: list[Linear]) -> Iterator[tuple[Linear | None, Linear, Linear]]:
    """Yield what may be the gate, the projection up, and that down."""
    if len(projections) == 3:
        yield projections[0], projections[1], projections[2]
        return
    first, down = projections
    if first.weight.shape[0] == 2 * down.weight.shape[1]:
        parts = first.weight.chunk(2)
        biases = (None, None) if first.bias is None else first.bias.chunk(2)
        gate, up = (Linear(w, b) for w, b in zip(parts, biases, strict=True))
        yield gate, up, down
        yield up, gate, down
    else:
        yield None, first, down


def _claims(module: Module, used: list[Tensor | None]) -> bool:
    """Tell whether a description uses every parameter of a module."""
    places = {t.data_ptr() for t in used if t is not None}
    return all(p.data_ptr() in places for p in module.parameters())


def _numbers(value: Any) -> Iterator[float]:
    """Yield all numbers of a config that are not whole, and their inverses; whole ones too."""
    if isinstance(value, dict):
        for one in value.values():
            yield from _numbers(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _numbers(one)
    elif isinstance(value, int | float) and not isinstance(value, bool) and value:
        yield float(value)
        yield 1 / value
