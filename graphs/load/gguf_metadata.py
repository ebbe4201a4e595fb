"""Check that nothing a GGUF file says of its model was lost on the way to transformers.

In: the metadata of a `.gguf` file and the config transformers made of it. transformers passes over
keys it has no place for, such as a rotary scaling, and leaves its own default there; here each of
the architecture's keys must agree with the config, be neutral, or be known not to matter.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

from ..errors import ModelNotFound
from .libraries import explained

ACCEPTED = (
    "Accepted: a complete GGUF file of a decoder language model that transformers can convert."
)

_INERT = (
    "context_length", "expert_feed_forward_length", "expert_shared_count",
    "expert_shared_feed_forward_length", "feed_forward_length", "rope.scaling.finetuned",
    "rope.scaling.original_context_length", "tensor_data_layout", "vocab_size",
)  # fmt: skip
"""Keys without influence, or that the tensors' shapes fix (a misfit is refused on loading)."""

_EPSILONS = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps", "norm_epsilon")
_ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "block_count": ("num_hidden_layers",),
    "embedding_length": ("hidden_size",),
    "attention.head_count": ("num_attention_heads",),
    "attention.layer_norm_epsilon": _EPSILONS,
    "attention.layer_norm_rms_epsilon": _EPSILONS,
    "attn_logit_softcapping": ("attn_logit_softcapping",),
    "final_logit_softcapping": ("final_logit_softcapping",),
    "logit_scale": ("logit_scale",),
    "embedding_scale": ("embedding_multiplier",),
    "residual_scale": ("residual_multiplier",),
    "attention.clamp_kqv": ("clip_qkv",),
    "use_parallel_residual": ("use_parallel_residual",),
    "expert_count": ("num_experts", "num_local_experts"),
    "expert_used_count": ("num_experts_per_tok",),
    "expert_weights_norm": ("norm_topk_prob",),
}
"""Keys that say the same as an attribute of the config, under one of these names."""

_DEFAULTS: dict[str, object] = {
    "attention.causal": True,
    "expert_gating_func": 1,  # softmax
    "expert_weights_scale": 1.0,
    "logit_scale": 1.0,
    "embedding_scale": 1.0,
    "residual_scale": 1.0,
    "rope.scale_linear": 1.0,
    "rope.scaling.factor": 1.0,
    "rope.scaling.attn_factor": 1.0,
    "rope.scaling.type": "none",
    "rope.scaling.yarn_beta_fast": 32.0,  # of influence only beside a type
    "rope.scaling.yarn_beta_slow": 1.0,
    "rope.scaling.yarn_ext_factor": -1.0,
    "rope.scaling.yarn_attn_factor": 1.0,
}
"""What changes nothing, where it is not 0 or nothing at all."""


def refuse_lost_metadata(path: Path, metadata: Mapping[str, object], config: Any) -> None:
    """Refuse a file with a value that matters and that the config made of it does not have."""
    lost = {key: value for key, value in metadata.items() if _is_lost(key, value, metadata, config)}
    if lost:
        listing = ", ".join(f"{key}={value!r}" for key, value in sorted(lost.items())[:4])
        raise ModelNotFound(
            f"'{path}' says {listing}{', …' if len(lost) > 4 else ''}, which transformers does not "
            f"take over into its {config.model_type} configuration, so the model would be another "
            "than the file's. Use the model's original safetensors checkpoint instead."
        )


class Header(NamedTuple):
    """What a file says: the architecture's own keys, without its name in front, and its tensors."""

    metadata: Mapping[str, object]
    shapes: Mapping[str, tuple[int, ...]]


def read_header(path: Path) -> Header:
    """Read a file's metadata and its tensors' shapes, without believing lengths as `gguf` does."""
    with explained(f"'{path}' cannot be read as a GGUF model", ACCEPTED), path.open("rb") as opened:
        reader = _Reader(opened, path.stat().st_size)
        if reader.take(4) != b"GGUF":
            raise ValueError("it does not begin with the bytes GGUF")
        version = reader.number("I")
        if version & 0xFFFF == 0:  # the other byte order
            reader.order, version = ">", version >> 24
        if version not in (2, 3):
            raise ValueError(f"it is of version {version}; accepted: 2, 3")
        tensors = reader.count()
        fields = {reader.text(): reader.value() for _ in range(reader.count())}
        shapes = {reader.text(): reader.shape() for _ in range(tensors)}
    prefix = f"{fields.get('general.architecture')}."
    own = {key: value for key, value in fields.items() if key.startswith(prefix)}
    return Header({key.removeprefix(prefix): value for key, value in own.items()}, shapes)


_FORMS = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
"""The types of numbers, as `struct` names them."""

_TEXT, _LIST = 8, 9
_MOST_DIMENSIONS = 4
_LONGEST = 2**28
"""Most bytes of one text or list; the longest in use, a vocabulary's, is a list of short ones."""


class _Reader:
    """Take values from a file one after the other, as the format GGUF has them (version 2, 3)."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self.file, self.left, self.order = file, size, "<"

    def take(self, size: int) -> bytes:
        if size > min(self.left, _LONGEST):
            raise ValueError("it says more than it holds; it is damaged or was cut off")
        self.left -= size
        return self.file.read(size)

    def number(self, form: str) -> Any:
        """Return the next number (or truth) of a form of `struct`."""
        return struct.unpack(self.order + form, self.take(struct.calcsize(form)))[0]

    def count(self) -> int:
        """Return a number of things that follow, each of a byte at least."""
        found = int(self.number("Q"))
        if found > self.left:
            raise ValueError(f"it says that {found} things follow, and has {self.left} bytes")
        return found

    def text(self) -> str:
        return self.take(self.count()).decode(errors="replace")

    def value(self) -> object:
        """Return the next value with its type before it; a list of one is its only value."""
        kind = self.number("I")
        if kind != _LIST:
            return self.of(kind)
        kind, length = self.number("I"), self.count()
        if kind in _FORMS:
            packed = self.take(length * struct.calcsize(_FORMS[kind]))
            found = list(struct.unpack(f"{self.order}{length}{_FORMS[kind]}", packed))
        else:
            found = [self.of(kind) for _ in range(length)]
        return found[0] if length == 1 else found

    def of(self, kind: int) -> object:
        if kind == _TEXT:
            return self.text()
        if kind not in _FORMS:
            raise ValueError(f"it holds a value of type {kind}, which GGUF does not have")
        return self.number(_FORMS[kind])

    def shape(self) -> tuple[int, ...]:
        """Return the shape of the next tensor, and pass over where it stands."""
        dimensions = self.number("I")
        if dimensions > _MOST_DIMENSIONS:
            raise ValueError(f"it holds a tensor of {dimensions} dimensions")
        found = tuple(self.number("Q") for _ in range(dimensions))
        self.take(struct.calcsize("=IQ"))
        return found


def _is_lost(key: str, value: Any, metadata: Mapping[str, object], config: Any) -> bool:
    """Tell whether a key's value would matter and is not what the config says."""
    if key in _INERT:
        return False
    if key in _DERIVED:
        said = _DERIVED[key](config)
    else:
        said = [getattr(config, name, None) for name in _ATTRIBUTES.get(key, ())]
    said = [each for each in said if each is not None]
    if key == "attention.sliding_window" and not said:
        context = metadata.get("context_length", math.inf)
        return isinstance(value, list) or 0 < value < context  # a longer one hides nothing
    if not said:
        said = [_DEFAULTS.get(key), *([] if key == "attention.causal" else [0, [], ""])]
    return not any(_same(value, each) for each in said)


def _same(value: Any, wanted: Any) -> bool:
    """Compare numbers up to the rounding of float32, everything else exactly."""
    if isinstance(value, (int, float)) and isinstance(wanted, (int, float)):
        return math.isclose(value, wanted, rel_tol=1e-6)
    return bool(value == wanted)


# -- what several attributes decide --------------------------------------------------------------


def _head_dim(config: Any) -> int:
    own = getattr(config, "head_dim", None)
    return int(own or config.hidden_size // config.num_attention_heads)


def _rotary(config: Any, name: str, kind: str = "full_attention") -> Any:
    """Look up one of the rotary parameters, which some models hold for each kind of layer."""
    parameters = getattr(config, "rope_parameters", None) or {}
    parameters = parameters.get(kind) or parameters
    return parameters.get(name)


def _rotary_size(config: Any) -> list[Any]:
    part = _rotary(config, "partial_rotary_factor")
    part = getattr(config, "partial_rotary_factor", None) if part is None else part
    return [int(_head_dim(config) * (1.0 if part is None else part))]


def _kv_heads(config: Any) -> list[Any]:
    stated = [getattr(config, name, None) for name in ("num_key_value_heads", "num_kv_heads")]
    return stated if any(stated) else [config.num_attention_heads]


def _attention_scale(config: Any) -> list[Any]:
    size = getattr(config, "query_pre_attn_scalar", None) or _head_dim(config)
    return [getattr(config, "attention_multiplier", None) or size**-0.5, 0]


def _window_pattern(config: Any) -> list[Any]:
    """Give the pattern as a list of which layers see a window, or as n: each n-th sees all."""
    windowed = [kind == "sliding_attention" for kind in getattr(config, "layer_types", None) or ()]
    period = windowed.index(False) + 1 if False in windowed else 0
    regular = [bool((layer + 1) % period) for layer in range(len(windowed))] if period else []
    return [windowed, *([period] if regular == windowed else [])]


_DERIVED: dict[str, Callable[[Any], list[Any]]] = {
    "attention.head_count_kv": _kv_heads,
    "attention.key_length": lambda config: [_head_dim(config)],
    "attention.value_length": lambda config: [_head_dim(config)],
    "attention.scale": _attention_scale,
    "attention.sliding_window": lambda config: [getattr(config, "sliding_window", None)],
    "attention.sliding_window_pattern": _window_pattern,
    "rope.dimension_count": _rotary_size,
    "rope.freq_base": lambda config: [_rotary(config, "rope_theta")],
    "rope.freq_base_swa": lambda config: [_rotary(config, "rope_theta", "sliding_attention")],
}
