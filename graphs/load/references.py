"""Find the files that a model's reference names, before anything heavy is loaded.

In: what a user types for MODEL, see `ACCEPTED`. Out: a `Source`, a directory or `.gguf` file that
exists and holds what its kind must hold.
"""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from ..errors import FileFormatError, ModelNotFound
from ..files.reading import SETTINGS_BYTES, at_home, is_there, parse_json, read_text
from .builtin.directory import Progress, built_in_directory
from .builtin.models import BUILT_IN
from .libraries import one_line
from .sizes import refuse_large_texts

ACCEPTED = (
    "a Hugging Face name (with @revision if wanted), a local directory, a .gguf file, "
    f"an adapter directory, or a built-in model ({', '.join(BUILT_IN)})"
)

_HUB_NAME = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?")
_TIMEOUT_SECONDS = 10.0
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SAFE = ("model.safetensors", "model.safetensors.index.json")
_PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_TOKENIZER = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")
_FETCH_TOKENIZER = [*_TOKENIZER, "merges.txt", "*_config.json", "special_tokens_map.json"]
_FETCH_TOKENIZER += ["added_tokens.json", "chat_template.*", "config.json"]
_FETCH_SAFE = [*_SAFE, "model-*.safetensors", "model.safetensors-*", "adapter_model.safetensors"]
_FETCH_PICKLED = [*_PICKLED, "pytorch_model-*.bin", "adapter_model.bin"]


class Form(str, Enum):
    """What kind of files a model comes in."""

    DIRECTORY = "directory"
    GGUF = "gguf"
    ADAPTER = "adapter"


@dataclass(frozen=True)
class Source:
    """Where a model's files are; `name` is the reference without its revision."""

    name: str
    form: Form
    path: Path
    revision: str | None = None


def find(
    reference: str,
    *,
    revision: str | None = None,
    allow_pickle: bool = False,
    weights: bool = True,
    progress: Progress | None = None,
) -> Source:
    """Find a reference's files, fetching them from the hub or the registry if they are remote.

    `weights=False` fetches and checks only what a tokenizer needs.
    """
    if not reference.strip():
        raise ModelNotFound(f"the model's name is empty; accepted: {ACCEPTED}.")
    local = at_home(reference)
    built_in = BUILT_IN.get(reference.partition("@")[0])
    if built_in is not None and (reference == built_in.alias or not is_there(local)):
        if revision or "@" in reference:
            raise ModelNotFound(
                f"'{reference}' asks for a revision of the built-in model, which has one only "
                f"({built_in.revision}); use {built_in.alias} without a revision."
            )
        files = built_in_directory(built_in, progress)
        return Source(built_in.alias, Form.DIRECTORY, files, built_in.revision)
    at = reference.rpartition("@")
    here, named = (reference, revision or None) if is_there(local) else (at[0], at[2])
    if here and named is not None and is_there(here):
        raise ModelNotFound(
            f"'{here}' is on this machine, and revision '{named}' applies to Hugging Face names "
            "only; leave the revision out."
        )
    if is_there(local):
        source = Source(reference, _form(local), local)
    else:
        source = _from_hub(reference, revision, allow_pickle, weights)
    if source.form is not Form.GGUF:
        refuse_large_texts(source.path)
        if weights:
            _check_weights(source, allow_pickle)
    return source


def read_json(path: Path) -> dict[str, object]:
    """Read a JSON object of a model's directory."""
    what = "a JSON object"
    try:
        text = read_text(path, what, SETTINGS_BYTES)
        value = parse_json(path, text, what, allow_nan=True)
    except FileFormatError as error:
        raise ModelNotFound(f"'{path}' cannot be read as JSON: {one_line(error)}") from error
    if not isinstance(value, dict):
        raise ModelNotFound(f"'{path}' holds a {type(value).__name__}; accepted: a JSON object.")
    return value


def has_tokenizer(directory: Path) -> bool:
    """Tell whether a directory holds a tokenizer."""
    return any((directory / name).is_file() for name in _TOKENIZER)


# -- local files ---------------------------------------------------------------------------------


def _form(path: Path) -> Form:
    if path.is_file():
        if path.suffix == ".gguf":
            return Form.GGUF
        raise ModelNotFound(f"'{path}' is a file, but not a .gguf file; accepted: {ACCEPTED}.")
    if not path.is_dir():
        raise ModelNotFound(f"'{path}' is a device or pipe; accepted: {ACCEPTED}.")
    config, adapter = path / "config.json", path / "adapter_config.json"
    if adapter.is_file():
        if any((path / name).is_file() for name in (*_SAFE, *_PICKLED)):
            raise ModelNotFound(
                f"'{path}' holds a whole model and an adapter (adapter_config.json), so it is not "
                "clear which is meant; move the adapter's two files to a directory of their own."
            )
        return Form.ADAPTER
    if config.is_file():
        return Form.DIRECTORY
    for file in (adapter, config):
        if os.path.lexists(file):
            raise ModelNotFound(
                f"'{file}' is a directory, device, pipe or a link that leads nowhere; accepted: a "
                "file, as save_pretrained writes it."
            )
    found = sorted(entry.name for entry in path.iterdir())
    steps = [int(m[1]) for name in found if (m := _CHECKPOINT.fullmatch(name))]
    names = [f"checkpoint-{step}" for step in sorted(steps)]
    if names:  # of a `Trainer`
        listing = ", ".join(names if len(names) <= 10 else [*names[:4], "…", *names[-4:]])
        raise ModelNotFound(
            f"'{path}' holds no model itself but checkpoints of a training run ({len(names)}): "
            f"{listing}. Name the one you want: {path / names[-1]}."
        )
    gguf = [name for name in found if name.endswith(".gguf")]
    listing = ", ".join(found[:6]) + (", …" if len(found) > 6 else "") or "nothing"
    hint = f" To load the GGUF file, name it: {path / gguf[0]}." if gguf else ""
    raise ModelNotFound(
        f"'{path}' holds neither config.json (a model) nor adapter_config.json (an adapter); it "
        f"holds {listing}. Accepted: a directory written by save_pretrained.{hint}"
    )


def _check_weights(source: Source, allow_pickle: bool) -> None:
    adapter = source.form is Form.ADAPTER
    safe = ("adapter_model.safetensors",) if adapter else _SAFE
    pickled = ("adapter_model.bin",) if adapter else _PICKLED
    if any((source.path / name).is_file() for name in safe):
        return
    found = [name for name in pickled if (source.path / name).is_file()]
    if found and allow_pickle:
        return
    if found:
        raise ModelNotFound(
            f"'{source.name}' has its weights in {found[0]} only, a pickle, which can run code "
            "when it is read; accepted: safetensors. Convert it (load it where you trust it and "
            "call save_pretrained), or allow it with `allow_pickle`: then tensors are read, and no "
            "code is run."
        )
    raise ModelNotFound(
        f"'{source.name}' has no weights in safetensors: looked for {' and '.join(safe)} in "
        f"'{source.path}'. A model whose weights are pickled (.bin) is read only with "
        "`allow_pickle`."
    )


# -- the hub -------------------------------------------------------------------------------------


def _from_hub(reference: str, revision: str | None, allow_pickle: bool, weights: bool) -> Source:
    """Fetch a hub model's files (or find them in the hub's cache) and resolve its commit."""
    name, at, named = reference.partition("@")
    if _HUB_NAME.fullmatch(name) is None or name.endswith(".gguf") or (at and not named):
        raise ModelNotFound(f"model '{reference}' does not exist on this machine{_near(reference)}")
    if at and revision and named != revision:
        raise ModelNotFound(
            f"'{reference}' names revision '{named}', and revision '{revision}' is asked for too; "
            "give one of them."
        )
    patterns = [*_FETCH_TOKENIZER, *(_FETCH_SAFE if weights else [])]
    patterns += _FETCH_PICKLED if weights and allow_pickle else []
    directory = Path(_snapshot(name, named or revision, patterns))
    commit = directory.name if _COMMIT.fullmatch(directory.name) else named or revision
    return Source(name, _form(directory), directory, commit)


def _snapshot(name: str, revision: str | None, patterns: list[str]) -> str:
    """Download what is missing of a repository; offline, take what the hub's cache has."""
    from huggingface_hub import HfApi, errors, snapshot_download

    refusals = (errors.RepositoryNotFoundError, errors.RevisionNotFoundError)
    try:
        unreachable = ""
        try:  # within a time limit: a download waits for ever on a connection that is silent
            HfApi().repo_info(name, revision=revision, timeout=_TIMEOUT_SECONDS)
        except (*refusals, errors.HFValidationError):
            raise
        except Exception as error:  # no network has many forms: each library its own
            unreachable = _reason(error)
        return str(
            snapshot_download(
                name, revision=revision, allow_patterns=patterns, local_files_only=bool(unreachable)
            )
        )
    except errors.RevisionNotFoundError as error:
        raise ModelNotFound(
            f"Hugging Face model '{name}' has no revision '{revision}'; accepted: a branch, tag "
            "or commit of it."
        ) from error
    except errors.GatedRepoError as error:
        raise ModelNotFound(
            f"Hugging Face model '{name}' is gated: accept its terms on its page and log in "
            "(hf auth login), then try again."
        ) from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise ModelNotFound(
            f"model '{name}' exists neither on this machine nor, visibly, on the Hugging Face "
            f"hub{_near(name)}"
        ) from error
    except Exception as error:
        raise ModelNotFound(
            f"model '{name}' is not on this machine, and the Hugging Face hub cannot be reached: "
            f"{unreachable or _reason(error)} With network, try again (HF_HUB_OFFLINE must not be "
            f"set); without, name a model that is here{_near(name)}"
        ) from error


def _reason(error: BaseException) -> str:
    """Return the first line of the hub's explanation, without its boilerplate."""
    first = str(error).partition("\n")[0].removeprefix("Got: ")
    return one_line(RuntimeError(first), 120)


def _near(name: str) -> str:
    """End a message with the built-in model that is near, if any, and with what is accepted."""
    near = difflib.get_close_matches(name.lower(), [*BUILT_IN], n=1, cutoff=0.7)
    return (f"; did you mean '{near[0]}'?" if near else ".") + f" Accepted: {ACCEPTED}."
