"""Compare what a configuration says of a model's size with the weights that are there.

transformers builds what a configuration names before it looks at the weights: a million layers
take for ever, a hidden size of a million all memory. Here a model is built only if the weights, by
the headers of their files, can fill it.
"""

from __future__ import annotations

import copy
import math
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import ModelNotFound
from .libraries import silenced

if TYPE_CHECKING:
    from transformers import PretrainedConfig

TOKENIZER_BYTES = 2**28
"""Most bytes of a file of a tokenizer, or of any other of text; the largest in use have 40 MB."""

_TEXTS = (".json", ".txt", ".model", ".jinja")
_MOST_TIMES = 2
"""A model may have this many times the stored numbers: a tied matrix is stored once."""

_BUFFERS = 2**28
"""Most numbers in a model's buffers (causal masks, rotary tables), which no file stores."""


class Stored(NamedTuple):
    """What weight files hold: how many tensors and numbers, and the largest dimension of any."""

    tensors: int
    numbers: int
    largest: int

    @staticmethod
    def of(shapes: Iterable[Iterable[int]]) -> Stored:
        """Count tensors of these shapes."""
        all_shapes = [tuple(shape) for shape in shapes]
        largest = max((length for shape in all_shapes for length in shape), default=0)
        return Stored(len(all_shapes), sum(map(math.prod, all_shapes)), largest)


def stored_in(files: Iterable[Path]) -> Stored:
    """Read how much is in weight files, from their headers; of a pickle, at most how much."""
    return Stored.of(shape for file in files if file.is_file() for shape in _shapes(file))


def _shapes(file: Path) -> Iterator[list[int]]:
    if file.suffix != ".safetensors":
        parts = 1
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                parts = len(archive.infolist())
        yield from [[-(-file.stat().st_size // parts)]] * parts
        return
    from safetensors import safe_open

    with safe_open(file, framework="np") as opened:
        for name in opened.keys():  # noqa: SIM118 - it is no mapping
            yield opened.get_slice(name).get_shape()


def refuse_large_texts(directory: Path) -> None:
    """Refuse a directory with a file of text (a tokenizer, a configuration) beyond any real one."""
    for file in directory.iterdir():
        if file.suffix in _TEXTS and file.is_file() and file.stat().st_size > TOKENIZER_BYTES:
            raise ModelNotFound(
                f"'{file}' has {file.stat().st_size / 2**20:.0f} MB; accepted for such a file: up "
                f"to {TOKENIZER_BYTES / 2**20:.0f} MB. It is not what its name says."
            )


def refuse_counts(settings: Mapping[str, object], stored: Stored, what: str) -> None:
    """Refuse a configuration that names more layers or experts than the weights can be of.

    Each layer has a tensor of its own; experts have too, or are a dimension of one. This is
    checked before a configuration is built, which may make a list of one entry a layer.
    """
    limits = dict.fromkeys(_LAYERS, stored.tensors)
    limits["num_labels"] = max(1024, stored.largest)  # of no use here, but each gets a name
    parts = [part for part in settings.values() if isinstance(part, dict)]
    for name, value in chain.from_iterable(one.items() for one in (settings, *parts)):
        if name.endswith(_EXPERTS):
            limits[name] = max(stored.tensors, stored.largest)
        number = max(numbers_in(value), default=0) if name in limits else 0
        if number > limits.get(name, 0):
            raise ModelNotFound(
                f"{what} says {name} is {number}, but its weights are {stored.tensors} tensors; "
                "accepted: a configuration of exactly these weights."
            )


_LAYERS = (
    "num_hidden_layers", "n_layer", "n_layers", "num_layers", "attention_types", "block_count",
)  # fmt: skip
_EXPERTS = ("_experts", "expert_count", "expert_used_count")


def numbers_in(value: object) -> Iterator[int]:
    """List the whole numbers in a setting, those in lists and objects within it too."""
    if isinstance(value, list | dict):
        for one in value.values() if isinstance(value, dict) else value:
            yield from numbers_in(one)
    elif isinstance(value, int):
        yield value


def refuse_sizes(config: PretrainedConfig, kind: Any, stored: Stored, what: str) -> None:
    """Refuse a configuration of a model, of this class, with more numbers than its weights have."""
    import torch

    with silenced(), torch.device("meta"):  # of shapes only, without memory
        model = kind(copy.deepcopy(config))
    wanted = sum(parameter.numel() for parameter in model.parameters())
    if wanted > _MOST_TIMES * stored.numbers:
        raise ModelNotFound(
            f"{what} describes a model of {wanted} numbers, but its weights have {stored.numbers}; "
            "accepted: a configuration of exactly these weights."
        )
    held = sum(buffer.numel() for buffer in model.buffers())
    if held > max(_BUFFERS, _MOST_TIMES * stored.numbers):
        raise ModelNotFound(
            f"{what} describes a model whose masks and tables take {held} numbers; accepted: a "
            "smaller number of positions."
        )
