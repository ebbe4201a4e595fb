"""Shapes of computation graphs, drawn at random: all options, with and without experts."""

from __future__ import annotations

from hypothesis import strategies as st

from edgewise.graphs.graph import ComputationGraph


def shapes(layers: int = 3, groups: int = 2, share: int = 2) -> st.SearchStrategy[ComputationGraph]:
    """Draw graphs of at most so many layers, key/value heads, and heads for each of those."""
    return st.builds(
        shape,
        st.integers(1, layers),
        st.integers(1, groups),
        st.integers(1, share),
        st.lists(st.integers(0, 3), min_size=layers, max_size=layers),
        *[st.booleans()] * 6,
    )


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
