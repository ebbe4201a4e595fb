"""Identify a model by its weights alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

_CHUNK = 1 << 22


def weights_sha256(model: PreTrainedModel) -> str:
    """Hash every tensor of the state dict: its name, its shape and its values, sorted by name.

    Values are hashed as little-endian float32 (integers as they are), so a model has one hash
    however it is held: loaded in float32 or float64, from one file or from shards, from a
    directory or as a live module. A tensor that shares its memory with an earlier one (a tied
    unembedding) is left out. 538 MB take about a second.
    """
    found = hashlib.sha256()
    seen: set[tuple[str, int, tuple[int, ...]]] = set()
    for name, tensor in sorted(model.state_dict().items()):
        key = (str(tensor.device), tensor.data_ptr(), tuple(tensor.shape))
        if key in seen:
            continue
        seen.add(key)
        found.update(f"{name} {list(tensor.shape)}\n".encode())
        for block in _float32_blocks(tensor):
            found.update(block)
    return found.hexdigest()


def _float32_blocks(tensor: Tensor) -> Iterator[bytes]:
    """Yield a tensor's values as bytes, a few megabytes at a time."""
    import torch

    flat = tensor.detach().reshape(-1)
    for start in range(0, flat.numel(), _CHUNK):
        block = flat[start : start + _CHUNK].cpu()
        if block.is_floating_point():
            block = block.to(torch.float32)
        array = block.contiguous().numpy()
        yield array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
