"""Check that nothing a GGUF file says of its model was lost on the way to transformers.

In: the metadata of a `.gguf` file and the config transformers made of it. transformers passes over
keys it has no place for, such as a rotary scaling, and leaves its own default there; here each of
the architecture's keys must agree with the config, be neutral, or be known not to matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..errors import ModelNotFound

_INERT = (
    "context_length",
    "expert_feed_forward_length",
    "expert_shared_count",
    "expert_shared_feed_forward_length",
    "feed_forward_length",
    "rope.scaling.finetuned",
    "rope.scaling.original_context_length",
    "tensor_data_layout",
    "vocab_size",
)
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

_DEFAULTS: dict[str, Any] = {
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


def refuse_lost_metadata(path: Path, config: Any) -> None:
    """Compare a file's metadata with the config that was made of it.

    Raises:
        ModelNotFound: a key has a value that the config does not have, and that would matter.
    """
    metadata = _read(path)
    lost = {key: value for key, value in metadata.items() if _is_lost(key, value, metadata, config)}
    if lost:
        listing = ", ".join(f"{key}={value!r}" for key, value in sorted(lost.items())[:4])
        raise ModelNotFound(
            f"'{path}' says {listing}{', …' if len(lost) > 4 else ''}, which transformers does not "
            f"take over into its {config.model_type} configuration, so the model would be another "
            "than the file's. Use the model's original safetensors checkpoint instead."
        )


def _read(path: Path) -> dict[str, Any]:
    """Read the architecture's own keys, without its name in front."""
    from gguf import GGUFReader, GGUFValueType

    fields = GGUFReader(path).fields
    name = fields["general.architecture"]
    prefix = bytes(name.parts[name.data[0]]).decode() + "."
    found: dict[str, Any] = {}
    for key, field in fields.items():
        if key.startswith(prefix):
            parts = [field.parts[index] for index in field.data]
            text = GGUFValueType.STRING in field.types
            values = [bytes(part).decode() if text else part[0].item() for part in parts]
            found[key.removeprefix(prefix)] = values[0] if len(values) == 1 else values
    return found


def _is_lost(key: str, value: Any, metadata: Mapping[str, Any], config: Any) -> bool:
    """Tell whether a key's value would matter and is not what the config says."""
    if key in _INERT:
        return False
    if key in _DERIVED:
        wanted = _DERIVED[key](config)
    else:
        wanted = [getattr(config, name, None) for name in _ATTRIBUTES.get(key, ())]
    wanted = [each for each in wanted if each is not None]
    if key == "attention.sliding_window" and not wanted:
        context = metadata.get("context_length", math.inf)
        return isinstance(value, list) or 0 < value < context  # a longer one hides nothing
    if not wanted:
        wanted = [_DEFAULTS.get(key), *([] if key == "attention.causal" else [0, [], ""])]
    return not any(_same(value, each) for each in wanted)


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
    share = _rotary(config, "partial_rotary_factor")
    share = getattr(config, "partial_rotary_factor", None) if share is None else share
    return [int(_head_dim(config) * (1.0 if share is None else share))]


def _kv_heads(config: Any) -> list[Any]:
    names = ("num_key_value_heads", "num_kv_heads")
    held = [getattr(config, name, None) for name in names]
    return held if any(held) else [config.num_attention_heads]


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
