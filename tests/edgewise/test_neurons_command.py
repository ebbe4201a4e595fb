"""`edgewise neurons`: its tables and JSON, on a tiny model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from click.testing import Result

from tests.edgewise.conftest import id_rows


def test_the_command_prints_tables_and_gives_json(
    models: dict[str, Path], edgewise: Callable[..., Result], tmp_path: Path
) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in id_rows(12)))
    asked = ("--model", models["llama"], "--task", file, "--examples", 6, "--test", 6, "--mlp", 1)
    lines = edgewise("neurons", *asked, "--neurons", 2).stdout.splitlines()
    assert any(line.startswith("patched straight to the logits; 2 neurons") for line in lines)
    assert sum(line.startswith("m1.n") for line in lines) == 2
    header = next(line for line in lines if line.startswith("neuron"))
    assert header.split()[-4:] == ["→", "3", "→", "7"]
    found = json.loads(edgewise("neurons", *asked, "--mlp", 0, "--json").stdout)
    assert [one["mlp"] for one in found["mlps"]] == ["m1", "m0"]
    assert [len(one["units"]) for one in found["mlps"]] == [10, 10]
    assert found["mlps"][0]["together"][0]["answers"] == [3]
    assert found["task"]["test"] is not None


def test_all_units_are_too_many(
    models: dict[str, Path], pairs: Path, edgewise: Callable[..., Result]
) -> None:
    asked = ("--model", models["llama"], "--task", pairs, "--mlp", 1, "--neurons", 24)
    assert "accepted: 1 to 23, as m1 has units" in edgewise("neurons", *asked, status=1).stderr
