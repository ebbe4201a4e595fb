"""Single edges of every type, cut in the original model's own modules, in float64.

A hook gives one head's rows of a projection (or one MLP, or the final norm) what the stream would
be without one sender; the rest of the model runs as it is. The circuit without that edge must give
the same logits. What a head writes is what the original's output projection makes of it alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import Module

from edgewise.graphs.errors import UnsupportedModel
from edgewise.graphs.lift.attention import Attention, AttentionContext
from edgewise.graphs.lift.lifted import LiftedModel, Norm
from edgewise.graphs.lift.lifting import describe
from edgewise.graphs.names import Kind
from edgewise.patching.run.chunk import Chunk, sender_deltas
from edgewise.patching.run.runner import Runner
from edgewise.patching.trace import Trace, run_plain
from tests.engine import one_of_each_type, tiny_model, tiny_pairs

Project = Callable[[Tensor], Tensor]


@dataclass
class Both:
    """A model, its lift and one prompt."""

    model: Any
    lifted: LiftedModel
    runner: Runner
    chunk: Chunk

    @cached_property
    def owners(self) -> dict[int, tuple[Module, Tensor]]:
        """Map the memory of weights to the modules that hold them."""
        return {
            weight.untyped_storage().data_ptr(): (module, weight)
            for module in self.model.modules()
            for name, weight in module.named_parameters(recurse=False)
            if name == "weight"
        }

    def owner(self, view: Tensor | None) -> tuple[Module, Tensor] | None:
        """Return the module whose weight this is a view of, and the weight."""
        found = None if view is None else self.owners.get(view.untyped_storage().data_ptr())
        return None if found is None or found[1].dim() > 2 else found

    @cached_property
    def run(self) -> Trace:
        """Return the lift's run."""
        batch = self.chunk.batch
        return run_plain(self.lifted, batch.clean, AttentionContext(batch.mask, batch.position_ids))

    @cached_property
    def wrote(self) -> Tensor:
        """Return what every sender writes, [senders, B, T, D]."""
        found = sender_deltas(self.run, Trace(self.lifted, self.run.values.zeros()))
        return found.reshape(len(found), *self.run.streams.final.shape)

    def original(self) -> Tensor:
        """Return the original's logits at the answers."""
        ids = self.chunk.batch.clean
        rows = torch.arange(len(ids))
        logits: Tensor = self.model(input_ids=ids, use_cache=False).logits
        return logits[rows, self.chunk.batch.answer_position]

    def without(self, row: int, column: int) -> Tensor:
        """Return the logits of the circuit that lacks one edge."""
        kept = self.lifted.graph.reads.copy()
        assert kept[row, column]
        kept[row, column] = False
        return self.runner.chunk_logits(self.chunk, kept[None])[0]

    def scale(self, layer: int | None) -> float:
        """Return what the original's stream is in units of the lift's, before a layer or behind."""
        scales = self.lifted.stream_scales
        return scales[-1 if layer is None else layer] if scales else 1.0

    def normed(self, norm: Norm | None, x: Tensor, scale: float = 1.0) -> Tensor:
        """Apply a norm, by the original's own module where it has weights."""
        found = None if norm is None else self.owner(norm.weight)
        if found is not None:
            out: Tensor = found[0].forward(x * scale)
            return out
        return x if norm is None else norm(x)


def places(view: Tensor, weight: Tensor) -> Tensor:
    """Return which outputs of a module its weight's view makes, [K]."""
    start = view.storage_offset() - weight.storage_offset()
    numbers = torch.arange(weight.untyped_storage().nbytes() // weight.element_size())
    first = numbers.as_strided(view.shape, view.stride(), start)[:, 0]
    plain = weight.stride(0) > 1 or weight.shape[1] == 1
    transposed = view.stride(0) == 1 and plain and view.stride(1) == weight.stride(0)
    return first % weight.stride(0) if transposed else first // weight.stride(0)


def of(weight: Tensor, index: int) -> Tensor:
    """Return one head's part of a weight by head, which may hold groups apart."""
    return weight[index] if weight.dim() == 3 else weight[divmod(index, weight.shape[1])]


def projecting(both: Both, attention: Attention, letter: str) -> tuple[Module, Project] | None:
    """Return the module that a letter's rows come from, and all it gives for a normed stream."""
    weight = {"q": attention.wq, "k": attention.wk, "v": attention.wv}[letter]
    latent = attention.latent(letter)
    owner = both.owner(weight)
    if owner is None or (letter == "q" and attention.wgate is not None):
        return None
    if letter != "q" and attention.wk.data_ptr() == attention.wv.data_ptr():
        return None  # the keys are the values too
    if latent is not None:
        down = both.owner(latent.down.weight)
        if down is None or (letter == "k" and latent.width(weight)):
            return None  # the part that turns is one for all heads
        size = weight.shape[-1]
        return owner[0], lambda x: owner[0].forward(
            both.normed(latent.norm, down[0].forward(x)[..., :size])
        )
    norm = attention.norm_of_all(letter)
    if norm is not None:
        behind = both.owner(norm.weight)
        assert behind is not None
        return behind[0], lambda x: behind[0].forward(owner[0].forward(x))
    return owner[0], owner[0].forward


@contextmanager
def changed(module: Module, change: Callable[[Tensor], Tensor], before: bool) -> Iterator[None]:
    """Change what a module reads, or what it gives."""
    with ExitStack() as stack:
        if before:
            hook = module.register_forward_pre_hook(lambda _, given: (change(given[0]), *given[1:]))
        else:
            hook = module.register_forward_hook(lambda _, given, out: change(out))
        stack.callback(hook.remove)
        yield


Cut = tuple[int, int, Module, Callable[[Tensor], Tensor], bool]
"""An edge by row and column; what to change in which module to cut it, before the module or not."""


def head_cuts(both: Both) -> Iterator[Cut]:
    """Yield some edges to heads."""
    lifted, graph, layer = both.lifted, both.lifted.graph, last_with_heads(both.lifted)
    if layer is None:
        return
    block = lifted.blocks[layer]
    attention, stream = block.by_head, both.run.streams.attention[layer]
    senders = np.flatnonzero(graph.reads[graph.attention_rows[layer]["q"][0]])
    wanted = {
        "q": (graph.heads - 1, senders[0]), "k": (0, senders[-1]),
        "v": (attention.kv_heads - 1, senders[len(senders) // 2]),
    }  # fmt: skip
    for letter, (index, column) in wanted.items():
        head = index * (1 if letter == "q" else attention.group_size)
        found = projecting(both, attention, letter)
        alone = graph.grouped_kv or attention.group_size == 1 or letter == "q"
        if found is None or not alone:
            continue
        module, project = found
        left = stream - both.wrote[column]
        lacking = project(both.normed(block.attention_norm, left, both.scale(layer)))
        view = of({"q": attention.wq, "k": attention.wk, "v": attention.wv}[letter], index)
        owner = both.owner(view)
        assert owner is not None
        if attention.norm_of_all(letter) is not None:
            at = torch.arange(len(view)) + index * len(view)
        else:
            at = places(view, owner[1])

        def only(out: Tensor, at: Tensor = at, lacking: Tensor = lacking) -> Tensor:
            return out.index_copy(-1, at, lacking.reshape(out.shape)[..., at])

        yield graph.attention_rows[layer][letter][head], int(column), module, only, False


def norm_cuts(both: Both) -> Iterator[Cut]:
    """Yield some edges to parts that read behind a norm of their own, whose input is changed."""
    lifted, graph = both.lifted, both.lifted.graph
    if lifted.spread is not None:
        return
    norms = {
        row: lifted.final_norm if port.node.layer is None
        else lifted.blocks[port.node.layer].attention_norm if port.node.kind is Kind.MIXER
        else lifted.blocks[port.node.layer].mlp_norm
        for row, port in enumerate(graph.ports)
        if port.node.kind in (Kind.MIXER, Kind.MLP, Kind.LOGITS)
    }  # fmt: skip
    used = [n for b in lifted.blocks for n in (b.attention_norm, b.mlp_norm)]
    used += [lifted.final_norm, lifted.embed_norm]
    owners = [None if norm is None else both.owner(norm.weight) for norm in used]
    for row in [*norms][-2:]:
        norm, column = norms[row], int(np.flatnonzero(graph.reads[row])[-1])
        owner = None if norm is None else both.owner(norm.weight)
        if owner is None or sum(o is not None and o[0] is owner[0] for o in owners) > 1:
            continue  # a module that is run at other places too
        wrote = both.wrote[column] * both.scale(graph.ports[row].node.layer)
        yield row, column, owner[0], lambda x, wrote=wrote: x - wrote.reshape(x.shape), True


@contextmanager
def run_without(layer: Module, wrote: Tensor, read: bool) -> Iterator[None]:
    """Let a layer read its streams without a part, or what follows it, but not both."""

    def lacking(_: Module, given: tuple[Any, ...]) -> Any:
        return (given[0] - wrote, *given[1:])

    def behind(_: Module, __: Any, out: Tensor) -> Tensor:
        return out + wrote if read else out - wrote

    with ExitStack() as stack:
        if read:
            stack.callback(layer.register_forward_pre_hook(lacking).remove)
        stack.callback(layer.register_forward_hook(behind).remove)
        yield


def layer_cuts(both: Both) -> Iterator[tuple[int, int, AbstractContextManager[None]]]:
    """Yield edges to the last layer, and to the logits, of models whose layers are nodes."""
    lifted, graph = both.lifted, both.lifted.graph
    if lifted.spread is None:
        return
    packing, column = lifted.spread.packing, len(graph.senders) - 2
    wrote = both.wrote[column][..., : packing.streams]
    if packing.count > 1:
        wrote = wrote.unflatten(-1, (packing.count, packing.width)).movedim(-2, 0)
    layer = both.model.model.layers[-1]
    for row in (len(graph.ports) - 2, len(graph.ports) - 1):
        yield row, column, run_without(layer, wrote, read=row == len(graph.ports) - 2)


def last_with_heads(lifted: LiftedModel) -> int | None:
    """Return the last layer whose attention is split into heads."""
    found = [n for n, block in enumerate(lifted.blocks) if isinstance(block.attention, Attention)]
    return found[-1] if found else None


def heads_alone(both: Both) -> Iterator[tuple[int, Tensor]]:
    """Yield each head of the last layer by its column, and what it writes in the original."""
    graph, layer = both.lifted.graph, last_with_heads(both.lifted)
    if layer is None:
        return
    attention = both.lifted.blocks[layer].by_head
    owner = both.owner(attention.wo)
    assert owner is not None
    module, weight = owner
    read: list[Tensor] = []
    hook = module.register_forward_pre_hook(lambda _, given: read.append(given[0]))
    both.original()
    hook.remove()
    constant = module.forward(torch.zeros_like(read[0]))
    for head in range(graph.heads):
        own = torch.zeros_like(read[0])
        at = places(attention.wo[head], weight)
        own[..., at] = read[0][..., at]
        z = both.run.values.z[layer][..., head, :].reshape(own[..., at].shape)
        scale = attention.output_scale  # comes behind the projection, or before it
        behind = torch.allclose(z, own[..., at], rtol=1e-4, atol=1e-5)
        if not behind:
            torch.testing.assert_close(z * scale, own[..., at], rtol=1e-4, atol=1e-5)
        wrote = (module.forward(own) - constant) * (scale if behind else 1)
        yield graph.first_heads[layer] + head, wrote


@pytest.mark.parametrize("name", one_of_each_type().values())
@torch.no_grad()
def test_single_edges_are_cut_as_in_the_original(name: str) -> None:
    before = torch.get_default_dtype()
    if name.startswith("xglm"):  # its code makes float64's smallest number in the default type
        torch.set_default_dtype(torch.float64)
    try:
        model = tiny_model(name)
        try:
            lifted = describe(model, grouped_kv=True)
        except UnsupportedModel:  # layers differ in how many heads share a key and a value
            lifted = describe(model)
        runner = Runner.create(lifted, tiny_pairs(lengths=(6, 6)), ablation="zero", batch_size=2)
        (chunk,) = runner.chunks()
        both = Both(model, lifted, runner, chunk)
        for column, wrote in heads_alone(both):
            found = both.wrote[column].reshape(wrote.shape)
            torch.testing.assert_close(found, wrote, rtol=1e-4, atol=1e-5)
        plain = both.original()
        cuts = 0
        every = [
            (row, column, changed(module, change, pre))
            for row, column, module, change, pre in (*head_cuts(both), *norm_cuts(both))
        ]
        for row, column, cut in (*every, *layer_cuts(both)):
            with cut:
                expected = both.original()
            found = both.without(row, column)
            torch.testing.assert_close(found, expected.to(found), rtol=1e-4, atol=1e-5)
            cuts += not torch.allclose(plain, expected, atol=1e-4)
        assert cuts >= (1 if last_with_heads(lifted) is None else 2)
    finally:
        torch.set_default_dtype(before)
