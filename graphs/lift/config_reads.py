"""Which config attributes the code of a live model can read: what it cannot read has no effect.

Published config.json files carry keys of older code, such as `rotary` in GPT-J's. transformers
sets them on the config all the same. One that the config class does not declare, and whose name no
code of the model mentions, cannot influence what the model computes.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import inspect
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

SHARED = """
    transformers.activations transformers.cache_utils transformers.configuration_utils
    transformers.masking_utils transformers.modeling_attn_mask_utils
    transformers.modeling_flash_attention_utils transformers.modeling_layers
    transformers.modeling_rope_utils transformers.modeling_utils transformers.pytorch_utils
    transformers.integrations.eager_paged transformers.integrations.flash_attention
    transformers.integrations.flash_paged transformers.integrations.flex_attention
    transformers.integrations.hub_kernels transformers.integrations.moe
    transformers.integrations.sdpa_attention transformers.integrations.sdpa_paged
"""
"""What the models of transformers share and that acts on configs; some versions lack some."""

_APART = (
    "torch.", "transformers.distributed.", "transformers.generation.",
    "transformers.integrations.peft.", "transformers.utils.",
)  # fmt: skip
"""Bases of models that know nothing of a config, or do not take part in one forward pass."""


@dataclass(frozen=True)
class Reads:
    """What some code can read from a config: names in it, and patterns of names it composes."""

    words: frozenset[str]
    patterns: frozenset[str]

    def __contains__(self, name: str) -> bool:
        return name in self.words or any(re.fullmatch(p, name) for p in self.patterns)


def inert(model: Any, keys: Iterable[str]) -> set[str]:
    """Return the keys of a live model's config that no code of the model can read.

    None is returned where some of that code has no source text, or is not transformers' own.
    """
    config, model = model.config, getattr(model, "whole", model)  # of a text body
    if not all(type(x).__module__.startswith("transformers.models.") for x in (model, config)):
        return set()
    fields = {name for kind in type(config).__mro__ for name in vars(kind)}
    aliases = type(config).attribute_map
    declared = {*type(config)().to_dict(), *fields, *aliases, *aliases.values()}
    left = set(keys) - declared
    if not left:
        return set()
    own = own_modules(model) | {type(config).__module__}
    found = [reads_of(name) for name in sorted(own | shared_modules())]
    return {key for key in left if all(r is not None and key not in r for r in found)}


def own_modules(model: Any) -> set[str]:
    """Return the names of the Python modules that define a live model and its config."""
    kinds = {type(model.config), *map(type, model.modules())}
    names = {base.__module__ for kind in kinds for base in kind.__mro__}
    return {
        name
        for name in names
        if name.split(".")[0] not in sys.stdlib_module_names and not f"{name}.".startswith(_APART)
    }


def shared_modules() -> set[str]:
    """Return the names of the Python modules that all models share, of this transformers."""
    return {name for name in SHARED.split() if importlib.util.find_spec(name) is not None}


@functools.lru_cache(maxsize=256)
def reads_of(module: str) -> Reads | None:
    """Collect what a Python module can read from a config; None if its source is not there."""
    try:
        source = inspect.getsource(importlib.import_module(module))
    except (OSError, TypeError, ImportError):
        return None
    return reads_in(source)


def reads_in(source: str) -> Reads:
    """Collect what Python code can read from a config: attribute names, strings, composed names."""
    words: set[str] = set()
    patterns: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Attribute(attr=name) | ast.Constant(value=str(name)):
                words.add(name)
            case ast.Call(
                func=ast.Name(id="getattr" | "hasattr"), args=[_, ast.JoinedStr(values=parts), *_]
            ):
                texts = (p.value if isinstance(p, ast.Constant) else None for p in parts)
                patterns.add("".join(r"\w*" if t is None else re.escape(str(t)) for t in texts))
    return Reads(frozenset(words), frozenset(patterns))
