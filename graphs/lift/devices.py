"""Move tensors to where a part of a model lies; a model may be spread over several devices.

A lifted model's stream, and all that senders write to it, lie on the device of its embedding. What
a block computes from it (queries, keys, values, the heads' mixtures) lies where the block lies.
"""

from __future__ import annotations

from collections.abc import Sequence
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
