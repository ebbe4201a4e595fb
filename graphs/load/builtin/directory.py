"""Where a built-in model's files are: fetched, checked and converted once, then kept.

The weights of its packages are converted once to safetensors in the cache directory; a cache that
is not as it was stored is made again. A model under terms is not touched before they are accepted.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from ...errors import ModelNotFound
from ...files.atomic import ABANDONED_SECONDS
from ..gguf_files import convert_gguf, require_gguf
from ..libraries import one_line
from .cache import cache_directory, damage_of, sha256_of, write_record
from .licences import require_accepted
from .models import BuiltIn
from .packages import obtained

_CONVERSION = 2
"""Raise when the conversion writes something else, so that an old cache is not used."""

Progress = Callable[[int, int, str], None]


def built_in_directory(model: BuiltIn, progress: Progress | None = None) -> Path:
    """Return a converted model's directory; make it if it is not as it was stored, or there."""
    if model.licence is not None:
        require_accepted(model.licence, model.alias)
    report = progress or (lambda done, total, what: None)
    ready = cache_directory() / f"{model.alias}-{model.sha256[:12]}-v{_CONVERSION}"
    damage = damage_of(ready, model.converted) if ready.is_dir() else None
    if ready.is_dir() and damage is None:
        return ready
    if damage is not None:
        warnings.warn(
            f"the cached model '{ready}' is damaged ({damage}) and is made again from "
            f"{model.revision}.",
            stacklevel=2,
        )
    require_gguf(Path(model.weights[0][1]))
    fetched, moment, kept = model.megabytes
    try:
        ready.parent.mkdir(parents=True, exist_ok=True)
        _sweep(ready)
        with tempfile.TemporaryDirectory(prefix=".download.", dir=ready.parent) as scratch:
            terms = f", under the {model.licence.title}" if model.licence else ""
            first = model.packages[0]
            report(0, 2, f"obtain {first.name} {first.version} ({fetched} MB){terms}")
            gguf, papers = obtained(model, Path(scratch))
            if (found := sha256_of(gguf)) != model.sha256:
                raise ModelNotFound(
                    f"the weights '{gguf.name}' of {model.revision} have sha256 {found}, not "
                    f"{model.sha256}; they are damaged or not the published ones. Remove an "
                    "installed copy of the package, clear pip's cache, and try again."
                )
            report(1, 2, f"convert to safetensors (about {model.seconds} s, once)")
            if damage is not None:
                with contextlib.suppress(FileNotFoundError):  # another process was faster
                    ready.rename(Path(scratch) / "damaged")
            convert_gguf(gguf, ready, model.alias, papers)
        write_record(ready)
    except OSError as error:
        raise ModelNotFound(
            f"'{model.alias}' cannot be stored in the cache '{ready.parent}': {one_line(error)} It "
            f"needs {moment:,} MB there for a moment, {kept:,} MB for good; set EDGEWISE_CACHE to "
            "a directory that can be written."
        ) from error
    report(2, 2, f"{model.alias} is ready")
    return ready


def _sweep(ready: Path) -> None:
    for pattern in (f".{ready.name}.*", ".download.*"):
        for partial in ready.parent.glob(pattern):
            with contextlib.suppress(OSError):
                if time.time() - partial.stat().st_mtime > ABANDONED_SECONDS:
                    shutil.rmtree(partial, ignore_errors=True)
