"""Memory that runs out is reported as that, with what was asked for and what to lower."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgewise.errors import OutOfMemory
from edgewise.graphs.errors import ModelNotFound, out_of_memory, within_memory
from edgewise.patching.run.runner import Runner
from edgewise.workflow import Selection, discover, open_model, open_task

MUCH = 2**50


def of_torch() -> None:
    torch.empty(MUCH, dtype=torch.uint8)


def of_numpy() -> None:
    np.empty(2**56, dtype=np.uint8)


def of_python() -> None:
    bytearray(2**56)


@pytest.mark.parametrize(
    ("ask", "said"),
    [(of_torch, "no further 1,073,741,824 MB"), (of_numpy, "64.0 PiB"), (of_python, "memory")],
)
def test_real_failures_to_allocate_are_told(ask: Callable[[], None], said: str) -> None:
    with (
        pytest.raises(OutOfMemory, match="`batch_size`, fewer `examples`") as caught,
        within_memory(),
    ):
        ask()
    assert said in str(caught.value)
    assert "the processor" in str(caught.value)
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0"), "CUDA"),
        (RuntimeError("MPS backend out of memory. Tried to allocate 1.50 GB"), "1.50 GB"),
        (RuntimeError("unable to mmap 538090408 bytes: Cannot allocate memory (12)"), "513 MB"),
        (OSError(errno.ENOMEM, "Cannot allocate memory", "model.safetensors"), "processor"),
        (MemoryError("std::bad_alloc"), "processor"),
    ],
)
def test_what_libraries_say_of_it_is_known(error: Exception, said: str) -> None:
    assert said in str(out_of_memory(error))


@pytest.mark.parametrize(
    "error",
    [RuntimeError("sizes do not match"), OSError(errno.ENOENT, "no such file"), KeyError(3)],
)
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    assert out_of_memory(error) is None
    with pytest.raises(type(error)), within_memory():
        raise error


def test_a_run_without_memory_is_no_mistake_in_edgewise(
    edgewise: Any, models: dict[str, Path], pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = open_model(models["llama"])
    own, _ = open_task(session, str(pairs))
    monkeypatch.setattr(Runner, "chunks", lambda self: of_torch())
    said = edgewise(
        "discover", "--model", models["llama"], "--task", pairs, "--method", "eap", "--top", 5,
        "-o", "circuit.json", status=1,
    ).stderr  # fmt: skip
    assert "the memory does not suffice" in said
    assert "mistake in edgewise" not in said
    with pytest.raises(OutOfMemory, match="asked for at once"):
        discover(session, own, method="eap", select=Selection(top=5))


def test_a_model_that_does_not_fit_is_not_called_damaged(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import PreTrainedModel

    def from_pretrained(*_: object, **__: object) -> None:
        of_torch()

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", from_pretrained)
    with pytest.raises(OutOfMemory, match="another `device` or a smaller model") as caught:
        open_model(models["llama"])
    assert not isinstance(caught.value, ModelNotFound)
