"""What becomes of each type of decoder that the installed transformers has, from the registries.

No model is built: families say which types they lift, and for the others the reasons are listed.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass

from ..lifting import families
from ._refused import refusals

HEADS, WHOLE, REFUSED = "heads", "whole", "refused"
WORDS = {
    HEADS: "split into heads",
    WHOLE: "some parts taken whole",
    REFUSED: "refused, because",
}
"""How the fate of a type is said to people."""

UNKNOWN = "no family describes it: tried by the shape of its modules, and the certificate decides"
"""What is said of a type that is newer than this version of edgewise."""


@dataclass(frozen=True)
class DecoderType:
    """One type of configuration and what becomes of its models.

    `model_class`: of transformers, empty for the text within another type's models. `lift`: one of
    `WORDS`; `why`: the family in words, or why such a model is refused. `text`: of models around a
    text model, or under a second name, the type whose fate is theirs.
    """

    model_type: str
    model_class: str
    lift: str
    why: str
    text: str = ""


def decoder_types() -> list[DecoderType]:
    """List every type that transformers takes for a causal language model, by name."""
    return sorted(_types(), key=lambda one: one.model_type)


def _types() -> Iterator[DecoderType]:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CLASSES

    lifted = families()
    refused = refusals(lifted)
    for kind in {*CLASSES, *lifted}:
        name = CLASSES.get(kind, "")
        own = name if isinstance(name, str) else name[0]
        text = "" if kind in lifted or kind in refused else _text_of(kind)
        meant = text or kind
        if (entry := lifted.get(meant)) is not None:
            about = inspect.getdoc(inspect.getmodule(entry.describe)) or ""
            words = " ".join(about.split("\n\n")[0].split()).rstrip(".")
            words = f"as {text}. {words}" if text else words
            yield DecoderType(kind, own, WHOLE if entry.whole else HEADS, words, text)
        elif meant not in refused:
            yield DecoderType(kind, own, WHOLE, UNKNOWN, text)
        else:
            reason = refused[meant]
            reason = f"its text model is a {text}: {reason}" if text else reason
            yield DecoderType(kind, own, REFUSED, reason, text)


def _text_of(kind: str) -> str:
    """Return the type of the text model in models of a type, or its other name; empty if none."""
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    config = CONFIG_MAPPING[kind]
    inner = getattr(config, "sub_configs", {}).get("text_config", config)
    if inner is AutoConfig:  # any type: that of the published models is the default
        inner = type(config().get_text_config())
    found = str(getattr(inner, "model_type", ""))
    return "" if found == kind else found
