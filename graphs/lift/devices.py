"""Move tensors to where a part of a model lies; a model may be spread over several devices.

A lifted model's stream, and all that senders write to it, lie on the device of its embedding. What
a block computes from it (queries, keys, values, the heads' mixtures) lies where the block lies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def place(x: Tensor, device: torch.device) -> Tensor:
    """Return x on a device; x itself where it lies there already."""
    return x if x.device == device else x.to(device)
