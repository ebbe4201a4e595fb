"""What is shipped: the wheel and source archive, the public names, and clean tracked files."""

from __future__ import annotations

import importlib
import inspect
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FOLDERS = {
    "edgewise": "edgewise",
    "graphs": "edgewise/graphs",
    "patching": "edgewise/patching",
    "discovery": "edgewise/discovery",
    "visualize": "edgewise/visualize",
}
LARGEST = 2 * 1024 * 1024  # bytes; the one trained adapter is the largest file
# What only one computer, or nobody else, should know. Patterns, so that no name is given away.
PRIVATE = {
    "a path of one machine": r"(?<![\w./~$}-])/(?:root|work|home|Users|mnt|opt|workspaces?)/\w",
    "a temporary folder of one machine": r"(?<![\w./~$}-])/tmp/\w",
    "a private package index": r"(?:index-url|find-links)[= ]+(?!https://(?:download\.pytorch|pypi)\.org/)\S",
    "a host that is not public": r"https?://(?:\d+(?:\.\d+){3}|[\w.-]+\.(?:internal|local|lan|corp)(?![\w.-]))",
    "a password in an address": r"https?://[^\s/:@\"'<>]+:[^\s/@\"'<>]+@",
    "a token": r"\b(?:hf_|gh[pousr]_|github_pat_|sk-|pypi-|AKIA)[A-Za-z0-9_]{16,}",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY",
}


def package_files() -> dict[str, Path]:
    """Map every file of the package folders to its place in an installation."""
    return {
        f"{package}/{path.relative_to(ROOT / folder).as_posix()}": path
        for folder, package in FOLDERS.items()
        for path in sorted((ROOT / folder).rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
    }


def tracked_files() -> list[Path]:
    """List the files under version control; outside a clone, those of the known folders."""
    if (ROOT / ".git").exists():
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        paths: Iterator[Path] = (ROOT / name for name in listed.split("\0") if name)
    else:
        folders = (*FOLDERS, "tests", "docs", "examples", "benchmarks")
        paths = (p for f in folders for p in (ROOT / f).rglob("*") if "__pycache__" not in p.parts)
    return [path for path in paths if path.is_file()]


def private_things(text: str) -> list[str]:
    """List what a text should not contain, with the line it is on."""
    return [
        f"line {text.count(chr(10), 0, match.start()) + 1}: {what}: {match[0]}"
        for what, pattern in PRIVATE.items()
        for match in re.finditer(pattern, text)
    ]


@pytest.fixture(scope="module")
def source_copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the sources, so that building neither finds old files nor leaves new ones."""
    copy = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for folder in (*FOLDERS, "tests"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def build(kind: str, source: Path, target: Path) -> Path:
    """Build a "wheel" or "sdist" with the build backend alone, offline; return the file."""
    code = (
        f"from setuptools.build_meta import build_{kind} as b; print('BUILT', b({str(target)!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=source, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return target / done.stdout.rpartition("BUILT ")[2].strip()


@pytest.fixture(scope="module")
def wheel_names(source_copy: Path, tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    with zipfile.ZipFile(build("wheel", source_copy, tmp_path_factory.mktemp("wheel"))) as wheel:
        return set(wheel.namelist())


def test_wheel_contains_every_file_of_the_packages(wheel_names: set[str]) -> None:
    missing = set(package_files()) - wheel_names
    assert not missing, "add the package or the file's pattern to pyproject.toml"
    assert "edgewise/py.typed" in wheel_names


def test_wheel_contains_nothing_else(wheel_names: set[str]) -> None:
    others = {name for name in wheel_names if ".dist-info/" not in name} - set(package_files())
    assert not others
    assert any(name.endswith("licenses/LICENSE") for name in wheel_names)


def test_source_archive_builds_the_same_wheel(
    source_copy: Path, wheel_names: set[str], tmp_path: Path
) -> None:
    with tarfile.open(build("sdist", source_copy, tmp_path)) as archive:
        safely: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        archive.extractall(tmp_path, **safely)  # Python 3.11.3 and earlier have no filters
    (unpacked,) = (path for path in tmp_path.iterdir() if path.is_dir())
    with zipfile.ZipFile(build("wheel", unpacked, tmp_path)) as wheel:
        assert set(wheel.namelist()) == wheel_names


def test_every_package_folder_is_declared() -> None:
    found = {
        name.rpartition("/")[0].replace("/", ".")
        for name in package_files()
        if name.endswith("/__init__.py")
    }
    assert sorted(PROJECT["tool"]["setuptools"]["packages"]) == sorted(found)


def test_version_is_stated_once() -> None:
    assert importlib.import_module("edgewise").__version__ == PROJECT["project"]["version"]


def test_constraints_pin_every_requirement() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.partition(";")[0].split("==") for line in lines if not line.startswith("#"))
    assert not any("+" in version for version in pins.values()), "no local version labels"
    extras = PROJECT["project"]["optional-dependencies"].values()
    asked = [*PROJECT["project"]["dependencies"], *(entry for extra in extras for entry in extra)]
    names = {re.split(r"[\[<>=]", entry)[0] for entry in asked if ";" not in entry} - {"edgewise"}
    assert names <= set(pins), f"no pin for {sorted(names - set(pins))}"


def test_public_names_are_sorted_and_exist() -> None:
    edgewise = importlib.import_module("edgewise")
    names = list(getattr(edgewise, "__all__", []))
    assert names == sorted(set(names), key=str.casefold)
    for name in names:
        assert getattr(edgewise, name, None) is not None, name
        assert name in dir(edgewise), name


def test_unknown_public_names_are_refused() -> None:
    with pytest.raises(AttributeError):
        _ = importlib.import_module("edgewise").no_such_name


@pytest.mark.parametrize("path", tracked_files(), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_tracked_files_are_clean(path: Path) -> None:
    data = path.read_bytes()
    assert len(data) <= LARGEST, f"{len(data):,} bytes"
    if b"\0" not in data:
        assert private_things(data.decode("utf-8")) == []


@pytest.mark.parametrize(
    "text",
    [
        "cd /" + "home/alice/edgewise",
        'open("/' + 'tmp/x1/weights.bin")',
        "pip install --index" + "-url https://mirror.example/simple torch",
        "see http://10." + "0.0.7/simple",
        "https://mirror." + "internal/simple",
        "https://user:" + "secret@example.org",
        "token = '" + "hf_" + "a" * 30 + "'",
    ],
)
def test_private_things_are_caught(text: str) -> None:
    assert private_things(f"first line\n{text}\n") != []


def test_ordinary_text_is_clean() -> None:
    index = "pip install torch --index-url https://download.pytorch.org/whl/cpu"
    assert private_things(index) == []
    assert private_things("https://example.org/home/x ~/work/a $HOME/work/b tmp/x work/y") == []


def test_where_things_are_is_true_and_short() -> None:
    """CONTRIBUTING names every folder of code, each once there is one, on half a page."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.partition("## Where things are\n")[2].partition("\n## ")[0]
    named = {name.rstrip("/") for name in re.findall(r"`([a-z_/]+/)`", section)}
    packages = ("graphs", "patching", "discovery", "visualize", "edgewise")
    inits = [path for name in packages for path in (ROOT / name).rglob("__init__.py")]
    folders = {path.parent.relative_to(ROOT).as_posix() for path in inits}
    assert named == folders - {"edgewise", "patching"}  # of which all parts are named
    assert len(section.splitlines()) <= 30


def test_a_task_is_what_the_guide_says() -> None:
    from edgewise.patching.tasks import TASKS

    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    said = text.partition("* **a task**")[2].partition("\n* **")[0].partition("\n## ")[0]
    assert "`Vocabulary`" in said and "yields `Space`s" in said
    for task in TASKS.values():
        first, *others = inspect.signature(task.spaces).parameters.values()
        assert first.annotation == "Vocabulary"
        assert {one.name for one in others} == {option.name for option in task.options}
        assert inspect.signature(task.spaces).return_annotation == "Iterator[Space]"
