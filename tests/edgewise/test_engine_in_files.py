"""Every file of a computation names the engine and its version."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from edgewise.experiment.document import parse_spec
from edgewise.graphs.files import read_circuit, read_diff, read_scores
from edgewise.graphs.files.example_scores import read_example_scores
from edgewise.run import run

OWN = {"name": "torch", "version": torch.__version__.partition("+")[0]}


def same(found: Any) -> bool:
    """Tell whether an engine is torch; builds are told apart by what follows a plus."""
    return {**found, "version": found["version"].partition("+")[0]} == OWN


def read(name: str | Path) -> Any:
    return json.loads(Path(name).read_text())


def metadata(path: str | Path) -> dict[str, str]:
    with safe_open(path, framework="np") as file:
        return dict(file.metadata())


def test_files_of_commands(edgewise: Any, models: dict[str, Path], pairs: Path) -> None:
    of = ("--task", pairs, "--method", "eap", "--top", 9, "--scores", "--per-example")
    for name, model in (("a", "llama"), ("b", "tuned")):
        edgewise("discover", "--model", models[model], *of, "-o", f"{name}.json")
    found = read("a.json")
    assert same(found["discovery"]["engine"])
    assert same(found["measures"]["engine"])
    assert same(json.loads(read_scores("a.json").engine))
    assert same(json.loads(read_example_scores("a.json").engine))
    assert same(json.loads(metadata("a.scores.safetensors")["engine"]))
    assert same(json.loads(edgewise("evaluate", "a.json", "--json").stdout)["engine"])
    edgewise("evaluate", "a.json", "--stable", "0.5", "-o", "stable.json")
    assert same(read("stable.json")["measures"]["engine"])
    edgewise("diff", "a.json", "b.json", "-o", "diff.json")
    assert same(read("diff.json")["engine"])
    assert same(read_diff("diff.json").extra["engine"])
    edgewise("diff", "a.json", "b.json", "--no-paired", "-o", "structure.json")
    assert "engine" not in read("structure.json")
    edgewise("roles", "a.json", "--sequences", 4, "-o", "roles.json")
    assert same(read("roles.json")["engine"])
    path = ("--model", models["llama"], "--task", pairs, "--path", "embed->logits", "--json")
    assert same(json.loads(edgewise("patch", *path).stdout)["engine"])


def test_files_of_several_models_and_tasks(
    edgewise: Any, models: dict[str, Path], pairs: Path
) -> None:
    both = (models["llama"], models["tuned"], "--task", pairs, "--greedy", 1)
    edgewise("transplant", *both, "-o", "transplant.json")
    assert same(read("transplant.json")["transplant"]["engine"])
    by = ("--task", pairs, "--method", "eap", "--top", 9, "--no-paired")
    edgewise("timeline", models["llama"], models["tuned"], *by, "-o", "line.json")
    assert same(read("line.json")["discovery"]["engine"])
    assert same(read("line.json")["engine"])
    edgewise("matrix", "--model", models["llama"], "--tasks", pairs, "--random", 2, "-o", "m.json")
    assert same(read("m.json")["matrix"]["engine"])


def test_files_of_a_run(models: dict[str, Path], pairs: Path, tmp_path: Path) -> None:
    spec = parse_spec(
        f"""
        [[models]]
        source = "{models["llama"]}"
        name = "base"
        [[models]]
        source = "{models["tuned"]}"
        name = "tuned"
        [task]
        file = "{pairs}"
        [discovery]
        method = "eap"
        top = 9
        [drawing]
        formats = []
        """
    )
    folder = tmp_path / "run"
    run(spec, folder)
    for name in ("base", "tuned"):
        assert same(read_circuit(folder / f"circuits/{name}.json").measures["engine"])
        assert same(read(folder / "evaluation.json")["models"][name]["engine"])
        assert same(json.loads(metadata(folder / f"examples/{name}.safetensors")["engine"]))
        assert same(json.loads(metadata(folder / f"circuits/{name}.scores.safetensors")["engine"]))
    assert same(read(folder / "diffs/base_vs_tuned.json")["engine"])


@pytest.mark.parametrize("name", ["circuit.json", "circuit.scores.safetensors"])
def test_older_files_without_it_are_read(circuit: Path, name: str) -> None:
    from edgewise.graphs.files.scores import write_scores

    if name.endswith("json"):
        document = read(circuit)
        del document["discovery"]["engine"], document["measures"]["engine"]
        circuit.write_text(json.dumps(document))
        assert "engine" not in read_circuit(circuit).measures
    else:
        found = read_scores(circuit)
        write_scores(circuit, found.scores, **found.about)
        assert read_scores(circuit).engine == ""
