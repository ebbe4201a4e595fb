"""Products with the unembedding's rows in a wider type than theirs, a block of rows at a time."""

from __future__ import annotations

import torch
from torch import Tensor

ROWS = 4096  # that are widened at once


def times(y: Tensor, weight: Tensor) -> Tensor:
    """Multiply y [..., D] with all rows [V, D] in the type of y, [..., V]."""
    if weight.dtype == y.dtype:
        return y @ weight.t()
    return torch.cat([y @ rows.to(y.dtype).t() for rows in weight.split(ROWS)], -1)


def weighted(p: Tensor, weight: Tensor) -> Tensor:
    """Add up rows [V, D] with weights p [..., V] in the type of p, [..., D]."""
    if weight.dtype == p.dtype:
        return p @ weight
    parts = zip(p.split(ROWS, -1), weight.split(ROWS), strict=True)
    return torch.stack([part @ rows.to(p.dtype) for part, rows in parts]).sum(0)
