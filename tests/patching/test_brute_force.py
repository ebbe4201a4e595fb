"""Each head against the original's own modules, in float64: every port reads a stream of its own.

transformers calls attention through an interface that can be given by name. One run of the
original, with the keys' stream in the place of a layer's input, shows the keys; another shows the
values; a third, with the queries' stream, attends with these and lets one head's output through.
What the layer's attention module then makes of it (gates, the output projection) is what the head
writes. Norms before attention, projections, latent spaces, rotations, masks and sinks are all the
model's own.

Older code attends by itself. There each projection gives, in a fourth run, what it gave of the
queries', keys' and values' stream in those of its rows that make queries, keys and values; which
these are, and what the other heads write, is seen where the lift's views lie in the weights.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from edgewise.graphs.lift.lifted import Attention, AttentionContext, Block, LiftedModel
from edgewise.graphs.lift.lifting import describe
from edgewise.graphs.lift.own.observing import decoder_layers
from edgewise.patching.trace import project
from tests.configs_hybrid import HYBRID_CONFIGS
from tests.configs_sparse import SPARSE
from tests.engine import one_of_each_type, tiny_model

BY_ITSELF = {
    "bloom", "codegen", "falcon", "gpt_neo", "gpt_neox_japanese", "gptj", "mpt", "xglm",
}  # fmt: skip
"""Types whose code attends by itself, not through transformers' interface."""

LENGTH = 7
Attend = Callable[..., tuple[Tensor, Any]]


@contextmanager
def attending(model: Any, attend: Attend) -> Iterator[None]:
    """Let the model attend by a function of its attention module, query, key, value and mask."""
    before = model.config._attn_implementation
    ALL_ATTENTION_FUNCTIONS.register("brute_force", attend)
    ALL_MASK_ATTENTION_FUNCTIONS.register("brute_force", ALL_MASK_ATTENTION_FUNCTIONS["eager"])
    model.config._attn_implementation = "brute_force"
    try:
        yield
    finally:
        model.config._attn_implementation = before


def own_eager(module: Any) -> Attend:
    """Return the eager attention of a module's own code."""
    found: Attend = sys.modules[type(module).__module__].eager_attention_forward
    return found


def tokens(count: int) -> dict[str, Any]:
    """Return the arguments of a run on prompts of which no token matters."""
    ids = torch.ones(count, LENGTH, dtype=torch.long)
    places = torch.arange(LENGTH).expand(count, -1)
    return {
        "input_ids": ids, "attention_mask": torch.ones_like(ids), "position_ids": places,
        "use_cache": False,
    }  # fmt: skip


class Original:
    """The original model with other streams in the place of what a layer reads."""

    def __init__(self, model: Any, layers: int) -> None:
        self.model, self.layers = model, decoder_layers(model, layers)
        self.sources = list(range(layers))
        modes = getattr(model.config, "kv_sharing_modes", [])
        for layer in (i for i, mode in enumerate(modes) if mode == "reuse"):
            kinds = model.config.layer_types
            makers = (i for i in range(layer) if kinds[i] == kinds[layer] and modes[i] == "store")
            self.sources[layer] = max(makers)

    def run(self, layer: int, stream: Tensor, attend: Attend) -> Tensor:
        """Run the model with a stream before a layer; return what its attention module returns."""
        found: dict[Any, Tensor] = {}
        called: list[Any] = []
        active = False

        def replace(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            nonlocal active
            active = True
            if args:
                return (stream.clone(), *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": stream.clone()}

        def after(*_: Any) -> None:
            nonlocal active
            active = False

        def interface(module: Any, *inputs: Any, **rest: Any) -> Any:
            if not active:
                return own_eager(module)(module, *inputs, **rest)
            called.append(module)
            return attend(module, *inputs, **rest)

        def note(module: Any, _: Any, out: Any) -> None:
            found[module] = out[0] if isinstance(out, tuple) else out

        assert self.layers is not None
        handles = [
            self.layers[layer].register_forward_pre_hook(replace, with_kwargs=True),
            self.layers[layer].register_forward_hook(after),
            *(part.register_forward_hook(note) for part in self.layers[layer].modules()),
        ]
        try:
            with attending(self.model, interface):
                self.model(**tokens(len(stream)))
        finally:
            for handle in handles:
                handle.remove()
        (module,) = called
        return found[module]

    def heads(
        self, layer: int, streams: dict[str, Tensor], heads: Sequence[int | None]
    ) -> list[Tensor]:
        """Return what heads write whose ports hold these streams, [B, T, D]; None: what none do.

        The projection's bias is part of all.
        """
        kept: dict[str, Tensor] = {}

        def note(letter: str) -> Attend:
            def attend(
                module: Any, q: Tensor, k: Tensor, v: Tensor, *more: Any, **rest: Any
            ) -> Any:
                kept[letter] = {"k": k, "v": v}[letter]
                return own_eager(module)(module, q, k, v, *more, **rest)

            return attend

        def through(head: int | None) -> Attend:
            def attend(
                module: Any, q: Tensor, _: Tensor, __: Tensor, *more: Any, **rest: Any
            ) -> Any:
                out, weights = own_eager(module)(module, q, kept["k"], kept["v"], *more, **rest)
                alone = torch.zeros_like(out)  # [B, T, H, K]
                if head is not None:
                    alone[:, :, head] = out[:, :, head]
                return alone, weights

            return attend

        for letter in "kv":  # of an earlier layer, where that is whose they are
            self.run(self.sources[layer], streams[letter], note(letter))
        return [self.run(layer, streams["q"], through(head)) for head in heads]


def lifted_head(block: Block, streams: dict[str, Tensor], head: int) -> Tensor:
    """Return what the lifted head writes, [B, T, D], without its output scale."""
    attention = block.attention
    assert isinstance(attention, Attention)
    mask = torch.ones(streams["q"].shape[:2], dtype=torch.bool)
    context = AttentionContext(mask, torch.arange(LENGTH).expand(len(mask), -1))
    at = {"q": head, "k": head // attention.group_size, "v": head // attention.group_size}
    q, k, v = (
        project(block, letter, block.read(streams[letter], letter))[..., [at[letter]], :]
        for letter in "qkv"
    )
    z = attention.mix(q, k, v, context, heads=[head])[..., 0, :]
    return (z @ attention.wo[head]).detach()


class ByRows:
    """The same of code that attends by itself; its model is altered."""

    def __init__(self, model: Any, lifted: LiftedModel) -> None:
        self.model, self.lifted = model, lifted
        self.layers = decoder_layers(lifted.model, len(lifted.blocks))
        self.rows = [self._rows(layer) for layer in range(len(lifted.blocks))]

    def _rows(self, layer: int) -> dict[Any, Tensor]:
        """Map the projections in a layer to what each of their features is: 0, 1, 2 for q, k, v."""
        attention = self.lifted.blocks[layer].attention
        assert isinstance(attention, Attention)
        views = (attention.wq, attention.wk, attention.wv)
        kept = [view.clone() for view in views]
        before = {id(p): p.clone() for p in self.model.parameters()}
        for number, view in enumerate(views):
            view.fill_(1000.0 + number)
        found = {}
        assert self.layers is not None
        for module in self.layers[layer].modules():
            weight = getattr(module, "weight", None)
            if weight is None or weight.dim() != 2 or torch.equal(weight, before[id(weight)]):
                continue
            marks = weight[0] if type(module).__name__ == "Conv1D" else weight[:, 0]
            found[module] = (marks - 1000).long()
        for view, old in zip(views, kept, strict=True):
            view.copy_(old)
        return found

    def heads(
        self, layer: int, streams: dict[str, Tensor], heads: Sequence[int | None]
    ) -> list[Tensor]:
        """Return what heads write whose ports hold these streams; see `Original.heads`."""
        attention = self.lifted.blocks[layer].attention
        assert isinstance(attention, Attention)
        rows, wo = self.rows[layer], attention.wo
        made: dict[Any, list[Tensor]] = {module: [] for module in rows}
        for letter in "qkv":
            self._run(layer, streams[letter], lambda module, out: made[module].append(out))

        def mixed(module: Any, _: Tensor) -> Tensor:
            stacked = torch.stack(made[module], -1)  # [..., features, 3]
            at = rows[module].expand(stacked.shape[:-1])[..., None]
            return stacked.gather(-1, at)[..., 0]

        kept, wrote = wo.clone(), []
        for head in heads:
            wo.zero_()
            if head is not None:
                wo[head] = kept[head]
            wrote.append(self._run(layer, streams["q"], mixed))
        wo.copy_(kept)
        return wrote

    def _run(self, layer: int, stream: Tensor, change: Callable[..., Any]) -> Tensor:
        """Run the model with a stream before a layer; return what its attention module returns."""
        assert self.layers is not None
        block, rows = self.layers[layer], self.rows[layer]
        found: dict[str, Tensor] = {}
        names = {module: name for name, module in block.named_modules()}
        parent = names[next(iter(rows))].rpartition(".")[0]

        def replace(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if args:
                return (stream.clone(), *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": stream.clone()}

        def note(_: Any, __: Any, out: Any) -> None:
            found["out"] = out[0] if isinstance(out, tuple) else out

        handles = [
            block.register_forward_pre_hook(replace, with_kwargs=True),
            block.get_submodule(parent).register_forward_hook(note),
            *(m.register_forward_hook(lambda module, _, out: change(module, out)) for m in rows),
        ]
        try:
            self.lifted.model(**tokens(len(stream)))  # type: ignore[misc]
        finally:
            for handle in handles:
                handle.remove()
        return found["out"]


FIRST = set(one_of_each_type().values())
NAMES = list(one_of_each_type().values())
NAMES += [name for name in {**SPARSE, **HYBRID_CONFIGS} if name not in FIRST]


@pytest.fixture
def default_type(request: pytest.FixtureRequest) -> Iterator[None]:
    """Make float64 the default of a model whose code takes its smallest number from there."""
    if "xglm" in request.node.name:
        torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("default_type")
@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_a_head_writes_what_the_originals_modules_make_of_its_own_streams(name: str) -> None:
    model = tiny_model(name)
    lifted = describe(model)
    mixers = [block.attention for block in lifted.blocks]
    if not any(isinstance(mixer, Attention) for mixer in mixers):
        return  # all taken whole
    alone = model.config.model_type in BY_ITSELF
    original = ByRows(model, lifted) if alone else Original(lifted.model, len(lifted.blocks))
    draw = torch.Generator().manual_seed(3)
    scales = lifted.stream_scales or (1.0,) * len(lifted.blocks)
    for layer, block in enumerate(lifted.blocks):
        if not isinstance(block.attention, Attention):
            continue
        streams = {
            letter: torch.randn(2, LENGTH, lifted.d_model, generator=draw, dtype=torch.float64)
            for letter in "qkv"
        }
        before = layer if block.shared is None else block.shared.source
        of = {"q": layer, "k": before, "v": before}
        theirs = {letter: x * scales[of[letter]] for letter, x in streams.items()}
        heads = sorted({0, block.attention.heads - 1})
        nothing, *wrote = original.heads(layer, theirs, [None, *heads])
        for head, own in zip(heads, wrote, strict=True):
            expected = own - nothing
            found = lifted_head(block, streams, head)
            scaled = found * block.attention.output_scale  # inside the module, or behind it
            error = min(float((x - expected).abs().max()) for x in (found, scaled))
            assert error <= 1e-5 * max(1.0, float(expected.abs().max()))
            assert expected.abs().max() > 1e-4


@pytest.mark.parametrize("name", ["gemma4", "gemma4-e", "gemma4-e-mixture"])
@torch.no_grad()
def test_an_mlp_writes_what_the_originals_layer_adds_behind_attention(name: str) -> None:
    """With attention silent, a layer adds what `m{l}` writes: also of what tokens give it."""
    model = tiny_model(name)
    lifted = describe(model)
    draw = torch.Generator().manual_seed(3)
    for layer, block in enumerate(lifted.blocks):
        own, scale = model.model.layers[layer], lifted.stream_scales[layer]
        size = (2, LENGTH, lifted.d_model + block.given)
        x = torch.randn(size, generator=draw, dtype=torch.float64)
        stream, given = x[..., : lifted.d_model], x[..., lifted.d_model :]
        found: list[Tensor] = []

        def replaced(
            _: Any, args: Any, kwargs: Any, read: Tensor = stream * scale, past: Tensor = given
        ) -> Any:
            return (read, past if past.shape[-1] else None, *args[2:]), kwargs

        def note(_: Any, __: Any, out: Tensor, kept: list[Tensor] = found) -> None:
            kept.append(out)

        handles = [
            own.register_forward_pre_hook(replaced, with_kwargs=True),
            own.post_attention_layernorm.register_forward_hook(lambda *seen: seen[2] * 0),
            own.register_forward_hook(note),
        ]
        model(**tokens(2))
        for handle in handles:
            handle.remove()
        expected = found[0] / own.layer_scalar - stream * scale
        error = (block.write(x) * scale - expected).abs().max()
        assert error <= 1e-6 * expected.abs().max()
        assert expected.abs().max() > 0.1
