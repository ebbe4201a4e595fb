"""A model's weights: the hash that tells it by them alone, and how they lie in memory.

Of a model that is loaded here equal layers' weights lie side by side on a card: one tensor of all
layers is a view then, which programs that go through layers as a scan take without a copy. Names,
shapes and values of all parameters stay as they are. A model that is handed in is never altered.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module, Parameter
    from transformers import PreTrainedModel

_CHUNK = 1 << 22
_LAYER = re.compile(r"\.(\d+)\.")


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


def lay_side_by_side(model: Module, device: str) -> None:
    """Move a model to a device, equal parameters of its layers into one tensor each.

    One stack is filled after the other, so that no more than one stands twice on the way.
    """
    import torch

    for stack in _stacks(model):
        first = stack[0]
        shape = (len(stack), *first.shape)
        whole = torch.empty(shape, dtype=first.dtype, device=device)
        for own, parameter in zip(whole, stack, strict=True):
            parameter.data = own.copy_(parameter.data)
    model.to(device)


def _stacks(model: Module) -> list[list[Parameter]]:
    """Return parameters of two layers or more whose names differ in the layer alone, in order."""
    found: dict[object, dict[int, Parameter]] = {}
    for name, parameter in model.named_parameters():  # a tied one by its first name
        layer = _LAYER.search(name)
        if layer is None or not parameter.is_contiguous():
            continue
        kind = (name[: layer.start()], name[layer.end() :], parameter.shape, parameter.dtype)
        found.setdefault(kind, {})[int(layer[1])] = parameter
    return [[own[i] for i in sorted(own)] for own in found.values() if len(own) > 1]
