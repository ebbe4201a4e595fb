"""Read a `.gguf` file, and convert one to a directory of safetensors, config and tokenizer.

The reading, dequantised exactly, is transformers' own (`gguf_file=`). It drops a tensor or a
setting that it knows no place for silently; here that is refused.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ModelNotFound
from .classes import model_class
from .gguf_metadata import ACCEPTED, read_header, refuse_lost_metadata
from .libraries import explained, silenced
from .sizes import Stored, refuse_counts, refuse_sizes

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def read_gguf(path: Path, dtype: str = "float32") -> PreTrainedModel:
    """Load the model of a `.gguf` file, its weights dequantised, or raise a ModelNotFound."""
    require_gguf(path)
    import torch
    import transformers
    from transformers import AutoConfig, AutoModelForCausalLM

    # newer transformers may keep the quantised blocks unless asked for plain matrices
    settings = getattr(transformers, "GgufConfig", None)
    plain = {} if settings is None else {"quantization_config": settings(dequantize=True)}
    header = read_header(path)
    stored = Stored.of(header.shapes.values())
    refuse_counts(header.metadata, stored, f"'{path}'")
    with explained(f"'{path}' cannot be read as a GGUF model", ACCEPTED):
        config = AutoConfig.from_pretrained(str(path.parent), gguf_file=path.name)
        refuse_sizes(config, model_class(config, str(path)), stored, f"'{path}'")
        options = {"dtype": getattr(torch, dtype), "output_loading_info": True, **plain}
        model, info = AutoModelForCausalLM.from_pretrained(
            str(path.parent), gguf_file=path.name, **options
        )
    parameters, names, config = sum(1 for _ in model.parameters()), set(header.shapes), model.config
    if info["missing_keys"] or len(names) != parameters:
        odd = sorted(name for name in names if not name.startswith(("blk.", "token_embd.")))
        raise ModelNotFound(
            f"'{path}' holds {len(names)} tensors and the {config.model_type} model built from it "
            f"{parameters}, of which {len(info['missing_keys'])} were not filled; loading it would "
            "give another model than the file's. Outside the layers the file holds "
            f"{', '.join(odd)}. Use the model's original safetensors checkpoint instead."
        )
    refuse_lost_metadata(path, header.metadata, config)
    for mark in {"quantization_config", "_model_name_or_path"} & set(vars(config)):
        delattr(config, mark)
    for key, value in list(vars(config).items()):
        if isinstance(value, float) and not key.startswith("_"):
            setattr(config, key, float(f"{value:.7g}"))  # float32 rounds numbers such as 1e-05
    return model


def gguf_tokenizer(path: Path) -> Any:
    """Build the tokenizer a `.gguf` file describes, or raise a ModelNotFound."""
    require_gguf(path)
    read_header(path)
    from transformers import AutoTokenizer

    accepted = (
        "Accepted: a GGUF file with a complete tokenizer; without one, give prompts as token ids."
    )
    with explained(f"the tokenizer in '{path}' cannot be read", accepted):
        return AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)


def convert_gguf(path: Path, destination: Path, name: str, beside: Sequence[Path] = ()) -> None:
    """Write a `.gguf` model as a directory that loads without the `gguf` package, all or nothing.

    Files `beside`, such as its licence, are copied into it.

    Of several processes that convert at once, the first to finish wins.
    """
    from safetensors.torch import save_file

    destination.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{destination.name}.", dir=destination.parent))
    try:
        model = read_gguf(path)
        model.config.name_or_path = name
        model.config.architectures = [type(model).__name__]
        tied = model.config.tie_word_embeddings
        weights = {
            key: tensor.contiguous()
            for key, tensor in model.state_dict().items()
            if not (tied and key == "lm_head.weight")
        }
        save_file(weights, partial / "model.safetensors", metadata={"format": "pt"})
        with silenced():
            model.config.save_pretrained(partial)
            gguf_tokenizer(path).save_pretrained(partial)
        for paper in beside:
            shutil.copyfile(paper, partial / paper.name)
        partial.chmod(0o755)
        for file in partial.iterdir():
            file.chmod(0o644)
        try:
            os.rename(partial, destination)
        except OSError:
            if not destination.is_dir():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def require_gguf(path: Path) -> None:
    """Refuse to go on without the packages that reading GGUF files needs."""
    missing = [name for name in ("gguf", "accelerate") if find_spec(name) is None]
    if missing:
        raise ModelNotFound(
            f"reading '{path}' needs the Python package{'s' * (len(missing) > 1)} "
            f"{' and '.join(missing)}, not installed here; install the extra: "
            'pip install "edgewise[gguf]".'
        )
