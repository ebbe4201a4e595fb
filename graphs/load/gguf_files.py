"""Read a `.gguf` file, and convert one to a directory of safetensors, config and tokenizer.

In: the path of a GGUF file, quantised or not. Out: a transformers model with exact dequantised
weights in float32. The reading is transformers' own (`gguf_file=`); this module adds the checks
it lacks: a tensor or a setting that it knows no place for is dropped silently, and here refused.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Collection, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ModelNotFound, out_of_memory
from .gguf_metadata import read_header, refuse_lost_metadata
from .quiet import quiet
from .sizes import Stored, refuse_counts, refuse_sizes

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def read_gguf(path: Path, dtype: str = "float32") -> PreTrainedModel:
    """Load the model of a `.gguf` file, its weights dequantised.

    Raises:
        ModelNotFound: the file is damaged, of an architecture transformers cannot read, or holds
            tensors the model has no place for; or the extra `gguf` is not installed.
    """
    require_gguf(path)
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    header = read_header(path)
    stored = Stored.of(header.shapes.values())
    refuse_counts(header.metadata, stored, f"'{path}'")
    try:
        with quiet():
            config = AutoConfig.from_pretrained(str(path.parent), gguf_file=path.name)
            refuse_sizes(config, stored, f"'{path}'")
            model, info = AutoModelForCausalLM.from_pretrained(
                str(path.parent),
                gguf_file=path.name,
                dtype=getattr(torch, dtype),
                output_loading_info=True,
                **_unpacked(),
            )
    except ModelNotFound:
        raise
    except Exception as error:  # whatever the readers make of damaged files
        raise out_of_memory(error) or ModelNotFound(
            f"'{path}' cannot be read as a GGUF model: {one_line(error)} Accepted: a complete "
            "GGUF file of a decoder language model that transformers can convert."
        ) from error
    _refuse_unread_tensors(path, set(header.shapes), model, info)
    refuse_lost_metadata(path, header.metadata, model.config)
    _tidy(model.config)
    return model


def gguf_tokenizer(path: Path) -> Any:
    """Build the tokenizer a `.gguf` file describes.

    Raises:
        ModelNotFound: the file describes none, or one of a kind transformers cannot read.
    """
    require_gguf(path)
    read_header(path)
    from transformers import AutoTokenizer

    try:
        with quiet():
            return AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
    except Exception as error:  # whatever the readers make of damaged files
        raise out_of_memory(error) or ModelNotFound(
            f"the tokenizer in '{path}' cannot be read: {one_line(error)} Accepted: a GGUF file "
            "with a complete tokenizer; without one, give prompts as token ids."
        ) from error


def convert_gguf(path: Path, destination: Path, name: str) -> None:
    """Write a `.gguf` model as a directory that loads without the `gguf` package, atomically.

    `destination` appears complete or not at all; of several processes that convert at once, the
    first to finish wins and the others drop their copy.
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
        with quiet():
            model.config.save_pretrained(partial)
            gguf_tokenizer(path).save_pretrained(partial)
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


def one_line(error: BaseException, limit: int = 300) -> str:
    """Shorten another library's error message to one line that ends in a period."""
    text = " ".join(str(error).split()) or type(error).__name__
    if "weights_only" in text:  # torch's advice would be to run the code
        wanted = re.search(r"\bGLOBAL (\S+)", text)
        what = f" but asks for {wanted[1]}" if wanted else ""
        text = f"The pickle does not hold tensors only{what}; a pickle's code is never run."
    text = text if len(text) <= limit else text[:limit].rstrip() + " …"
    return text if text.endswith((".", "!", "…")) else text + "."


def _unpacked() -> dict[str, object]:
    """Ask for plain matrices: newer transformers may keep the quantised blocks otherwise."""
    import transformers

    config = getattr(transformers, "GgufConfig", None)
    return {} if config is None else {"quantization_config": config(dequantize=True)}


def _refuse_unread_tensors(
    path: Path, stored: set[str], model: PreTrainedModel, info: Mapping[str, Collection[str]]
) -> None:
    """Check that every tensor of the file is in the model, and the reverse."""
    parameters = sum(1 for _ in model.parameters())
    if info["missing_keys"] or len(stored) != parameters:
        odd = sorted(name for name in stored if not name.startswith(("blk.", "token_embd.")))
        raise ModelNotFound(
            f"'{path}' holds {len(stored)} tensors and the {model.config.model_type} model built "
            f"from it {parameters}, of which {len(info['missing_keys'])} were not filled; loading "
            "it would give another model than the file's. Outside the layers the file holds "
            f"{', '.join(odd)}. Use the model's original safetensors checkpoint instead."
        )


def _tidy(config: Any) -> None:
    """Drop the mark of quantisation, and undo float32's rounding of numbers such as 1e-05."""
    for mark in ("quantization_config", "_model_name_or_path"):
        if hasattr(config, mark):
            delattr(config, mark)
    for key, value in list(vars(config).items()):
        if isinstance(value, float) and not key.startswith("_"):
            setattr(config, key, float(f"{value:.7g}"))
