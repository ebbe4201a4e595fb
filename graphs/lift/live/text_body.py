"""The text body of a multimodal model: its language model and head, as one model of text alone.

It is read as any causal model is, but it is run through the whole model's own code, on tokens
alone, so that the certificate compares with what the whole model computes.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from ...errors import UnsupportedModel

_PLACEHOLDER = re.compile(r"(image|video|audio|speech|vision)(_\w+)?_token_(id|index)")


class TextBody(Module):
    """A language model within a `whole`, under the names that a causal model of its type has.

    `config` is the text's. `body_path`, `head_path`: where the two parts are in the whole.
    """

    whole: Any

    def __init__(self, whole: Any, body_path: str, head_path: str) -> None:
        self.__dict__["whole"] = whole  # not registered: its other parts are no parts of this
        super().__init__()
        self.body_path, self.head_path = body_path, head_path
        body = whole.get_submodule(body_path)
        self.config = body.config
        outer, _, own = body_path.rpartition(".")
        causal = bool(outer) and head_path == f"{outer}.lm_head"  # there is a causal model within
        self._prefix = own if causal else _prefix(body)
        self.add_module(self._prefix, body)
        self.add_module("lm_head", whole.get_submodule(head_path))
        self._runs = _runner(whole, body_path)
        self._takes = {*inspect.signature(type(self._run_by).forward).parameters}

    @property
    def _run_by(self) -> Any:
        return self.whole.get_submodule(self._runs)

    @property
    def training(self) -> bool:
        """Tell whether the whole model is in training mode."""
        return bool(self.whole.training)

    @training.setter
    def training(self, mode: bool) -> None:
        """Leave it to the whole model."""

    @property
    def dtype(self) -> torch.dtype:
        """Return the type of the weights."""
        return next(self.parameters()).dtype

    @property
    def title(self) -> str:
        """Return what this is the text body of."""
        return f"{type(self.whole).__name__} ({self.whole.config.model_type})"

    @property
    def placeholders(self) -> frozenset[int]:
        """Return the tokens in whose place the whole model puts images or sound."""
        config = self.whole.config
        named = {key: getattr(config, key, None) for key in dir(config)}
        return placeholders_of(named, vars(config).values(), self.config.vocab_size)

    def get_input_embeddings(self) -> Any:
        """Return the token embedding."""
        body: Any = self.get_submodule(self._prefix)
        return body.get_input_embeddings()

    def get_output_embeddings(self) -> Any:
        """Return the unembedding."""
        return self.lm_head

    def forward(self, input_ids: Tensor, **options: Any) -> Any:
        """Run the whole model's own code on token ids [B, T]."""
        if "kwargs" not in self._takes:
            options = {key: value for key, value in options.items() if key in self._takes}
        return self._run_by(input_ids=input_ids, **options)

    def train(self, mode: bool = True) -> TextBody:
        """Put the whole model into training mode, or out of it."""
        self.whole.train(mode)
        return self

    def inside(self, path: str) -> bool:
        """Tell whether a module of the whole model is of the text body or its head."""
        return any(f"{path}.".startswith(f"{part}.") for part in (self.body_path, self.head_path))


def placeholders_of(
    config: Mapping[str, Any], parts: Iterable[Any], vocab_size: int | None
) -> frozenset[int]:
    """Return the tokens that a multimodal configuration puts images or sound in the place of.

    `parts`: its configurations within, as objects or as a file has them.
    """
    found = {value for key, value in config.items() if _PLACEHOLDER.fullmatch(key)}
    for part in parts:  # of some the tokens behind those of text
        inner = part if isinstance(part, Mapping) else getattr(part, "__dict__", {})
        first = inner.get("vocab_offset")
        if isinstance(first, int) and vocab_size is not None:
            found |= set(range(first, vocab_size))
    return frozenset(one for one in found if isinstance(one, int))


class Absent(Module):
    """A part that was not read, because text does not go through it; it is where the whole is."""

    _whole: Any

    def __init__(self, whole: Module | None) -> None:
        super().__init__()
        self.__dict__["_whole"] = whole

    @property
    def device(self) -> torch.device:
        """Return where the whole model's weights are."""
        first: Tensor = next(self._whole.parameters())
        return first.device

    @property
    def dtype(self) -> torch.dtype:
        """Return the type of the whole model's weights."""
        first: Tensor = next(self._whole.parameters())
        return first.dtype


def text_body(model: Any) -> TextBody | None:
    """Return the text body of a multimodal model with a head; None if the model is not of these."""
    config = getattr(model, "config", None)
    if isinstance(model, TextBody) or not hasattr(config, "get_text_config"):
        return None
    assert config is not None
    text = config.get_text_config()
    if text is config or getattr(config, "is_encoder_decoder", False):
        return None
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    paths = {id(module): path for path, module in model.named_modules()}
    bodies = [
        path
        for path, module in model.named_modules()
        if path
        and getattr(getattr(module, "config", None), "model_type", None) == text.model_type
        and hasattr(module, "get_input_embeddings")
    ]
    if not bodies:
        return None
    body = model.get_submodule(bodies[0])
    if head is None and hasattr(body, "get_output_embeddings"):
        head = body.get_output_embeddings()
    at = paths.get(id(head))
    inner = next((path for path in bodies if at and not at.startswith(f"{path}.")), None)
    if at is None or inner is None:  # that with the head would be a causal model within
        return None
    return TextBody(model, inner, at)


def around(model: Any) -> Iterator[tuple[str, Module]]:
    """List by path the modules that a run on text goes through, those around a text body too."""
    if not isinstance(model, TextBody):
        yield from model.named_modules()
        return
    for path, module in model.whole.named_modules():
        outside = not path or f"{model.body_path}.".startswith(f"{path}.")
        if outside or model.inside(path):
            yield path, module


@torch.no_grad()
def scales_applied(body: TextBody, scale: float, cap: float | None) -> tuple[float, float | None]:
    """Tell which of a text model's scale and soft cap of logits its whole model applies.

    Some leave them out behind their own head: what they compute decides.
    """
    choices = {(s, c) for s in (scale, 1.0) for c in (cap, None)}
    if len(choices) == 1:
        return scale, cap
    held: list[Tensor] = []
    head: Module = body.get_output_embeddings()
    hook = head.register_forward_hook(lambda *seen: held.append(seen[2]))
    ids = torch.arange(8, device=body.get_input_embeddings().weight.device)[None]
    try:
        found = body(ids % body.config.vocab_size, use_cache=False).logits
    finally:
        hook.remove()
    raw = held[-1].to(found.device, torch.float64)

    def error(choice: tuple[float, float | None]) -> float:
        scaled = raw * choice[0]
        bent = scaled if choice[1] is None else (scaled / choice[1]).tanh() * choice[1]
        return float((bent - found).abs().max())

    return min(sorted(choices, key=str), key=error)


def _prefix(body: Any) -> str:
    """Return under which name a causal model of the body's type has its body."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as NAMES

    name = NAMES.get(body.config.model_type)
    if name is None:
        return "model"
    import transformers

    return str(getattr(getattr(transformers, name, None), "base_model_prefix", "") or "model")


def _runner(whole: Any, body_path: str) -> str:
    """Return the path of what is run on tokens: the whole, or a causal model within.

    A whole model that cannot do without an image is not asked for text.
    """
    asked = inspect.signature(type(whole).forward).parameters.values()
    needed = {
        one.name
        for one in list(asked)[1:]
        if one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD
    }
    if needed <= {"input_ids"}:
        return ""
    path = body_path.rpartition(".")[0]
    if path and hasattr(whole.get_submodule(path), "lm_head"):
        return path
    raise UnsupportedModel(
        f"the {type(whole).__name__} cannot be run on text alone: it asks for "
        f"{', '.join(sorted(needed))}. Accepted: models that take token ids alone."
    )
