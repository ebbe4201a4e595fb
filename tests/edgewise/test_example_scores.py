"""Scores on each example, from the models and files that people name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgewise.experiment.spec import ComputeSpec, DiscoverySpec
from edgewise.graphs.errors import EdgewiseError
from edgewise.patching.prompts.pair_files import pairs_from_rows
from edgewise.session import open_model
from edgewise.steps.discover import discover
from edgewise.steps.example_scores import score_examples
from tests.edgewise.conftest import id_rows


@pytest.mark.parametrize("method", ["eap", "eap-ig", "clean-corrupted"])
def test_their_mean_is_what_discovery_scores(models: dict[str, Path], method: str) -> None:
    session, pairs = open_model(str(models["llama"])), pairs_from_rows(list(id_rows()))
    spec, compute = DiscoverySpec(method), ComputeSpec(batch_size=4)
    found = score_examples(session, pairs, spec, compute)
    scores = discover(session, pairs, spec, compute).scores.scores
    np.testing.assert_allclose(found.mean().values, scores.values, rtol=1e-5, atol=1e-6)
    assert found.groups == pairs.groups


def test_of_a_search_it_is_the_method_that_stands_in(models: dict[str, Path]) -> None:
    session, pairs = open_model(str(models["llama"])), pairs_from_rows(list(id_rows()))
    searched = score_examples(session, pairs, DiscoverySpec("acdc"))
    scored = score_examples(session, pairs, DiscoverySpec("eap-ig", metric="kl"))
    np.testing.assert_array_equal(searched.values, scored.values)


def test_a_metric_without_gradient_is_refused(models: dict[str, Path]) -> None:
    session, pairs = open_model(str(models["llama"])), pairs_from_rows(list(id_rows()))
    with pytest.raises(EdgewiseError, match="'accuracy' has no gradient"):
        score_examples(session, pairs, DiscoverySpec("acdc", metric="accuracy"))
