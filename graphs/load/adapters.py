"""Merge a PEFT adapter into its base model.

In: the adapter's directory and a base model that may be changed. Out: a plain transformers model
whose weights hold the adapter, W + scaling · B A for LoRA (Hu et al. 2021), merged in float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ModelNotFound
from ..files.reading import is_there, short
from .libraries import explained, silenced
from .references import read_json
from .sizes import numbers_in, stored_in

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


_ROUNDING = 1e-4
"""Largest difference in logits of merged and unmerged, relative to the largest (or to 1)."""


_MOST = 2**20
"""Largest whole number in an adapter's configuration, but for factors and what tensors bound."""


@dataclass(frozen=True)
class AdapterInfo:
    """Which adapter was merged into which base model."""

    path: Path
    base: str
    base_revision: str | None
    kind: str
    rank: int | None

    @property
    def name(self) -> str:
        """Return the adapter directory's own name."""
        return self.path.resolve().name


def base_reference(directory: Path) -> tuple[str, str | None]:
    """Read which base model, and which revision of it, an adapter was trained on.

    A relative path is taken from the working directory, else from the adapter's directory.
    """
    if find_spec("peft") is None:
        raise ModelNotFound(
            f"'{directory}' is an adapter, and reading it needs the Python package peft, not "
            'installed here; install the extra: pip install "edgewise[peft]".'
        )
    config = read_json(directory / "adapter_config.json")
    base, revision = config.get("base_model_name_or_path"), config.get("revision")
    if not isinstance(base, str) or not base:
        raise ModelNotFound(
            f"adapter '{directory}' does not say what it was trained on: base_model_name_or_path "
            f"in its adapter_config.json is {short(base)}; write the base model's name or path "
            "there."
        )
    if not isinstance(revision, str | None):
        raise ModelNotFound(
            f"adapter '{directory}': revision in its adapter_config.json is {short(revision)}; "
            "accepted: the name of a revision, or null."
        )
    beside = directory / base
    return str(beside) if not is_there(base) and beside.is_dir() else base, revision


def merge(base: PreTrainedModel, directory: Path, base_name: str) -> PreTrainedModel:
    """Merge an adapter into a base model, which is changed and must be the caller's own."""
    from peft import PeftModel

    where = f"adapter '{directory}' cannot be merged into '{base_name}'"
    own = {id(parameter) for parameter in base.parameters()}
    with explained(where, "Accepted: a complete adapter for exactly this base model."):
        _refuse_sizes(directory, where)
        wrapped = PeftModel.from_pretrained(base, str(directory), torch_device="cpu")
    if not hasattr(wrapped, "merge_and_unload"):
        kind = read_json(directory / "adapter_config.json").get("peft_type")
        raise ModelNotFound(
            f"{where}: an adapter of kind {kind} adds to the model's input and does not change "
            "weights. Accepted: adapters that PEFT can merge, such as LoRA."
        )
    _refuse_partial(wrapped, directory, where)
    with explained(where):
        logits = _logits(wrapped.eval())
        untied = _untie(wrapped, own)
        merged: PreTrainedModel = wrapped.merge_and_unload(safe_merge=True)
        if untied & {id(merged.get_output_embeddings()), id(merged.get_input_embeddings())}:
            merged.config.tie_word_embeddings = False
        merged_logits = _logits(merged.eval())
    same = merged_logits.shape == logits.shape
    change = float((merged_logits - logits).abs().max()) if same else float("inf")
    if not change <= _ROUNDING * max(1.0, float(logits.abs().max())):
        raise ModelNotFound(
            f"{where}: the merged model's logits differ from those of PEFT's unmerged model by "
            f"{change:.3g} on random tokens, so this kind of adapter cannot be written into the "
            "weights. Accepted: adapters whose merged model computes the same function."
        )
    return merged


def describe_adapter(directory: Path, base: str, revision: str | None) -> AdapterInfo:
    """Read what an adapter is."""
    config = read_json(directory / "adapter_config.json")
    kind, rank = str(config.get("peft_type")), config.get("r")
    return AdapterInfo(directory, base, revision, kind, rank if isinstance(rank, int) else None)


def _refuse_sizes(directory: Path, where: str) -> None:
    """Refuse, before PEFT builds them, ranks and layers that its tensors cannot have."""
    stored = stored_in(directory.glob("adapter_model.*"))
    for name, value in read_json(directory / "adapter_config.json").items():
        limit = stored.largest if name in ("r", "rank_pattern", "init_r", "target_r") else _MOST
        many = isinstance(value, list) and len(value) > max(stored.tensors, 1000)
        if name not in ("lora_alpha", "alpha_pattern") and (
            many or max(numbers_in(value), default=0) > limit
        ):
            raise ModelNotFound(
                f"{where}: its adapter_config.json says {name} is {str(value)[:60]}, and its "
                f"largest tensor has {stored.largest} rows or columns. Accepted: a configuration "
                "of exactly these tensors."
            )


def _refuse_partial(wrapped: object, directory: Path, where: str) -> None:
    """Check, as PEFT does not, that the file has exactly the adapter's tensors."""
    import torch
    from peft import get_peft_model_state_dict
    from safetensors import safe_open

    file = directory / "adapter_model.safetensors"
    if file.is_file():
        with safe_open(file, framework="pt") as stored:
            found = set(stored.keys())
    else:  # pickled, and read without running code
        pickled = directory / "adapter_model.bin"
        found = set(map(str, torch.load(pickled, map_location="cpu", weights_only=True)))
    with silenced():
        wanted = set(get_peft_model_state_dict(wrapped, save_embedding_layers=False))
        extended = set(get_peft_model_state_dict(wrapped, save_embedding_layers=True))
    if found & (extended - wanted):
        wanted = extended
    verbs = {"it lacks": wanted - found, "the base model has no place for": found - wanted}
    for verb, names in verbs.items():
        if names:
            raise ModelNotFound(
                f"{where}: {verb} {len(names)} tensors, such as {min(names)}. Accepted: a "
                "complete adapter for exactly this base model."
            )


def _untie(wrapped: Any, own: set[int]) -> set[int]:
    """Give each of several modules that share an adapted weight of the base a copy of its own.

    Merging would change every module that shares it: the other embedding of a tied pair, or the
    layers of a `layer_replication`. Takes the ids of the base's parameters; returns the modules'.
    """
    import torch

    owners: dict[int, dict[int, tuple[str, torch.nn.Module, str]]] = {}
    for path, module in wrapped.named_modules():
        for leaf, parameter in module.named_parameters(recurse=False):
            if id(parameter) in own:
                owners.setdefault(id(parameter), {})[id(module)] = (path, module, leaf)
    concerned: set[int] = set()
    for places in owners.values():
        inside = {part for path, _, _ in places.values() for part in path.split(".")}
        if len(places) > 1 and inside & {"base_layer", "original_module"}:
            concerned |= set(places)
            for _, module, leaf in list(places.values())[1:]:
                held = getattr(module, leaf)
                setattr(module, leaf, torch.nn.Parameter(held.detach().clone(), False))
    return concerned


def _logits(model: Any) -> torch.Tensor:
    import torch

    size = model.get_input_embeddings().weight.shape[0]
    length = min(24, getattr(model.config, "max_position_embeddings", None) or 24)
    tokens = torch.randint(0, size, (1, length), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=tokens, use_cache=False).logits
    return logits.float()
