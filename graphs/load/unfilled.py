"""Notice a live text model that transformers filled with random numbers.

`LlamaForCausalLM.from_pretrained` of a Llava checkpoint finds none of its tensors under its own
names, fills itself with random numbers and says so in a log only.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import EdgewiseError, ModelNotFound
from .references import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_LOOKED_AT = 3
"""How many of a model's matrices are looked for in the checkpoint."""


def refuse_unfilled(model: PreTrainedModel) -> None:
    """Refuse a text model that names a multimodal checkpoint and has none of its weights."""
    name = str(getattr(model.config, "name_or_path", "") or "")
    path = _directory(name)
    if path is None:
        return
    try:
        config = read_json(path / "config.json")
    except EdgewiseError:
        return
    if config.get("model_type") == model.config.model_type:
        return
    if isinstance(config.get("text_config"), dict) and _has_none(model, path):
        raise ModelNotFound(
            f"the live {type(model).__name__} says that it comes from '{name}', a multimodal model "
            f"of type '{config.get('model_type')}', but has none of its weights: transformers "
            "fills a class of text alone with random numbers from such a checkpoint. Name the "
            f"whole model ('{name}'), or pass it live, and its text body is taken; or, if these "
            "are weights of your own, set model.config.name_or_path to ''."
        )


def _directory(name: str) -> Path | None:
    """Return where a checkpoint's files are on this machine, in the hub's cache too."""
    if not name:
        return None
    if (path := Path(name)).is_dir():
        return path if (path / "config.json").is_file() else None
    from huggingface_hub import errors, try_to_load_from_cache

    try:
        found = try_to_load_from_cache(name, "config.json")
    except errors.HFValidationError:
        return None
    return Path(found).parent if isinstance(found, str) else None


def _has_none(model: PreTrainedModel, path: Path) -> bool:
    """Tell whether its first matrices all differ from those of the checkpoint that they should be.

    They are told by the ends of their names; the head may have the same name in both.
    """
    import torch
    from safetensors import SafetensorError, safe_open

    matrices = [(n.partition(".")[2], p) for n, p in model.named_parameters() if p.dim() == 2]
    differ = 0
    for file in sorted(path.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt") as opened:
                for key in opened.keys():  # noqa: SIM118 - it is no mapping
                    for end, own in matrices[:_LOOKED_AT]:
                        if not f".{key}".endswith(f".{end}") or own.is_meta:
                            continue
                        stored = opened.get_tensor(key)
                        if stored.shape == own.shape:
                            if torch.equal(stored.to(own.dtype), own.detach().cpu()):
                                return False
                            differ += 1
        except (SafetensorError, OSError):
            return False
    return differ > 0
