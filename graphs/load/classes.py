"""Which class of transformers a configuration's model has, and what of it is read.

As in transformers itself, `model_type` decides, and not the names under `architectures`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from ..errors import ModelNotFound, UnsupportedModel
from ..lift.classes.plain import MODEL_TYPE, classes

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_RENAMED = {"RWForCausalLM": "falcon"}
"""Architectures by the names of the code that their first checkpoints brought, of types since."""


def causal_classes() -> Mapping[str, str]:
    """Map model types to the classes of text with a language-model head: transformers' and ours."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return {**MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_TYPE: classes()[1].__name__}


def multimodal_classes() -> Mapping[str, str]:
    """Map model types to transformers' classes of text with images or sound, with a head."""
    from transformers.models.auto import modeling_auto

    found: dict[str, str] = {}
    for name in ("SEQ_TO_SEQ_CAUSAL_LM", "IMAGE_TEXT_TO_TEXT", "MULTIMODAL_LM"):
        found |= getattr(modeling_auto, f"MODEL_FOR_{name}_MAPPING_NAMES", {})
    return found


def is_known(model_type: str, architectures: list[str]) -> bool:
    """Tell whether transformers has itself the class that a model with code of its own names."""
    own = {*map(str.lower, (causal_classes().get(model_type, ""),))}
    own |= {multimodal_classes().get(model_type, "").lower()}
    return any(a.lower() in own or _RENAMED.get(a) == model_type for a in architectures)


def text_settings(config: PretrainedConfig) -> PretrainedConfig:
    """Return a configuration's own text part: itself, where the model is of text alone."""
    text: PretrainedConfig = config.get_text_config()
    return text


def model_class(config: PretrainedConfig, name: str) -> Any:
    """Return the class of a model, with a language-model head, or say why there is none."""
    import transformers

    kind, text = config.model_type, text_settings(config)
    if kind == MODEL_TYPE:
        return classes()[1]
    found = causal_classes().get(kind)
    if text is not config:
        found = multimodal_classes().get(kind, found)
    made = getattr(transformers, found or multimodal_classes().get(kind) or "", None)
    for other in () if made else getattr(config, "architectures", None) or ():
        named = getattr(transformers, other, None)  # of a type that no list of transformers has
        if other.endswith("ForCausalLM") and getattr(named, "config_class", 0) is type(config):
            made = named
    if made is None:
        raise ModelNotFound(
            f"'{name}' is of type '{kind}', for which transformers has no class with a "
            "language-model head. Accepted: decoders, and multimodal models whose text body is one."
        )
    return made


def refuse_other_types(config: PretrainedConfig, name: str) -> None:
    """Refuse a model that is not lifted, or whose text body is not, by its type."""
    from ..lift.families._refused import refusals, supported
    from ..lift.lifting import families

    text = text_settings(config)
    if reason := refusals(families()).get(text.model_type):
        what = f"is a model of type '{config.model_type}'"
        if text is not config:
            what = f"is a multimodal model of type '{config.model_type}', whose text body is of "
            what += f"type '{text.model_type}'"
        raise UnsupportedModel(
            f"'{name}' {what}, which cannot be lifted: {reason}; {supported(families())}."
        )


def text_alone(kind: Any) -> Any:
    """Return a class that builds a multimodal model with its text body and head only.

    It has the name of the whole class, by which transformers finds how old checkpoints name
    tensors. `left_out` lists the paths of the parts that are not there; `restored` is the class
    that a loaded model is given, so that it is what it would have been.
    """
    from ..lift.live.text_body import Absent, text_body

    def build(self: Any, config: Any, *rest: Any, **options: Any) -> None:
        try:
            kind.__init__(self, config, *rest, **options)
        except ImportError:  # of a library that only a part for images needs
            with only_text(config):
                kind.__init__(self, config, *rest, **options)
        body, left = text_body(self), list[str]()
        if body is None:
            raise ModelNotFound(
                f"a {kind.__name__} has no text body with a head of its own that could be read. "
                "Accepted: multimodal models with one language model and one head."
            )
        for path, module in list(self.named_modules()):
            if path and not f"{body.body_path}.".startswith(f"{path}."):
                continue  # a part, or inside one
            for name in list(module._modules):
                child = f"{path}.{name}" if path else name
                here = any(
                    f"{p}.".startswith(f"{child}.") for p in (body.body_path, body.head_path)
                )
                read = hasattr(module._modules[name], "vocab_offset")  # tokens, in any text's run
                if not (here or read or body.inside(child)):
                    module._modules[name] = Absent(self)
                    left.append(child)
        self.left_out = left

    names = {"__init__": build, "__module__": kind.__module__, "__qualname__": kind.__qualname__}
    return type(kind.__name__, (kind,), names)


@contextmanager
def only_text(config: Any) -> Iterator[None]:
    """Let a multimodal model put nothing in the place of each model within that is not of text."""
    from transformers import AutoModel

    from ..lift.live.text_body import Absent

    build, text = AutoModel.from_config, text_settings(config).model_type

    def chosen(config: Any, **options: Any) -> Any:
        return build(config, **options) if config.model_type == text else Absent(None)

    with patch.object(AutoModel, "from_config", chosen):
        yield


def is_left_out(name: str, left_out: list[str]) -> bool:
    """Tell whether a checkpoint's tensor is of a part left out, however old its name is."""
    own = {part for path in left_out for part in (path, path.removeprefix("model."))}
    return any(f"{name}.".startswith(f"{part}.") for part in own)
