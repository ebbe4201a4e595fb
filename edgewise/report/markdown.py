"""Parts of a Markdown document: tables, links, escaped text, numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    right: int | None = None,
    left: Sequence[int] = (),
) -> str:
    """Write a table; columns from `right` on are set right, but for those in `left`."""
    line: Callable[[Iterable[str]], str] = lambda cells: f"| {' | '.join(cells)} |"  # noqa: E731
    aligned = [
        "---:" if right is not None and i >= right and i not in left else "---"
        for i in range(len(head))
    ]
    return "\n".join([line(head), line(aligned), *(line(row) for row in rows)])


def paragraphs(parts: Iterable[str]) -> str:
    """Put an empty line between parts; empty ones are left out."""
    return "\n\n".join(part for part in parts if part)


def link(name: str) -> str:
    """Link a file of the same directory."""
    return f"[{name}]({name})"


def escaped(text: str) -> str:
    """Escape what Markdown would take for markup."""
    for sign in "\\`*_[]<>|":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split())


def code(text: str) -> str:
    """Set a text as code."""
    return "`" + text.replace("`", "'").replace("|", "¦") + "`"


def codes(texts: Sequence[str]) -> str:
    """Set several texts as code."""
    return ", ".join(code(text) for text in texts) or "none"


def plain(value: Any) -> str:
    """Write an option's value."""
    if isinstance(value, (list, tuple)):
        return " ".join(map(str, value))
    if isinstance(value, bool):
        return "on" if value else "off"
    return "–" if value is None else str(value)


def ratio_text(value: float | None) -> str:
    """Write a ratio with three decimals, a dash where there is none."""
    if value is None:
        return "–"
    return f"{value:.3f}".replace("-0.000", "0.000")


def number(value: float | None) -> str:
    """Write a number with four digits, a dash where there is none."""
    return "–" if value is None else f"{value:.4g}"
