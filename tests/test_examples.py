"""Every example runs as a user would run it: without arguments, results into the current folder.

An example that takes longer than a minute, or needs more than a test may, has the words
"Run by hand" in its docstring, with the reason; it is then compiled only.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from edgewise.experiment.document import read_spec
from edgewise.experiment.hypotheses_file import read_hypotheses

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "examples"
EXAMPLES = sorted([*FOLDER.glob("*.py"), *FOLDER.glob("*/*.py")])
LONGEST = 59  # lines


def docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


DECLARED = sorted(FOLDER.rglob("*.toml"))
HYPOTHESES = [path for path in DECLARED if "\n[hypotheses]" in path.read_text(encoding="utf-8")]
EXPERIMENTS = [path for path in DECLARED if path not in HYPOTHESES]
BY_HAND = [path for path in EXAMPLES if "run by hand" in docstring(path).lower()]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.relative_to(FOLDER).as_posix())
def test_example_is_short_and_explained(path: Path) -> None:
    assert docstring(path), "say what the example shows"
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.name)
def test_experiment_is_declared_rightly(path: Path) -> None:
    spec = read_spec(path)
    assert spec.name != path.stem, "give it a name"
    assert spec.description


@pytest.mark.parametrize("path", HYPOTHESES, ids=lambda path: path.name)
def test_hypotheses_are_declared_rightly(path: Path) -> None:
    assert len(read_hypotheses(path)) > 1
    assert path.read_text(encoding="utf-8").startswith("# "), "say of which paper, and the command"


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    [p for p in EXAMPLES if p not in BY_HAND],
    ids=lambda path: path.relative_to(FOLDER).as_posix(),
)
def test_example_runs(path: Path, tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    done = subprocess.run(
        [sys.executable, f"examples/{path.relative_to(FOLDER).as_posix()}"],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
