"""Load the model a reference names, whole and unaltered, or refuse it with the reason.

A checkpoint that lacks a tensor, or has one the model has no place for, is refused: transformers
would fill the gap with random numbers and go on.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from typing_extensions import NotRequired, TypedDict

from ..calls.typed import typed
from ..errors import ModelNotFound, UnsupportedModel, unknown
from ..files.places import local_paths
from ..files.reading import at_home, is_there, listed, problems
from ..lift.classes.plain import MODEL_TYPE
from ..lift.classes.plain import classes as own_classes
from .adapters import AdapterInfo, base_reference, describe_adapter, merge
from .builtin.directory import Progress
from .classes import (
    causal_classes,
    is_known,
    is_left_out,
    model_class,
    multimodal_classes,
    refuse_other_types,
    text_alone,
    text_settings,
)
from .gguf_files import gguf_tokenizer, read_gguf
from .libraries import explained
from .quantised import (
    forget,
    method_of,
    quantisation,
    refuse_unknown,
    unpacking,
    warn_dequantised,
    wider,
)
from .references import Form, Source, find, has_tokenizer, read_json
from .sizes import refuse_counts, refuse_sizes, stored_in
from .unfilled import refuse_unfilled
from .weights import lay_side_by_side, weights_sha256

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..lift.live.text_body import TextBody
    from ..lift.watching import Watch

DTYPES = ("float32", "float64", "bfloat16", "float16")
"""The floating-point types a model can be loaded in."""

_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")


class Announced(TypedDict):
    """What a config.json says of the kind of its model."""

    model_type: NotRequired[str | None]
    architectures: NotRequired[list[str] | None]
    auto_map: NotRequired[dict[str, object] | None]


@typed
@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A causal language model in evaluation mode, with frozen parameters, and where it came from.

    Of a multimodal model, `model` is the text body, whose `whole` it is run through.

    `name` loads the same model again (for a live module it is only a label); `revision` is the
    hub's commit where it is known. `adapter` tells what was merged in, if anything, `dequantised`
    from which format quantised weights were unpacked.
    """

    model: PreTrainedModel | TextBody = field(repr=False)
    name: str
    revision: str | None = None
    path: Path | None = None
    dtype: str = "float32"
    adapter: AdapterInfo | None = None
    read_tokenizer: Callable[[], Any] = field(default=lambda: None, repr=False)
    dequantised: str | None = None
    _hashed: list[tuple[Watch, str]] = field(default_factory=list, repr=False)

    @cached_property
    def tokenizer(self) -> Any:
        """Load the tokenizer at the first use; None if the model comes without one."""
        return self.read_tokenizer()

    @property
    def weights_sha256(self) -> str:
        """Return the hash of the weights as they are now; see `weights.weights_sha256`."""
        from ..lift.watching import Watch

        if not self._hashed or self._hashed[0][0].changed():
            self._hashed[:] = [(Watch.over(self.model), weights_sha256(self.model))]
        return self._hashed[0][1]

    @property
    def title(self) -> str:
        """Return a short name for reports, such as `smollm2-135m + entity-tracking`."""
        if self.adapter is None:
            return Path(self.name).name if self.path and is_there(self.name) else self.name
        return f"{Path(self.adapter.base).name} + {self.adapter.name}"

    @property
    def provenance(self) -> dict[str, object]:
        """Return name, revision, hash and (if any) adapter as JSON values."""
        keys = ("name", "revision", "weights_sha256")
        record: dict[str, object] = {key: getattr(self, key) for key in keys}
        if self.path is not None and self.path == at_home(self.name):
            record["paths"] = local_paths(self.path)
        if (title := getattr(self.model, "title", None)) is not None:
            record["text_body_of"] = title
        if self.dequantised is not None:
            record["dequantised"] = self.dequantised
        if self.adapter is not None:
            names = ("name", "kind", "rank", "base", "base_revision")
            record["adapter"] = {name: getattr(self.adapter, name) for name in names}
        return record


@typed
def load(
    reference: str | os.PathLike[str],
    *,
    revision: str | None = None,
    dtype: str = "float32",
    device: str = "auto",
    allow_pickle: bool = False,
    any_type: bool = False,
    progress: Progress | None = None,
) -> LoadedModel:
    """Load a causal language model by its reference (see `references`).

    `dtype`: one of `DTYPES`. `device`: cpu, cuda, cuda:N, mps, or auto (cuda if there is one, else
    cpu). An adapter is merged in float32 and then converted. `any_type`: of a type that is known
    not to be liftable too, since it is to be described as another.

    Raises:
        ModelNotFound: the model cannot be obtained, read, or is no complete causal model.
        UnsupportedModel: it is of a family that cannot be lifted.
        UnknownName: dtype or device is not one of the accepted ones.
    """
    from ..lift.live.text_body import text_body

    dtype = str(dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    device = resolve_device(device)
    name, adapter = os.fspath(reference), None
    source = find(name, revision=revision, allow_pickle=allow_pickle, progress=progress)
    import torch

    base = _find_base(source, allow_pickle, progress) if source.form is Form.ADAPTER else source
    with torch.inference_mode(False):  # weights made in it let no gradient through
        if base is source:
            model, packed = _read(source, dtype, allow_pickle, any_type=any_type)
        else:
            whole, packed = _read(base, "float32", allow_pickle, whole=True, any_type=any_type)
            model = merge(whole, source.path, base.name)
            adapter = describe_adapter(source.path, base.name, base.revision)
        model = _place(model, dtype, device)
    model = text_body(model) or model
    tokenizer_source = source if has_tokenizer(source.path) else base
    origin = (source.name, source.revision, source.path)
    tokenizer = partial(_read_tokenizer, tokenizer_source)
    return LoadedModel(model, *origin, dtype, adapter, tokenizer, packed)


def load_tokenizer(reference: str | os.PathLike[str], *, revision: str | None = None) -> Any:
    """Load only the tokenizer of a reference (an adapter's own, else its base's)."""
    reference = os.fspath(reference)
    source = find(reference, revision=revision, weights=False)
    if source.form is Form.ADAPTER and not has_tokenizer(source.path):
        name, base_revision = base_reference(source.path)
        source = find(name, revision=base_revision, weights=False)
    tokenizer = _read_tokenizer(source)
    if tokenizer is None:
        raise ModelNotFound(
            f"'{reference}' comes without a tokenizer: '{source.path}' holds none of its usual "
            "files (tokenizer.json and others). Give prompts as token ids, or add the tokenizer."
        )
    return tokenizer


def from_module(
    model: PreTrainedModel, tokenizer: Any = None, name: str | None = None
) -> LoadedModel:
    """Take a live transformers model as it is, neither copied nor altered, or say why it cannot."""
    from ..lift.live.guards import check_built
    from ..lift.live.text_body import text_body

    kind = type(model).__name__
    if type(model).__module__.partition(".")[0] == "peft" or hasattr(model, "peft_config"):
        raise ModelNotFound(
            f"the model is a {kind} with an unmerged PEFT adapter, whose parts the graph does not "
            "know. Merge a copy and pass that: copy.deepcopy(model).merge_and_unload(); or save "
            "the adapter with save_pretrained and name its directory."
        )
    if kind not in {*causal_classes().values(), *multimodal_classes().values()}:
        raise ModelNotFound(
            f"the model is a {type(model).__module__}.{kind}; accepted: a causal language model "
            "of transformers, as AutoModelForCausalLM.from_pretrained returns it."
        )
    held = {str(parameter.dtype).removeprefix("torch.") for parameter in model.parameters()}
    if packed := held - set(DTYPES):
        check_built(model)
    _refuse_quantised(model.config.to_dict(), packed, f"the live {kind}")
    refuse_training(model)
    model = text_body(model) or model
    refuse_unfilled(model)
    whole = getattr(model, "whole", model)
    label = name or str(getattr(whole.config, "name_or_path", "") or kind)
    dtype = str(model.dtype).removeprefix("torch.")
    return LoadedModel(model, label, dtype=dtype, read_tokenizer=lambda: tokenizer)


def refuse_training(model: PreTrainedModel) -> None:
    """Refuse a live model in training mode."""
    if model.training:
        raise ModelNotFound(
            f"the {type(model).__name__} is in training mode, where dropout may change its output "
            "from run to run; call model.eval() first (it is left as it is here)."
        )


# -- steps ---------------------------------------------------------------------------------------


def _find_base(adapter: Source, allow_pickle: bool, progress: Progress | None) -> Source:
    name, revision = base_reference(adapter.path)
    try:
        base = find(name, revision=revision, allow_pickle=allow_pickle, progress=progress)
    except ModelNotFound as error:
        raise ModelNotFound(
            f"adapter '{adapter.name}' was trained on '{name}' (base_model_name_or_path in its "
            f"adapter_config.json), which cannot be used: {error}"
        ) from error
    if base.form is Form.ADAPTER:
        raise ModelNotFound(
            f"adapter '{adapter.name}' names '{name}' as its base, which is itself an adapter; "
            "merge that one and save the result first."
        )
    return base


def _read(
    source: Source, dtype: str, allow_pickle: bool, *, whole: bool = False, any_type: bool = False
) -> tuple[PreTrainedModel, str | None]:
    """Read a directory's or a GGUF file's model, complete, on the processor.

    Of a multimodal model only the text body and its head are read, unless the `whole` is asked for.
    Also returned is the format that quantised weights were unpacked from.
    """
    if source.form is Form.GGUF:
        model = read_gguf(source.path, dtype)
        if attention := _attention(model.config.to_dict()):
            model.set_attn_implementation(attention)
        return model, None
    config = read_json(source.path / "config.json")
    _check_config(config, source.name, any_type)
    import torch
    from transformers import AutoConfig

    plain: dict[str, object] = {"local_files_only": True, "trust_remote_code": False}
    own_classes()  # of which transformers does not know by itself
    what = f"the config.json of '{source.name}'"
    failed = f"model '{source.name}' cannot be loaded from '{source.path}'"
    packed = quantisation(config)
    with explained(failed, "Accepted: a complete directory as save_pretrained writes it."):
        stored = stored_in(source.path.glob("*.safetensors"))
        if allow_pickle and not stored.tensors:
            stored = stored_in(source.path.glob("*.bin"))
        if packed is not None:
            stored = wider(stored)
        refuse_counts(config, stored, what)
        settings = AutoConfig.from_pretrained(str(source.path), **plain)
        kind = model_class(settings, source.name)
        if not any_type:
            refuse_other_types(settings, source.name)
        composed = text_settings(settings) is not settings
        read = text_alone(kind) if composed and not whole else kind
        refuse_sizes(settings, read, stored, what)
        if packed is not None:
            plain |= unpacking(packed, source.path, dtype, pickle=allow_pickle)
        if "state_dict" in plain:
            forget(settings)
        model, info = read.from_pretrained(
            None if "state_dict" in plain else str(source.path),
            config=settings,
            dtype=getattr(torch, dtype),
            attn_implementation=_attention(text_settings(settings).to_dict()),
            use_safetensors=None if allow_pickle else True,
            weights_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # which is refused below, with the shapes
            **plain,
        )
        left_out: list[str] = vars(model).pop("left_out", [])
        model.__class__ = kind
    _refuse_partial(info, source, left_out)
    if packed is None:
        return model, None
    forget(model.config)
    warn_dequantised(packed, f"'{source.name}'")
    return model, method_of(packed)


def _attention(config: Mapping[str, object]) -> str | None:
    """Choose transformers' attention: its own choice, but for a soft cap, only in `eager`."""
    return "eager" if config.get("attn_logit_softcapping") else None


def _check_config(found: Mapping[str, object], name: str, any_type: bool) -> None:
    """Refuse by its config.json what is no model of a type that is lifted, before it is read."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    from ..lift.families._refused import refusals, supported
    from ..lift.lifting import families

    missing, wrong = problems(found, Announced)
    if missing or wrong:
        raise ModelNotFound(
            f"the config.json of '{name}' cannot be read: {listed([*missing, *wrong])}."
        )
    config = cast("Announced", found)
    kinds, own_code = config.get("architectures") or [], config.get("auto_map")
    kind = str(config.get("model_type"))
    if own_code and not is_known(kind, kinds):
        raise ModelNotFound(
            f"'{name}' brings its own code (auto_map), which is never run: its config.json names "
            f"the architecture {', '.join(kinds) or 'only by that code'}. {_ACCEPTED}"
        )
    if kind not in {*families(), *multimodal_classes(), MODEL_TYPE}:
        if kinds and not {*kinds} & {*causal_classes().values()}:
            raise ModelNotFound(
                f"'{name}' is no causal language model: its config.json names the architecture "
                f"{', '.join(kinds)}. {_ACCEPTED}"
            )
        reason = refusals(families()).get(kind)
        if kind not in CONFIG_MAPPING_NAMES:
            reason, any_type = "the installed transformers does not know it", False
        if reason and not any_type:
            raise UnsupportedModel(
                f"'{name}' is a model of type '{kind}', which cannot be lifted: {reason}; "
                f"{supported(families())}."
            )
    if (packed := quantisation(found)) is not None:
        refuse_unknown(packed, f"'{name}'")


_ACCEPTED = (
    "Accepted: decoders with a language-model head that transformers itself knows, such as "
    "GPT2LMHeadModel or LlamaForCausalLM, and multimodal models whose text body is one."
)


def _refuse_quantised(config: Mapping[str, object], packed: set[str], what: str) -> None:
    """Refuse weights that are no plain matrices, by their config or by the types they are in."""
    quantised = config.get("quantization_config") or {}
    kind = quantised.get("quant_method", "?") if isinstance(quantised, dict) else quantised
    if packed or (quantised and kind != "gguf"):  # which was unpacked on loading
        raise ModelNotFound(
            f"{what} has quantised weights ({', '.join(sorted(packed)) or kind}), which are not "
            f"plain matrices. Accepted: weights in {', '.join(DTYPES)}; use the unquantised "
            "checkpoint, or a GGUF file."
        )


def _refuse_partial(
    info: Mapping[str, Collection[object]], source: Source, left_out: list[str]
) -> None:
    """Refuse a checkpoint that lacks tensors of the model, or has others than it and its parts."""
    kinds = ("mismatched_keys", "missing_keys", "unexpected_keys", "error_msgs")
    for kind in kinds:
        found = sorted(map(_told, info.get(kind) or ()))
        names = [name for name in found if not is_left_out(name, left_out)]
        if names:
            listing = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
            raise ModelNotFound(
                f"the checkpoint of '{source.name}' does not match its config.json: "
                f"{len(names)} {kind.replace('_', ' ')} ({listing}), so the model would be another "
                "than the one that was saved. Accepted: exactly the tensors the architecture "
                f"has. Check '{source.path}' for missing or foreign files."
            )


def _told(key: object) -> str:
    """Name a tensor, and its shape in the checkpoint and in the model where these differ."""
    match key:
        case (str(name), [*stored], [*own]):
            return f"{name} {stored} for {own}"
        case _:
            return str(key)


def _place(model: PreTrainedModel, dtype: str, device: str) -> PreTrainedModel:
    """Freeze a model of our own and bring it to its dtype and device."""
    import torch

    kind = getattr(torch, dtype)
    if model.dtype != kind:  # `Module.to` would round the rotary frequencies, float32 always, too
        for parameter in model.parameters():
            parameter.data = parameter.data.to(kind)
        model.config.dtype = kind
    # the product grouped by experts has no float64, and rows of whole 16 bytes only
    stacked = [parameter for parameter in model.parameters() if parameter.dim() == 3]
    if any(p.dtype == torch.float64 or p.shape[-1] * p.itemsize % 16 for p in stacked):
        model.set_experts_implementation("eager")
    if device != "cpu":
        lay_side_by_side(model, device)
    return model.eval().requires_grad_(False)


def _read_tokenizer(source: Source) -> Any:
    if source.form is Form.GGUF:
        return gguf_tokenizer(source.path)
    if not has_tokenizer(source.path):
        return None
    from transformers import AutoTokenizer

    with explained(f"the tokenizer of '{source.name}' cannot be loaded from '{source.path}'"):
        tokenizer = AutoTokenizer.from_pretrained(
            str(source.path), local_files_only=True, trust_remote_code=False
        )
        tokenizer.decode(tokenizer("a b")["input_ids"])  # some damage shows only in use
        return tokenizer


def resolve_device(device: str) -> str:
    """Resolve `auto`, and refuse a device that is not there."""
    if _DEVICE.fullmatch(str(device)) is None:
        raise unknown("device", str(device), ["auto", "cpu", "cuda", "cuda:N", "mps"])
    import torch

    here = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        return "cuda" if here else "cpu"
    kind, _, number = device.partition(":")
    there = {"cuda": int(number or 0) < here, "mps": torch.backends.mps.is_available()}
    if not there.get(kind, True):
        raise ModelNotFound(
            f"device '{device}' is not on this machine, where torch {torch.__version__} sees "
            f"{here} CUDA devices; use `device` cpu or auto."
        )
    return device
