"""Move tensors to where a part of a model lies, and multiply them there the fast way.

A model may be spread over several devices. A lifted model's stream, and all that senders write to
it, lie on the device of its embedding. What a block computes from it (queries, keys, values, the
heads' mixtures) lies where the block lies.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor


def place(x: Tensor, device: torch.device) -> Tensor:
    """Return x on a device; x itself where it lies there already."""
    return x if x.device == device else x.to(device)


def send(values: np.ndarray, like: Tensor) -> Tensor:
    """Return an array on a tensor's device and in its type; a graphics card is not waited for.

    On a card the array is copied before this returns; on the processor the result may share it.
    """
    import torch

    ahead = like.device.type == "cuda"  # which first takes a copy of what lies in common memory
    return torch.from_numpy(values).to(like.device, like.dtype, non_blocking=ahead)


def summing(like: Tensor) -> tuple[torch.device, torch.dtype]:
    """Return where, and in which type, many results on a tensor's device are added up: float64.

    A device without it leaves adding up to the processor.
    """
    import torch

    without = like.device.type == "mps"
    return torch.device("cpu") if without else like.device, torch.float64


def taken(x: Tensor, which: Sequence[int] | np.ndarray, dim: int = 0) -> Tensor:
    """Take some places of an axis, as indexing with a list does; a card is not waited for.

    >>> import torch
    >>> taken(torch.tensor([[1, 2, 3], [4, 5, 6]]), [2, 0], 1).tolist()
    [[3, 1], [6, 4]]
    """
    import numpy as np
    import torch

    index = torch.from_numpy(np.asarray(which, dtype=np.int64))
    return x.index_select(dim, index.to(x.device, non_blocking=x.device.type == "cuda"))


LARGE_PRODUCT = 1 << 22
"""From how many multiplications on a product is worth handing to another library."""


def projected(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x · weightᵀ + bias: x [..., in], weight [out, in], bias [out].

    The library that torch multiplies float32 with on a processor takes the widest instructions on
    Intel's alone; on others that have them, oneDNN's product of the same numbers takes half the
    time. It is asked for where no gradient is, of large products.

    >>> import torch
    >>> projected(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0], [5.0, 6.0]])).tolist()
    [[11.0, 17.0]]
    """
    import torch

    if (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel() * len(weight) >= LARGE_PRODUCT
        and not torch.is_grad_enabled()
        and type(x) in (torch.Tensor, torch.nn.Parameter)
        and type(weight) in (torch.Tensor, torch.nn.Parameter)
        and half_wide()
        and torch.get_float32_matmul_precision() == "highest"  # else oneDNN rounds the factors
    ):
        out: Tensor = torch.nn.functional.linear(x.to_mkldnn(), weight, bias).to_dense()
        return out
    return torch.nn.functional.linear(x, weight, bias)


@cache
def half_wide() -> bool:
    """Tell whether the processor has wider instructions than torch's usual products take."""
    import torch

    wide = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    both = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()
    return wide and both and "AuthenticAMD" in _processor()


def _processor() -> str:
    """Say what the processor calls itself."""
    try:
        with Path("/proc/cpuinfo").open(encoding="ascii", errors="ignore") as file:
            return file.read(1 << 12)
    except OSError:
        return platform.processor()
