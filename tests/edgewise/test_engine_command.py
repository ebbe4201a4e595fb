"""`--engine` of the commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.edgewise.conftest import Run

pytest.importorskip("jax", reason="JAX is not installed; make test installs it")


def test_lift_shows_the_second_certificate(models: dict[str, Path], edgewise: Run) -> None:
    found = edgewise("lift", str(models["llama"]), "--engine", "jax")
    assert "second certificate: PASS" in found.output
    document = json.loads(edgewise("lift", str(models["gpt2"]), "--engine", "jax", "--json").output)
    assert document["engines"]["passed"] is True
    assert "engines" not in json.loads(edgewise("lift", str(models["gpt2"]), "--json").output)


def test_an_unknown_engine_is_wrong_usage(models: dict[str, Path], edgewise: Run) -> None:
    found = edgewise("lift", str(models["gpt2"]), "--engine", "jacks", status=2)
    assert "unknown engine 'jacks'" in found.output
