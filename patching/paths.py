"""Path patching: the effect of what flows along named paths alone.

For a set of edges P from start senders to `logits`: a start sender takes its ablated value o';
every other sender on P is recomputed from  x_p = (clean x_p) + Σ_{w→p in P} (o'_w − o_w).
Seen from the dense runner this is a run of circuit P in which the *clean* run plays the part of
the ablated one and the start senders are given. Denoising is the mirror image: clean values enter
the corrupted run. Source: Wang et al. 2022; Goldowsky-Dill et al. 2023.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..graphs.calls.typed import typed
from ..graphs.circuit import Circuit
from ..graphs.errors import EdgewiseError, GraphMismatch, NameSyntaxError
from ..graphs.graph import ComputationGraph
from ..graphs.names import Edge, Kind, Node, Port
from .ablations.registry import ablations
from .run.chunk import given_deltas, sender_deltas
from .run.masked_run import World, run_masked
from .run.plan import make_plan
from .run.runner import Runner, refuse_nan


@typed
@dataclass(frozen=True)
class Path:
    """One route from a start sender through ports to `logits`.

    >>> graph = ComputationGraph(layers=2, heads=2)
    >>> [str(e) for e in Path.parse("a0.h1->a1.h0<k>->logits", graph)[0].edges]
    ['a0.h1->a1.h0<k>', 'a1.h0->logits']
    >>> len(Path.parse("a0.*->logits", graph))
    2

    In a layer of experts the step `m{l}` goes on from all of them, the step `m{l}.e{i}` from one.
    """

    start: Node
    edges: tuple[Edge, ...]
    name: str

    @staticmethod
    @typed
    def parse(text: str, graph: ComputationGraph) -> list[Path]:
        """Read a path; `*` stands for each head, or expert, of a layer, one path for each."""
        steps = [step.strip() for step in text.split("->")]
        if len(steps) < 2 or steps[-1] != "logits":
            raise NameSyntaxError(
                f"'{text}' is not a path; accepted: a sender, ports, and last logits, as in "
                "a0.h3->a1.h2<k>->logits; * stands for every head of a layer, as in a0.*->logits."
            )
        choices = [_expand(step, graph, first=i == 0) for i, step in enumerate(steps)]
        return [_path(list(chosen), graph) for chosen in itertools.product(*choices)]


@dataclass(frozen=True)
class PathEffect:
    """The loss before and after patching along a path."""

    name: str
    loss_before: float
    loss_after: float

    @property
    def effect(self) -> float:
        """Return the change of the loss."""
        return self.loss_after - self.loss_before


@typed
def patch_paths(
    runner: Runner, paths: Sequence[str | Path], *, denoise: bool = False, together: bool = False
) -> list[PathEffect]:
    """Measure the effect of paths, each alone or, if `together`, of all in one run.

    `denoise`: put clean values into the corrupted run (there must be one); default: ablated values
    into the clean.
    """
    if denoise and not runner.ablation.paired:
        paired = " or ".join(name for name, one in ablations().items() if one.paired)
        raise EdgewiseError(
            f"denoising puts clean values into the corrupted run; with ablation "
            f"'{runner.ablation.name}' there is none. Use {paired}."
        )
    found = [q for p in paths for q in (Path.parse(p, runner.graph) if isinstance(p, str) else [p])]
    if not found:
        raise EdgewiseError("no path is given; accepted: one or more, as in a0.h3->logits.")
    groups = [found] if together else [[path] for path in found]
    losses = np.zeros(1 + len(groups))
    for chunk in runner.chunks():
        base, other = (chunk.base, chunk.clean) if denoise else (chunk.clean, chunk.base)
        with torch.no_grad():
            delta, given = sender_deltas(other, base).flatten(1), given_deltas(other, base)
            world = World(runner.model, chunk.context, base, delta, chunk.past, given=given)
            patched = (_patched_stream(runner, world, group)[0] for group in groups)
            for i, stream in enumerate(itertools.chain([base.streams.final], patched)):
                loss = runner.metric.loss(chunk.logits(stream), chunk.target)
                losses[i] += float(loss.cpu().double().sum())
    refuse_nan(losses, f"the metric '{runner.metric.name}'")
    before, *after = (losses / len(runner.pairs)).tolist()
    names = [" + ".join(path.name for path in group) for group in groups]
    return [PathEffect(name, before, loss) for name, loss in zip(names, after, strict=True)]


def _expand(step: str, graph: ComputationGraph, *, first: bool) -> list[str]:
    experts = re.fullmatch(r"m(\d+)\.\*", step)
    if experts is not None and int(experts[1]) < graph.layers:
        return [str(node) for node in graph.mlp_nodes(int(experts[1]))]
    match = re.fullmatch(r"a(\d+)\.\*(?:<([qkv])>)?", step)
    if match is None:
        return [step]
    layer, letter = int(match[1]), match[2]
    owners = graph.attention_owners(layer, "q" if first else letter or "q")
    if not owners:
        raise GraphMismatch(
            f"layer {layer} has no heads for '{step}'; the graph has {graph.describe()}."
        )
    return [f"{owner}<{letter}>" if letter else str(owner) for owner in owners]


def _path(steps: list[str], graph: ComputationGraph) -> Path:
    start = Node.parse(steps[0])
    senders, edges = [start], []
    for step in steps[1:]:
        # an expert stands for the port it reads
        expert = Node.parse(step) if re.fullmatch(r"m\d+\.\w+", step) else None
        port = Port.parse(step) if expert is None else Port(Node(Kind.MLP, expert.layer))
        edges += [Edge(sender, port) for sender in senders]
        for edge in edges[-len(senders) :]:
            graph.locate(edge)
        senders = [graph.senders[i] for i in graph.feeds[graph.port_index[port]]]
        if expert is not None:
            if expert not in senders:
                raise GraphMismatch(f"the graph has no {expert}; it has {graph.describe()}.")
            senders = [expert]
        if port.node.kind is Kind.LOGITS and step is not steps[-1]:
            raise NameSyntaxError(f"'{'->'.join(steps)}': logits is the last step of a path.")
    return Path(start, tuple(edges), "->".join(steps))


def _patched_stream(runner: Runner, world: World, paths: Sequence[Path]) -> Tensor:
    """Return the stream at `logits`, [1, B, T, D]; what the world knows is what starts change."""
    graph = runner.graph
    circuit = Circuit.empty(graph).with_edges(edge for path in paths for edge in path.edges)
    starts = sorted({graph.sender_index[path.start] for path in paths})
    plan = make_plan(graph, circuit.kept[None], consistent=True, fixed=frozenset(starts))
    return run_masked(world, plan, 1)
