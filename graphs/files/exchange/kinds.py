"""Tell by a file's name and first bytes which tool's circuit it holds; nothing of it is parsed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...errors import PromptError

HOOK = re.compile(r"\s*(?P<hook>[\w.]+)\s*\[(?P<index>[^\]]*)\]\s*")
"""A hook of the ACDC authors' program with its index."""

_HEAD = 2**16
_NATIVE = re.compile(r'"format"\s*:\s*"edgewise/')
_OF_EAP_IG = re.compile(r'"cfg"\s*:\s*\{|"(?:edges|nodes)"\s*:\s*\{')
_OF_PRUNED = re.compile(r'\[\s*\[\s*"(?:(?:tok_|pos_)?embeds|a\d+\.h\d+(?:\.[qkv])?|m\d+)"\s*,')
_OF_ACDC = re.compile(r'\[\s*[\["\s]*[\w.]*hook_')
_LISTS = {"hooks": _OF_ACDC, "pruned": _OF_PRUNED}
_WORDS = {
    "graph": "a graph of EAP-IG, as MIB has them too",
    "tensors": "a file of torch, as EAP-IG writes its graphs",
    "hooks": "an edge list of ACDC",
    "pruned": "an edge list of Edge-Pruning",
}


def kind_of(path: Path) -> str | None:
    """Name what a file holds by its first bytes, None if it is no circuit of another tool."""
    if holds_tensors(path) or not path.is_file():
        return "tensors" if holds_tensors(path) else None
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if head.startswith(b"\x80"):
        return "pickle"
    return _kind_of_text(_decoded(head))


def holds_tensors(path: str | Path) -> bool:
    """Tell a file of torch by its name, or by the archive that it is."""
    place = Path(path)
    if place.suffix in (".pt", ".pth") or not place.is_file():
        return place.suffix in (".pt", ".pth")
    with place.open("rb") as file:
        head = file.read(512)
    return head.startswith(b"PK\x03\x04") and b"/data.pkl" in head  # not a workbook


def in_words(path: str | Path) -> str:
    """Say which tool's circuit a file holds, an empty text if it is none or cannot be read."""
    try:
        return _WORDS.get(kind_of(Path(path)) or "", "")
    except (OSError, ValueError):
        return ""


@contextmanager
def no_circuit(path: str | Path) -> Iterator[None]:
    """Say of a file that cannot be read as prompt pairs that it is a circuit, if it is one."""
    try:
        yield
    except PromptError as error:
        if is_native(path):
            said = "a file of results of edgewise"
        elif not (said := in_words(path)):
            raise
        raise PromptError(
            f"'{path}' holds no prompt pairs: it is {said}. Accepted: a file of pairs, or a "
            "built-in task; a circuit is given to commands that run, compare or draw one."
        ) from error


def is_native(path: str | Path) -> bool:
    """Tell whether a file says that it is of a format of this project."""
    try:
        if not Path(path).is_file():  # opening a pipe would wait
            return False
        with Path(path).open("rb") as file:
            return _NATIVE.search(_decoded(file.read(_HEAD))) is not None
    except (OSError, ValueError):
        return False


def _decoded(head: bytes) -> str:
    return head.decode("utf-8", "ignore").lstrip("\ufeff \t\r\n")


def _kind_of_text(text: str) -> str | None:
    if text.startswith("{"):
        return "graph" if not _NATIVE.search(text) and _OF_EAP_IG.search(text) else None
    if text.startswith("["):
        return next((name for name, form in _LISTS.items() if form.match(text)), None)
    first = next((line for line in text.splitlines() if line.strip()), "")
    parent, arrow, _ = first.partition("->")
    return "hooks" if arrow and HOOK.fullmatch(parent) else None
