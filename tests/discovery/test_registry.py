"""The registry: names, options and their errors; shared checks of every method."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgewise.discovery.registry import get_method, methods
from edgewise.graphs.errors import EdgewiseError, UnknownName
from edgewise.patching.run.runner import Runner
from tests.engine import tiny_lift, tiny_pairs
from tests.methods import quick


def test_unknown_names_list_the_right_ones() -> None:
    with pytest.raises(UnknownName, match=r"unknown method 'acdcc'; did you mean 'acdc'\?"):
        get_method("acdcc")
    with pytest.raises(UnknownName, match="unknown option of method 'eap-ig' 'step'; did you mean"):
        get_method("eap-ig").check({"step": 3})


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("eap-ig", {"steps": 0}, "'steps' of method 'eap-ig' is 0; accepted: at least 1"),
        ("eap-ig", {"steps": 2.5}, "is 2.5; accepted: a whole number"),
        ("eap-ig", {"steps": True}, "is True; accepted: a whole number"),
        ("acdc", {"threshold": "low"}, "is 'low'; accepted: a number"),
        ("acdc", {"threshold": float("nan")}, "is nan; accepted: a finite number"),
        ("acdc", {"threshold": float("inf")}, "is inf; accepted: a finite number"),
        ("eap-ig", {"steps": 10**20}, "accepted: at most 1000"),
        ("acdc", {"ports_first": 1}, "is 1; accepted: true or false"),
    ],
)
def test_wrong_values(method: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(EdgewiseError, match=message):
        get_method(method).check(options)


def test_defaults_are_filled_in_and_whole_numbers_are_numbers() -> None:
    found = get_method("acdc").check({"threshold": 1})
    assert found["threshold"] == 1.0
    assert isinstance(found["threshold"], float)
    assert found["ports_first"] is False


@pytest.mark.parametrize("name", methods())
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_method_runs_in_half_precision(name: str, dtype: torch.dtype) -> None:
    runner = Runner.create(tiny_lift("llama", dtype=dtype), tiny_pairs(), metric="logit_diff")
    exact = Runner.create(tiny_lift("llama"), tiny_pairs(), metric="logit_diff")
    found, expected = (get_method(name)(r, **quick(name)).scores.values for r in (runner, exact))
    both = ~np.isnan(found) & ~np.isnan(expected)
    assert both.any()
    assert np.abs(found - expected)[both].max() < 0.2 * np.abs(expected[both]).max()


@pytest.mark.parametrize("name", methods())
def test_every_method_gives_finite_scores_and_is_deterministic(name: str) -> None:
    method = get_method(name)
    runner = Runner.create(tiny_lift("llama"), tiny_pairs(), metric="logit_diff")
    first, second = (method(runner, **quick(name)) for _ in range(2))
    np.testing.assert_array_equal(first.scores.values, second.scores.values)
    assert method.selects == (first.circuit is not None)
    measured = ~np.isnan(first.scores.values)
    assert (measured <= runner.graph.reads).all()
    assert np.isfinite(first.scores.values[measured]).all()
    if first.circuit is None or quick(name):  # what is trained ranks all edges
        assert (measured == runner.graph.reads).all()
    else:
        assert (measured == first.circuit.kept).all()
