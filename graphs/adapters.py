"""Merge a PEFT adapter into its base model.

In: the adapter's directory and a base model that may be changed. Out: a plain transformers model
whose weights hold the adapter, W + scaling · B A for LoRA (Hu et al. 2021), merged in float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ModelNotFound
from .gguf_files import one_line
from .quiet import quiet
from .references import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class AdapterInfo:
    """Tell which adapter was merged into which base model."""

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
    require_peft(directory)
    config = read_json(directory / "adapter_config.json")
    base, revision = config.get("base_model_name_or_path"), config.get("revision")
    if not isinstance(base, str) or not base:
        raise ModelNotFound(
            f"adapter '{directory}' does not say what it was trained on: base_model_name_or_path "
            f"in its adapter_config.json is {base!r}; write the base model's name or path there."
        )
    beside = directory / base
    if not Path(base).expanduser().exists() and beside.is_dir():
        return str(beside), revision
    return base, revision


def merge(base: PreTrainedModel, directory: Path, base_name: str) -> PreTrainedModel:
    """Merge an adapter into a base model, which is changed and must be the caller's own.

    Raises:
        ModelNotFound: the adapter is damaged, does not fit the base, or cannot be merged.
    """
    from peft import PeftModel

    where = f"adapter '{directory}' cannot be merged into '{base_name}'"
    try:
        with quiet():
            wrapped = PeftModel.from_pretrained(base, str(directory), torch_device="cpu")
    except Exception as error:
        raise ModelNotFound(
            f"{where}: {one_line(error)} Accepted: a complete adapter for exactly this base model."
        ) from error
    if not hasattr(wrapped, "merge_and_unload"):
        kind = read_json(directory / "adapter_config.json").get("peft_type")
        raise ModelNotFound(
            f"{where}: an adapter of kind {kind} adds to the model's input and does not change "
            "weights. Accepted: adapters that PEFT can merge, such as LoRA."
        )
    _refuse_partial(wrapped, directory, where)
    try:
        with quiet():
            merged = wrapped.merge_and_unload(safe_merge=True)
    except Exception as error:
        raise ModelNotFound(f"{where}: {one_line(error)}") from error
    return merged


def describe_adapter(directory: Path, base: str, revision: str | None) -> AdapterInfo:
    """Read what an adapter is."""
    config = read_json(directory / "adapter_config.json")
    return AdapterInfo(directory, base, revision, str(config.get("peft_type")), config.get("r"))


def require_peft(directory: Path) -> None:
    """Refuse to go on without the package that reads adapters."""
    if find_spec("peft") is None:
        raise ModelNotFound(
            f"'{directory}' is an adapter, and reading it needs the Python package peft, not "
            'installed here; install the extra: pip install "edgewise[peft]".'
        )


def _refuse_partial(wrapped: object, directory: Path, where: str) -> None:
    """Check that the file's tensors are exactly those the adapter consists of.

    PEFT only warns of tensors that are missing, and ignores those it has no place for.
    """
    from peft import get_peft_model_state_dict
    from safetensors import safe_open

    file = directory / "adapter_model.safetensors"
    if not file.is_file():  # a pickled adapter the caller allowed: PEFT's own checks must do
        return
    with safe_open(file, framework="pt") as stored, quiet():
        found = set(stored.keys())
        embeddings = any("embed_tokens" in name or "lm_head" in name for name in found)
        wanted = set(get_peft_model_state_dict(wrapped, save_embedding_layers=embeddings))
    for kind, names in (("lacks", wanted - found), ("has no place for", found - wanted)):
        if names:
            raise ModelNotFound(
                f"{where}: it {kind} {len(names)} tensors, such as {min(names)}. Accepted: a "
                "complete adapter for exactly this base model."
            )
