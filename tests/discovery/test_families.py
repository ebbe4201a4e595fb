"""A whole discovery on one tiny random model of every family."""

from __future__ import annotations

import math

import pytest

from edgewise import evaluate, get_method
from edgewise.graphs.lift.lifting import families
from edgewise.patching.run.runner import Runner
from tests.engine import one_of_each_type, tiny_lift, tiny_pairs


def test_every_supported_type_has_a_configuration() -> None:
    assert set(families()) <= set(one_of_each_type())


@pytest.mark.parametrize("name", one_of_each_type().values())
def test_discover_and_evaluate(name: str) -> None:
    runner = Runner.create(tiny_lift(name), tiny_pairs())
    scores = get_method("eap-ig")(runner, steps=2).scores
    found = evaluate(runner, scores.top(scores.graph.edge_count // 2))
    assert math.isfinite(found.faithfulness)
