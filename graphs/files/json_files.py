"""JSON files: read with a diagnosis of what is wrong, written in one fixed form.

The form: two spaces of indentation, numbers that are not finite as null, and rows (edges) one to
a line, so that two versions of a file compare well line by line.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ..errors import EdgewiseError, FileFormatError
from .reading import PAIRS_HINT, parse_json, read_text


def read_document(path: str | Path, what: str, formats: Mapping[str, int]) -> dict[str, object]:
    """Read a JSON file of one of some formats, each with its newest version; `what` names them."""
    from .exchange.kinds import in_words

    try:
        return _read_document(path, what, formats)
    except FileFormatError as error:
        if other := in_words(path):
            raise FileFormatError(
                f"{error} It is {other}; `import_circuit` makes a circuit file of it."
            ) from None
        raise


def _read_document(path: str | Path, what: str, formats: Mapping[str, int]) -> dict[str, object]:
    document = parse_json(path, read_text(path, what), what)
    if not isinstance(document, dict) or not isinstance(document.get("format"), str):
        pair = isinstance(document, dict) and not {"clean", "clean_ids"}.isdisjoint(document)
        raise FileFormatError(
            f'{path} is JSON, but not {what}: it has no "format"; accepted: {" or ".join(formats)}.'
            + (PAIRS_HINT if pair else "")
        )
    found, version = document["format"], document.get("version")
    if found not in formats:
        raise FileFormatError(
            f"{path} is not {what}: its format is '{found}'; accepted: {' or '.join(formats)}."
            + _HINTS.get(found, "")
        )
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise FileFormatError(f"{path}: version is {version!r}; accepted: 1 to {formats[found]}.")
    if version > formats[found]:
        raise FileFormatError(
            f"{path} was written by a newer edgewise: it is {found} version {version}, this "
            f"program reads up to version {formats[found]}; update edgewise."
        )
    return document


_HINTS = {
    "edgewise/diff": " This is a diff of two circuits: draw it, or give one of the two circuits.",
    "edgewise/roles": " This is what was measured of heads; give the circuit it is of.",
    "edgewise/transplant": " This is what `edgewise transplant` measured.",
    "edgewise/circuit": " This is a single circuit: compare two with `edgewise diff`.",
}


def dump_document(document: Mapping[str, object], rows: Collection[str]) -> str:
    """Return the text of a document; the lists named in `rows` (plain already) one item a line.

    A list within a block is named with its block, as in `noise_floor.edges`.

    >>> print(dump_document({"a": {"x": float("nan")}, "edges": [["m0", 1.0]]}, {"edges"}), end="")
    {
      "a": {
        "x": null
      },
      "edges": [
        ["m0", 1.0]
      ]
    }
    """
    parts = []
    for key, value in document.items():
        if key in rows and isinstance(value, list | tuple) and value:
            block = "[\n" + ",\n".join(f"  {_ROW.encode(item)}" for item in value) + "\n]"
        elif inner := [name[len(key) + 1 :] for name in rows if name.startswith(f"{key}.")]:
            block = dump_document(to_plain(value, key), inner).rstrip("\n")
        else:
            block = _BLOCK.encode(to_plain(value, key))
        parts.append(f"{_ROW.encode(key)}: {block}".replace("\n", "\n  "))
    return "{\n  " + ",\n  ".join(parts) + "\n}\n"


_ROW = json.JSONEncoder(ensure_ascii=False, allow_nan=False)
_BLOCK = json.JSONEncoder(ensure_ascii=False, allow_nan=False, indent=2)


def to_plain(value: Any, where: str) -> Any:
    """Turn a value into what JSON holds: tuples to lists, numpy to numbers, not finite to None."""
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, Mapping):
        wrong = [key for key in value if not isinstance(key, str)]
        if wrong:
            raise EdgewiseError(f"{where} cannot be saved: its key {wrong[0]!r} is not text.")
        return {key: to_plain(inner, f"{where}.{key}") for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(inner, f"{where}[{i}]") for i, inner in enumerate(value)]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:  # a number of numpy or torch
        return to_plain(value.item(), where)
    raise EdgewiseError(
        f"{where} cannot be saved: it is of type {type(value).__name__}; accepted: numbers, text, "
        "lists and mappings of them."
    )


def make_plain(value: object, *fields: str) -> None:
    """Turn fields of a frozen value into what JSON holds, as `to_plain` does."""
    for name in fields:
        object.__setattr__(value, name, to_plain(getattr(value, name), name))


def others(document: Mapping[str, object], *known: str) -> dict[str, object]:
    """Return the keys of a document that its format does not know."""
    return {k: v for k, v in document.items() if k not in ("format", "version", *known)}


def ordered(block: Mapping[str, object], first: Collection[str]) -> dict[str, object]:
    """Return a block with the documented keys first and the others sorted, nested ones too."""
    found = {}
    for key in (*(key for key in first if key in block), *sorted(block.keys() - set(first))):
        value = block[key]
        found[key] = ordered(value, ()) if isinstance(value, Mapping) else value
    return found


def table_document(
    form: tuple[str, int],
    blocks: Mapping[str, object],
    extra: Mapping[str, object],
    tables: Mapping[str, Collection[object]],
) -> dict[str, object]:
    """Return a document of tables: format and version, blocks, unknown keys, then the tables.

    >>> table_document(("mine", 1), {"metric": "kl"}, {"note": 2}, {"rows": ({"a": 1},)})
    {'format': 'mine', 'version': 1, 'metric': 'kl', 'note': 2, 'rows': [{'a': 1}]}
    """
    name, version = form
    rows = {key: list(table) for key, table in tables.items()}
    return {"format": name, "version": version, **blocks, **ordered(extra, ()), **rows}
