"""The script that takes a card's figures says what is missing where there is none."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="there is a card")
@pytest.mark.parametrize(
    ("python", "said"),
    [
        (sys.executable, "no NVIDIA card is seen here"),
        ("no-python", "there is no 'no-python' here"),
    ],
)
def test_what_is_missing_is_said(python: str, said: str) -> None:
    script = str(ROOT / "benchmarks" / "on_gpu.sh")
    found = subprocess.run(["bash", script, python], capture_output=True, text=True, check=False)
    assert found.returncode == 1 and said in found.stderr


def test_torch_without_a_card_is_named() -> None:
    script = [sys.executable, str(ROOT / "benchmarks" / "on_gpu.py")]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    found = subprocess.run(script, env=environment, capture_output=True, text=True, check=False)
    assert found.returncode == 1 and "sees no CUDA card" in found.stderr
    assert "on_gpu.sh --dry" in found.stderr
