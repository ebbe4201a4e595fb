"""Owners recomputed, and screening, from the command line: what files say, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.edgewise.conftest import Run


@pytest.mark.parametrize("method", ["eap", "eap-ig", "clean-corrupted"])
def test_a_file_tells_that_owners_were_recomputed(
    method: str, edgewise: Run, models: dict[str, Path], pairs: Path
) -> None:
    line = ("discover", "--model", models["llama"], "--task", pairs, "--method", method)
    edgewise(*line, "--local", "--top", 9, "-o", "local.json")
    edgewise(*line, "--top", 9, "-o", "plain.json")
    local, plain = (json.loads(Path(name).read_text()) for name in ("local.json", "plain.json"))
    assert local["discovery"]["local"] is True
    assert local["discovery"]["engine"]["name"] == "torch"
    assert [score for *_, score in local["edges"]] != [score for *_, score in plain["edges"]]


def test_screening_counts_its_questions(
    edgewise: Run, models: dict[str, Path], pairs: Path
) -> None:
    line = ("discover", "--model", models["gpt2"], "--task", pairs, "--method", "screen")
    edgewise(*line, "--ask", 5, "--top", 9, "-o", "found.json")
    found = json.loads(Path("found.json").read_text())["discovery"]
    assert (found["questions"], found["ask"]) == (5, 5)
    result = edgewise(*line, "--ask", -1, "-o", "other.json", status=2)
    assert "ask" in result.output
