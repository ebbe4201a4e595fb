"""A program that ends while JAX's threads let go of what they were given.

A tensor that came by dlpack is let go of with Python's lock; taken while Python ends, that aborts
the program, after its work is done, in about one of four runs of the program below.
"""

from __future__ import annotations

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from edgewise.patching.compiled.crossing import to_array

PROGRAM = """
import jax, jax.numpy as jnp, torch
from edgewise.patching.compiled.crossing import to_array

@jax.jit
def far(x, y):
    for _ in range(6):
        y = jnp.tanh(y @ x)
    return y

device = jax.devices()[0]
for _ in range(4):
    x, y = (to_array(torch.ones(900, 900), device) for _ in range(2))
    y = far(x, y)  # not waited for
del x, y
"""


def test_python_ends_in_peace_while_programs_run() -> None:
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stderr) == (0, "")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64])
def test_on_a_processor_nothing_crosses_by_dlpack(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(jax.dlpack, "from_dlpack", None)
    x = torch.arange(4096).reshape(64, 64).to(dtype)
    with jax.enable_x64(True):
        found = to_array(x, jax.devices()[0])
    assert found.dtype == jnp.dtype(str(dtype).removeprefix("torch."))
    np.testing.assert_array_equal(np.asarray(found).astype(float), x.double().numpy())
    if x.data_ptr() % 64 == 0:
        assert found.unsafe_buffer_pointer() == x.data_ptr()
