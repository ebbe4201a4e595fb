"""Shapes of computation graphs, drawn at random: all options, experts and parts taken whole."""

from __future__ import annotations

import random

from hypothesis import strategies as st

from edgewise.graphs.graph import HEADS, NONE, WHOLE, ComputationGraph


def shapes(layers: int = 3, groups: int = 2, share: int = 2) -> st.SearchStrategy[ComputationGraph]:
    """Draw graphs of at most so many layers, key/value heads, and heads for each of those."""
    return st.builds(
        shape,
        st.integers(1, layers),
        st.integers(1, groups),
        st.integers(1, share),
        st.lists(st.integers(0, 3), min_size=layers, max_size=layers),
        *[st.booleans()] * 6,
    ) | st.builds(with_parts, st.integers(0, 2**31), st.integers(1, layers))


def with_parts(seed: int, layers: int) -> ComputationGraph:
    """Draw a graph some of whose layers have a whole mixer, none, no MLP, or another's keys."""
    draw = random.Random(seed)
    mixers = tuple(draw.choice([HEADS, WHOLE, NONE]) for _ in range(layers))
    without = tuple(i for i in range(layers) if draw.random() < 0.4)
    groups = draw.randint(1, 2) if HEADS in mixers or not mixers else 0
    heads = groups * draw.randint(1, 2)
    flags = [draw.random() < 0.5 for _ in range(4)]
    experts = tuple(0 if i in without else draw.choice([0, 0, 2]) for i in range(layers))
    shared = any(experts) and draw.random() < 0.5
    sources = list(range(layers))
    for i in range(1, layers):
        makers = [j for j in range(i) if sources[j] == j and mixers[j] == HEADS == mixers[i]]
        if makers and draw.random() < 0.4:
            sources[i] = draw.choice(makers)
    return ComputationGraph(
        layers, heads, groups, *flags, experts, shared, mixers=mixers, without_mlp=without,
        kv_sources=tuple(sources),
    )  # fmt: skip


def shape(
    layers: int,
    groups: int,
    share: int,
    experts: list[int],
    sparse: bool,
    shared: bool,
    *flags: bool,
) -> ComputationGraph:
    """Build a graph; `flags` are its options in order."""
    counts = tuple(experts[:layers]) if sparse else ()
    return ComputationGraph(
        layers, groups * share, groups, *flags, counts, shared_experts=shared and any(counts)
    )
