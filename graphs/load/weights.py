"""Identify a model by its weights alone, and notice when they are changed in place."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module
    from transformers import PreTrainedModel

_CHUNK = 1 << 22
_WHOLE, _SAMPLE = 4096, 64


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


def versions(tensors: Iterable[Tensor]) -> tuple[tuple[int, int, int], ...]:
    """Return what changes when tensors are replaced, moved or written to, as optimisers write.

    Writing through `.data`, or to numpy's view of a tensor, is not counted by torch.
    """
    return tuple((id(t), t.data_ptr(), 0 if t.is_inference() else int(t._version)) for t in tensors)


def weights_state(model: Module) -> tuple[object, ...]:
    """Return what changes when a model's weights do, or their names; see `tensors_state`."""
    held = model.state_dict(keep_vars=True)
    return (*held, *tensors_state(held.values()))


def tensors_state(tensors: Iterable[Tensor]) -> tuple[object, ...]:
    """Return what changes when tensors do, without reading them all.

    Beside `versions`, a hash of small tensors and of 64 values of each large one: it tells of most
    of what torch does not count. 538 MB take two milliseconds.
    """
    import torch

    held, sample = list(tensors), []
    for tensor in held:
        flat = tensor.detach().reshape(-1)
        step = 1 if flat.numel() <= _WHOLE else flat.numel() // _SAMPLE
        sample.append(flat[::step].cpu().to(torch.float64))  # MPS has no float64
    digest = hashlib.sha256(torch.cat(sample).numpy().tobytes()).digest()
    return (digest, *versions(held))


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
