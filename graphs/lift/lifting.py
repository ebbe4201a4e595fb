"""Lifting: read a Hugging Face model into a `LiftedModel`, or refuse it by name.

A family (one file in families/) lists the config attributes it handles and those it knowingly
ignores. Three guards stand against a silently wrong lift: any other attribute that differs from
its default refuses the model; so does any parameter of the model that the description does not
use; and a certificate compares the lifted model with the original (patching/run/certificate.py).

A model may be spread over several devices, each block whole on one; nothing is moved.
"""

from __future__ import annotations

import importlib
import pkgutil
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from ..calls.typed import typed
from ..errors import EdgewiseError, UnsupportedModel, unknown
from .config_reads import inert
from .lifted import ACTIVATIONS, Attention, AttentionContext, LiftedModel, Whole
from .live.guards import (
    check_built,
    check_evaluation,
    check_state,
    check_types,
    check_weights,
    naming_modules,
)
from .live.text_body import TextBody, scales_applied, text_body
from .live.untouched import untouched


@dataclass(frozen=True)
class Family:
    """A model family: the types of configurations it covers, and how such models are described.

    `handled`: config attributes the description depends on; `ignored`: those known to have no
    influence on an evaluation forward pass; `inside`: those that only the code of parts reads
    that are taken whole, which is run as it is. `refuses`: settings among the handled ones that
    `describe` refuses, and why, for people. `layer_types`: what the config's may name. `apart`:
    the paths of parts, `*` for any name, that have no part in what is computed of text. `watched`:
    models are described by what their modules do (see families/_by_shape.py), not by their config,
    whose settings are trusted to the certificate.
    """

    name: str
    model_types: tuple[str, ...]
    handled: frozenset[str]
    ignored: frozenset[str]
    describe: Callable[[Any], LiftedModel]
    refuses: tuple[str, ...] = ()
    layer_types: tuple[str, ...] = ()
    apart: tuple[str, ...] = ()
    inside: frozenset[str] = frozenset()
    watched: bool = False

    @property
    def whole(self) -> bool:
        """Tell whether some token mixers or MLPs of such models are taken whole."""
        return self.watched or bool(self.inside)


_FAMILIES: dict[str, Family] = {}
_OWN: dict[str, Family] = {}
"""Families of classes of this project, of which transformers knows no type."""

_ALWAYS_IGNORED = """
    architectures model_type dtype torch_dtype transformers_version _name_or_path use_cache
    output_attentions output_hidden_states return_dict id2label label2id problem_type
    bos_token_id eos_token_id pad_token_id unk_token_id sep_token_id initializer_range
    chunk_size_feed_forward is_encoder_decoder keys_to_ignore_at_inference
    task_specific_params tokenizer_class ignore_keys_at_rope_validation auto_map
    gradient_checkpointing
"""
ALWAYS_IGNORED = frozenset(_ALWAYS_IGNORED.split())
"""Config attributes of every family that never influence an evaluation forward pass."""

USUAL = """
    vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads
    num_key_value_heads hidden_act rope_parameters tie_word_embeddings
"""
"""What most configurations of models with rotary positions hold, and their families handle."""

TRIED, TRUSTED = "tried as", "settings trusted to the certificate"
"""What a lift's variants say of a type that is not registered, and of settings not understood."""

BY_SHAPE = "shape"
"""The family of models of types that are not registered."""

UNREAD = "attention_dropout max_position_embeddings"
"""What in these configurations has no influence on an evaluation forward pass."""

LAYER_TYPES = ("full_attention", "sliding_attention")
"""The kinds of attention that `layer_types` of a config may name."""


def family(
    name: str,
    model_types: Iterable[str],
    handled: str,
    ignored: str = "",
    refuses: Iterable[str] = (),
    layer_types: Iterable[str] = LAYER_TYPES,
    apart: Iterable[str] = (),
    inside: str = "",
    watched: bool = False,
    own_class: bool = False,
) -> Callable[[Callable[[Any], LiftedModel]], Callable[[Any], LiftedModel]]:
    """Register a family; decorates the function that builds the description.

    `own_class`: of a class of this project, which stands in no list of transformers' types.
    """
    reads = frozenset(handled.split()), frozenset(ignored.split())

    def register(describe: Callable[[Any], LiftedModel]) -> Callable[[Any], LiftedModel]:
        rest = tuple(refuses), tuple(layer_types), tuple(apart)
        own = frozenset(inside.split())
        entry = Family(
            name, tuple(model_types), *reads, describe, *rest, inside=own, watched=watched
        )
        known = _OWN if own_class else _FAMILIES
        known.update(dict.fromkeys(entry.model_types, entry))
        return describe

    return register


def families() -> dict[str, Family]:
    """Map each supported `model_type` to its family."""
    from . import families as package

    for module in pkgutil.iter_modules(package.__path__):
        if not module.name.startswith("_"):
            importlib.import_module(f"{package.__name__}.{module.name}")
    return dict(sorted(_FAMILIES.items()))


@typed
def describe(
    model: Any,
    *,
    grouped_kv: bool = False,
    split_embedding: bool = False,
    try_family: str | None = None,
) -> LiftedModel:
    """Read a live `AutoModelForCausalLM`, unaltered, or say what of it no family understands.

    Of a multimodal model with a head, the text body is read (see `live/text_body.py`). A type that
    nobody has registered is tried by the shape of its modules, or, if given, by the description of
    another family (or type), `try_family`; what of its config that does not know is then listed.
    """
    model = text_body(model) or model
    entry = _entry(model, try_family)
    body = model if isinstance(model, TextBody) else None
    if not (body or type(model).__name__.endswith(("ForCausalLM", "LMHeadModel"))):
        raise UnsupportedModel(
            f"{type(model).__name__} has no language-model head edgewise can read; load the model "
            "with transformers.AutoModelForCausalLM (a PEFT model: merge_and_unload() first)."
        )
    tried = try_family is not None or entry.watched
    trusted: set[str] = set()
    if tried:
        inert_keys, trusted = _trusted(entry, model)
    else:
        inert_keys = _check_config(entry, model)
    check_evaluation(model)
    check_weights(model)
    lifted = _described(entry, model)
    _check_claimed(entry, model, lifted)
    check_state(model)
    check_types(model, lifted.dtype)
    _check_devices(lifted)
    if body is not None:
        scale, cap = scales_applied(body, lifted.logit_scale, lifted.logit_softcap)
        lifted = replace(lifted, logit_scale=scale, logit_softcap=cap)
        lifted.variants["text body of"] = body.title
    groups = {b.attention.kv_heads for b in lifted.blocks if isinstance(b.attention, Attention)}
    if grouped_kv and len(groups) > 1:
        raise UnsupportedModel(
            "the model's layers differ in how many heads share a key and a value, so that they "
            "cannot be grouped; leave `grouped_kv` out, and every head has ports of its own."
        )
    _check_causal(model, lifted)
    graph = replace(lifted.graph, grouped_kv=grouped_kv, split_embedding=split_embedding)
    variants = dict(lifted.variants)
    if inert_keys:
        variants["ignored config keys"] = ", ".join(sorted(inert_keys))
    if tried and str(model.config.model_type) not in entry.model_types:
        variants[TRIED] = try_family or entry.name
        lifted = replace(lifted, family=entry.name)
    if trusted:
        variants[TRUSTED] = ", ".join(sorted(trusted))
    return replace(lifted, graph=graph, model=model, variants=variants)


def _entry(model: Any, try_family: str | None) -> Family:
    """Return the family that a model is described by, or raise an UnsupportedModel."""
    from .families._refused import refusals, supported

    model_type = getattr(getattr(model, "config", None), "model_type", None)
    known = families()
    if try_family is None and (entry := _OWN.get(str(model_type))):
        return entry
    by_shape = next(one for one in known.values() if one.watched)
    watching = replace(by_shape, name=BY_SHAPE, model_types=())
    if try_family is not None:
        by_name = {entry.name: entry for entry in reversed(known.values())} | known
        by_name[BY_SHAPE] = watching
        if try_family not in by_name:
            raise unknown("family", try_family, sorted(by_name))
        return by_name[try_family]
    if found := known.get(str(model_type)):
        return found
    reason = refusals(known).get(str(model_type))
    if reason or model_type is None:
        raise UnsupportedModel(
            f"a model of type '{model_type or type(model).__name__}' cannot be lifted"
            f"{f': {reason}' if reason else ''}; {supported(known)}."
        )
    return watching


def is_tried(model: Any) -> bool:
    """Tell whether nobody has registered or refused a model's type, so that it is tried."""
    try:
        return not _entry(text_body(model) or model, None).model_types
    except UnsupportedModel:
        return False


def families_that_fit(model: Any, **graph: bool) -> Iterator[LiftedModel]:
    """Yield what the families describe a model as that find all their modules in it.

    Every parameter of the model has its place in each; whether it is computed so, only a
    certificate tells. Families that split all heads come first.
    """
    every = {entry.name: entry for entry in reversed(families().values()) if not entry.watched}
    for name in sorted(every, key=lambda name: (every[name].whole, name)):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a description that is only tried
                found = describe(model, **graph, try_family=name)
        except EdgewiseError:
            continue
        yield found


def require_activation(name: str) -> str:
    """Return the name of an activation that the project computes, or raise an UnsupportedModel."""
    if name not in ACTIVATIONS:
        raise UnsupportedModel(
            f"the activation '{name}' is not known; known: {', '.join(sorted(ACTIVATIONS))}."
        )
    return name


def _described(entry: Family, model: Any) -> LiftedModel:
    """Let the family describe a model; a part that it cannot read, or misreads, is named."""
    try:
        lifted = entry.describe(model)
    except UnsupportedModel:
        raise
    except Exception:
        check_built(model)  # says it best, if a part was replaced
        with naming_modules(model, f"the model cannot be read as the family '{entry.name}' is"):
            raise
    check_built(model)
    return lifted


def _check_config(entry: Family, model: Any) -> set[str]:
    """Refuse settings that the family does not know; return those that no code can read."""
    config = model.config
    strange = _strange(entry, config)
    unread = inert(model, strange) if strange else set()
    if len(strange) > len(unread):
        listed = ", ".join(f"{k}={v!r}" for k, v in sorted(strange.items()) if k not in unread)
        raise UnsupportedModel(
            f"the {config.model_type} configuration sets {listed}, which the family "
            f"'{entry.name}' does not understand, so the model cannot be lifted exactly."
        )
    kinds = set(getattr(config, "layer_types", None) or ()) - set(entry.layer_types)
    if kinds and "layer_types" in entry.handled:
        raise UnsupportedModel(
            f"the {config.model_type} configuration names the layer type "
            f"{' and '.join(map(repr, sorted(kinds)))}; known: {', '.join(entry.layer_types)}."
        )
    return unread


def _strange(entry: Family, config: Any) -> dict[str, Any]:
    """Return the settings of a config that a family does not know, but those at their default."""
    default = type(config)().to_dict()
    known = entry.handled | entry.ignored | entry.inside | ALWAYS_IGNORED
    return {
        key: value
        for key, value in config.to_dict().items()
        if key not in known and value != default.get(key) and not key.startswith("_")
    }


def _trusted(entry: Family, model: Any) -> tuple[set[str], set[str]]:
    """Part what a family does not know of a config: what no code reads, and what some does."""
    strange = set(_strange(entry, model.config))
    unread = inert(model, strange) if strange else set()
    return unread, strange - unread


def _check_claimed(entry: Family, model: Any, lifted: LiftedModel) -> None:
    claimed = {t.untyped_storage().data_ptr() for t in tensors_of(lifted)}
    left = [
        name
        for name, parameter in model.named_parameters()
        if parameter.untyped_storage().data_ptr() not in claimed
        and not any(fnmatchcase(name, f"{path}.*") for path in entry.apart)
    ]
    if left:
        raise UnsupportedModel(
            f"{len(left)} parameters of the model have no place in the family "
            f"'{lifted.family}': {', '.join(left[:5])}{' …' if len(left) > 5 else ''}. "
            "Adapters must be merged first; other additions cannot be lifted."
        )


def _check_causal(model: Any, lifted: LiftedModel) -> None:
    """Refuse a mixer taken whole that reads later positions: prompts are padded on the right."""
    x = torch.randn(1, 8, lifted.d_model, generator=torch.Generator().manual_seed(0))
    x = x.to(lifted.tokens)
    other = torch.cat((x[:, :5], 1.5 * x[:, 5:].flip(-1)), 1)
    mask = torch.ones(1, 8, dtype=torch.bool, device=x.device)
    context = AttentionContext(mask, torch.arange(8, device=x.device)[None])
    for layer, block in enumerate(lifted.blocks):
        if not isinstance(block.attention, Whole):
            continue
        with torch.no_grad(), untouched(model):
            old, new = (block.write_whole(one, context)[:, :5] for one in (x, other))
        if float((old - new).abs().max()) > 1e-3 * float(old.abs().max()):
            raise UnsupportedModel(
                f"the token mixer of layer {layer} ({block.attention.words}) reads positions "
                "behind the one it writes for; accepted, where a mixer is taken whole: causal ones."
            )


def _check_devices(lifted: LiftedModel) -> None:
    """Refuse a block that is cut up among devices; derived constants are carried where needed."""
    for layer, block in enumerate(lifted.blocks):
        found = sorted({str(tensor.device) for tensor in tensors_of(block)})
        if len(found) > 1:
            raise UnsupportedModel(
                f"layer {layer} of the model lies on {' and '.join(found)}; accepted: a device_map "
                "that keeps each layer whole on one device."
            )


def tensors_of(value: Any) -> list[Tensor]:
    """List all tensors of a nested description but constants, such as rotary frequencies."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Module):  # of a part that is taken whole
        return [*value.parameters(), *value.buffers()]
    if isinstance(value, (tuple, list)):
        return [t for item in value for t in tensors_of(item)]
    if is_dataclass(value) and not isinstance(value, type):
        return [
            t
            for f in fields(value)
            if f.name != "model" and not f.metadata.get("derived")
            for t in tensors_of(getattr(value, f.name))
        ]
    return []


def by_head(tensor: Any, heads: int) -> Any:
    """View a projection [heads·K, D], or its bias [heads·K], by head; None stays None."""
    return None if tensor is None else tensor.detach().unflatten(0, (heads, -1))


def optional(tensor: Tensor | None) -> Tensor | None:
    """Return a view that records no gradient, or None."""
    return None if tensor is None else tensor.detach()
