"""Names and titles that people give, made safe to show: in a terminal, an image, a page, a file."""

from __future__ import annotations

_JOINERS = "\u200c\u200d"
"""Unseen, but parts of words in Persian and Hindi, and of emoji."""


def visible(text: str) -> str:
    r"""Write a text so that all of it is seen: what no font draws becomes its code.

    Escape and control characters drive a terminal, NUL and halves of surrogate pairs break files,
    and marks that turn the direction of writing feign other names. Line breaks and tabs become
    spaces. What this returns it leaves as it is.

    >>> print(visible("a\x1b[31m\n\u202eb\ud800"))
    a\x1b[31m \u202eb\ud800
    """
    return text if text.isprintable() else "".join(map(_shown, text))


def visible_lines(text: str) -> str:
    """Write a text of several lines so that all of it is seen, line by line."""
    return "\n".join(map(visible, text.split("\n")))


def _shown(sign: str) -> str:
    if sign.isprintable() or sign in _JOINERS:
        return sign
    return " " if sign.isspace() else sign.encode("unicode_escape").decode("ascii")
