"""Ranking the nodes that carry most: singles, greedy steps, ties, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgewise.graphs.errors import EdgewiseError
from edgewise.graphs.lift.lifting import describe
from edgewise.graphs.names import Node
from edgewise.patching.transplant.ranking import greedy, single_effects
from edgewise.patching.transplant.transplant import nodes_mask
from tests.engine import tiny_lift, tiny_model
from tests.patching.test_transplant import opened


def test_singles_are_each_node_alone_and_ranked() -> None:
    transplant = opened(tiny_lift("llama", 1), tiny_lift("llama"))
    singles = single_effects(transplant)
    assert {one.node for one in singles} == set(transplant.graph.senders)
    for one in singles:
        (value,) = transplant.measure(nodes_mask(transplant.graph, [one.node])[None])
        assert one.value == pytest.approx(value, rel=1e-9)
        assert one.share == transplant.carried(one.value)
    shares = [one.share for one in singles]
    assert shares == sorted(shares, reverse=True)
    some = [Node.parse("m1"), Node.parse("a0.h2")]
    wanted = [one for one in singles if one.node in some]
    found = single_effects(transplant, some)
    assert [one.node for one in found] == [one.node for one in wanted]


def test_greedy_takes_the_best_of_every_step() -> None:
    transplant = opened(tiny_lift("llama", 3), tiny_lift("llama"))
    singles = single_effects(transplant)
    steps = greedy(transplant, singles, steps=3, beam=len(singles))
    assert steps[0] == singles[0]
    graph, chosen = transplant.graph, []
    for step in steps:
        rest = [node for node in graph.senders if node not in chosen]
        masks = [nodes_mask(graph, [*chosen, node]) for node in rest]
        values = [transplant.measure(mask[None])[0] for mask in masks]
        shares = [transplant.require_share(value) for value in values]
        assert step.share == pytest.approx(max(shares), rel=1e-9)
        assert step.node == rest[int(np.argmax(shares))]
        chosen.append(step.node)
    narrow = greedy(transplant, singles, steps=9, beam=2)
    assert {one.node for one in narrow} <= {one.node for one in singles[:2]}
    enough = greedy(transplant, singles, steps=9, share=steps[0].share)
    assert enough == steps[:1]


def test_greedy_stops_when_nothing_helps() -> None:
    """Two models that differ in one MLP: this node carries all, and no other carries more."""
    model, other = tiny_model("gpt2"), tiny_model("gpt2")
    with torch.no_grad():
        other.transformer.h[1].mlp.c_proj.weight.mul_(2)
    transplant = opened(describe(other), describe(model))
    singles = single_effects(transplant)
    assert str(singles[0].node) == "m1"
    assert singles[0].share == pytest.approx(1)
    assert [one.share for one in singles[1:]] == [0] * (len(singles) - 1)
    # of equal ones the first in the graph comes first
    rest = [node for node in transplant.graph.senders if str(node) != "m1"]
    assert [one.node for one in singles[1:]] == rest
    assert greedy(transplant, singles, steps=5) == singles[:1]


def test_without_a_gain_nothing_is_ranked() -> None:
    transplant = opened(tiny_lift("gpt2"), tiny_lift("gpt2"))
    with pytest.raises(EdgewiseError, match="there is no gain that a node could carry"):
        single_effects(transplant)


def test_impossible_searches_are_refused() -> None:
    transplant = opened(tiny_lift("gpt2", 1), tiny_lift("gpt2"))
    singles = single_effects(transplant, [Node.parse("m0")])
    with pytest.raises(EdgewiseError, match="steps is 0; accepted"):
        greedy(transplant, singles, steps=0)
    with pytest.raises(EdgewiseError, match="beam is 0; accepted"):
        greedy(transplant, singles, steps=1, beam=0)
