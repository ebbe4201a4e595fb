"""Change a good file in its structure: keys, types, sizes and depths of JSON, lengths of others.

Every mutation is decided by a seeded `random.Random`, so that a finding can be made again.
"""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from typing import Any

_TOKENS = {
    "@deep@": "[" * 4000 + "]" * 4000,
    "@deepest@": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "@huge@": "1" + "0" * 400,
    "@longest@": "9" * 5000,
    "@wide@": "1e999",
    "@nan@": "NaN",
    "@infinite@": "-Infinity",
}
"""What `json.dumps` does not write, by what stands for it until the text is there."""

VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 3, 2.5, -0.5, 1e308, -1e300, 1e-320, 1000, 10**6, 10**9,
    10**12, 10**18, 2**31, 2**63, -(2**63), 2**64, "", "x", "0", "1", "null", " ", "m0",
    "a0.h0", "logits",
    "a9.h9<q>", "kl", "acdc", "a" * 50_000, "\ud800", "\n\x1b[31m\x00", "🧠" * 40, "../..",
    "/dev/zero",
    [], {}, [[]], [None], {"": None}, {"a": {"b": [1]}}, [1, 2], ["a", "b"], [0] * 2000,
    [[0, 10**9]], *_TOKENS,
)  # fmt: skip


def mutated_json(document: Any, draw: random.Random) -> bytes:
    """Return a document's text with one to three changes."""
    document = json.loads(json.dumps(document))
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        document = _changed(document, draw)
    try:
        text = json.dumps(document, indent=draw.choice((None, None, 2)))
    except (ValueError, RecursionError):
        text = "null"
    for token, written in _TOKENS.items():
        text = text.replace(json.dumps(token), written, 3)
    if draw.random() < 0.05:
        text = _twice(text, draw)
    content = text.encode()
    return mutated_bytes(content, draw) if draw.random() < 0.12 else content


def _changed(document: Any, draw: random.Random) -> Any:
    """Change one place of a document."""
    places = _walk(document, draw)
    if not places or draw.random() < 0.01:
        return draw.choice(VALUES)
    holder, key = places[-1]
    draw.choice(_OPERATIONS)(holder, key, document, draw)
    return document


def _walk(document: Any, draw: random.Random) -> list[tuple[Any, Any]]:
    """Choose a place: from the root down, stopping anywhere, so that few rows are as likely."""
    places: list[tuple[Any, Any]] = []
    value = document
    while isinstance(value, dict | list) and value:
        key = draw.choice(list(value)) if isinstance(value, dict) else draw.randrange(len(value))
        places.append((value, key))
        value = value[key]
        if draw.random() < (0.1 if len(places) == 1 else 0.25):
            break
    return places


def _replace(holder: Any, key: Any, document: Any, draw: random.Random) -> None:
    holder[key] = draw.choice(VALUES)


def _drop(holder: Any, key: Any, document: Any, draw: random.Random) -> None:
    del holder[key]


def _repeat(holder: Any, key: Any, document: Any, draw: random.Random) -> None:
    if isinstance(holder, list):
        holder[key:key] = [holder[key]] * draw.choice((1, 1, 300))
    else:
        holder[f"{key}2"] = holder[key]


def _rename(holder: Any, key: Any, document: Any, draw: random.Random) -> None:
    if isinstance(holder, dict):
        name = draw.choice((key.upper(), key + "s", key[:-1], "", "\ud800", "x\n", "model", "name"))
        holder[name] = holder.pop(key)
    else:
        draw.shuffle(holder)


def _swap(holder: Any, key: Any, document: Any, draw: random.Random) -> None:
    other, place = _walk(document, draw)[-1]
    copied = json.loads(json.dumps(other[place]))
    holder[key] = copied


def _wrap(holder: Any, key: Any, document: Any, draw: random.Random) -> None:
    value = holder[key]
    holder[key] = draw.choice(([value], {"a": value}, [value, value], str(value), [[[value]]]))


def _scale(holder: Any, key: Any, document: Any, draw: random.Random) -> None:
    value = holder[key]
    if isinstance(value, bool):
        holder[key] = not value
    elif isinstance(value, int | float):
        changes = (
            value + 1,
            value - 1,
            -value,
            value * 10**6,
            value * 10**12,
            value + 0.5,
            value / 3,
        )
        holder[key] = draw.choice((*changes, str(value), float(value), value == 1))
    elif isinstance(value, str):
        changed = (value + "x", value[1:], value.upper(), value * 50, value + "\n", " " + value)
        holder[key] = draw.choice((*changed, value.replace("0", "9" * 30), [*value][:99]))
    elif isinstance(value, list):
        holder[key] = draw.choice((value[:-1], value[1:], value * 3, value[::-1], value[:1], []))
    elif isinstance(value, dict):
        turned = (
            list(value),
            list(value.values()),
            dict(list(value.items())[:1]),
            list(value.items()),
        )
        holder[key] = draw.choice(turned)


_OPERATIONS: tuple[Callable[..., None], ...] = (
    _replace, _replace, _replace, _drop, _repeat, _rename, _swap, _wrap, _scale, _scale,
)  # fmt: skip


def _twice(text: str, draw: random.Random) -> str:
    """Give a key of an object twice."""
    place = text.find("{", draw.randrange(len(text))) + 1
    return text[:place] + '"name": 1, "name": "x", "layers": 2, ' + text[place:]


def mutated_bytes(content: bytes, draw: random.Random) -> bytes:
    """Return bytes cut, torn, repeated or overwritten somewhere, more often near the beginning."""
    if not content:
        return b"\x00"
    reach = draw.choice((16, 64, 600, len(content)))
    at = draw.randrange(min(len(content), reach))
    size = draw.choice((1, 1, 2, 4, 8, 100))
    numbers = (0, 1, 255, 2**16, 2**31 - 1, 2**31, 2**40, 2**60, 2**63 - 1, 2**64 - 1)
    number = struct.pack("<Q", draw.choice(numbers))[: draw.choice((1, 4, 8, 8))]
    texts = (
        b"\x00",
        b"\xff",
        b"NaN",
        b"{",
        b"]",
        b"\n",
        b'"',
        b"9" * 40,
        b"\xef\xbb\xbf",
        b"\\ud800",
    )
    return draw.choice(
        (
            content[:at],
            content[: len(content) - at],
            content[:at] + content[at + size :],
            content[: at + size] + content[at:],
            content[:at] + bytes(draw.randrange(256) for _ in range(size)) + content[at + size :],
            content[:at] + number + content[at + len(number) :],
            content[:at] + number + content[at + len(number) :],
            content[:at] + draw.choice(texts) + content[at:],
            b"",
            draw.randbytes(40),
        )
    )


def mutated_lines(content: bytes, draw: random.Random) -> bytes:
    """Return lines of JSON with one line changed, left out, repeated or moved."""
    lines = content.splitlines()
    at = draw.randrange(len(lines))
    how = draw.randrange(10)
    if how < 6:
        lines[at] = mutated_json(json.loads(lines[at]), draw)
    elif how == 6:
        del lines[at]
    elif how == 7:
        lines[at:at] = [lines[at]] * draw.choice((1, 50))
    elif how == 8:
        draw.shuffle(lines)
    else:
        return mutated_bytes(content, draw)
    return b"\n".join(lines) + b"\n"


def mutated_safetensors(content: bytes, draw: random.Random) -> bytes:
    """Return a safetensors file with its header changed, its stated length true or a lie."""
    if draw.random() < 0.3:
        return mutated_bytes(content, draw)
    size = int.from_bytes(content[:8], "little")
    document, body = json.loads(content[8 : 8 + size]), content[8 + size :]
    if draw.random() < 0.4 and "__metadata__" in document:  # JSON within a text
        holder, key = document["__metadata__"], draw.choice(list(document["__metadata__"]))
        try:
            inner = mutated_json(json.loads(holder[key]), draw)
        except ValueError:
            inner = mutated_json(holder[key], draw)
        holder[key] = inner.decode(errors="replace")
        header = json.dumps(document).encode()
    else:
        header = mutated_json(document, draw)
    stated = len(header) + draw.choice((0,) * 12 + (1, -1, 8, 10**6, 2**62))
    return max(stated, 0).to_bytes(8, "little") + header + body
