"""What commands print: tables for people, or one JSON value for programs."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from json import dumps
from typing import TYPE_CHECKING, Any, Literal

import click

from ..graphs.calls.text import visible, visible_lines
from ..graphs.names import KIND_WORDS

if TYPE_CHECKING:
    from rich.table import Table

    from ..discovery.uncertainty.bootstrap import Estimate

PIPED_WIDTH = 1000
"""Columns of a table that goes to a file or pipe, where nothing is cut or folded."""


def line(text: str = "") -> None:
    """Print a line."""
    click.echo(visible(text))


def note(*texts: str) -> None:
    """Print warnings on standard error."""
    for text in texts:
        aside(f"Warning: {text}")


def aside(text: str) -> None:
    """Print a line on standard error that is neither a result nor a warning."""
    click.echo(visible(text), err=True)


def understood(task: Mapping[str, object]) -> None:
    """Print on standard error what was understood of a file of prompt pairs, if anything was."""
    shape = task.get("shape")
    if isinstance(shape, Mapping) and not shape.get("native"):
        file = str(task.get("file") or task.get("name"))
        aside(f"{os.path.basename(file)}: {shape.get('understood')}")


def facts(*pairs: tuple[str, object]) -> None:
    """Print names and values, one pair a line, values aligned; None is left out."""
    from rich.table import Table

    found = Table.grid(padding=(0, 2))
    found.add_column(no_wrap=True)
    found.add_column(overflow="fold")
    for name, value in pairs:
        if value is not None:
            found.add_row(name, visible_lines(str(value)))
    _print(found)


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    title: str = "",
    left: Sequence[int] = (0,),
) -> None:
    """Print a table after an empty line; the columns `left` are text, the others stand right."""
    from rich import box
    from rich.table import Table

    found = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for number, name in enumerate(columns):
        side: Literal["left", "right"] = "left" if number in left else "right"
        found.add_column(visible(name), justify=side, overflow="fold")
    for row in rows:
        found.add_row(*(visible_lines(number_text(cell)) for cell in row))
    line()
    if title:
        line(title)
    _print(found, tight=True)


def sentences(texts: Iterable[str]) -> None:
    """Print sentences, indented; a terminal folds them between words."""
    from rich.table import Table

    found = Table.grid(padding=(0, 0, 0, 2), pad_edge=True)
    found.add_column(overflow="fold")
    for text in texts:
        found.add_row(visible(text))
    if found.row_count:
        _print(found)


def _print(found: Table, *, tight: bool = False) -> None:
    """Print a table as it is, without the spaces that fill its lines up.

    `tight`: where it is wider than the screen, columns move together before they are folded.
    """
    from rich.console import Console

    width = None if sys.stdout.isatty() else PIPED_WIDTH
    screen = Console(markup=False, highlight=False, emoji=False, width=width)
    if (
        tight
        and screen.measure(found, options=screen.options.update(width=PIPED_WIDTH)).maximum
        > screen.width
    ):
        found.padding = (0, 0)  # columns move together before names and numbers break
    with screen.capture() as capture:
        screen.print(found)
    click.echo("\n".join(text.rstrip() for text in capture.get().splitlines()))


def number_text(value: object) -> str:
    """Write a number as people read it.

    >>> number_text(123211), number_text(0.123456), number_text(None)
    ('123,211', '0.1235', '-')
    """
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def ratio(value: float | None) -> str:
    """Write a ratio with three decimals, a dash where there is none."""
    return "-" if value is None else f"{value + 0.0:.3f}"


def estimate(found: Estimate) -> str:
    """Write a ratio with its interval, or that it is undefined.

    >>> from ..discovery.uncertainty.bootstrap import UNDEFINED, Estimate
    >>> estimate(Estimate(0.8123, 0.741, 0.883)), estimate(UNDEFINED)
    ('0.812 [0.74, 0.88]', 'undefined')
    """
    if found.value is None:
        return "undefined"
    ends = "" if found.interval is None else f" [{found.low + 0.0:.2f}, {found.high + 0.0:.2f}]"
    return f"{ratio(found.value)}{ends}"


def ends(interval: Sequence[float] | None) -> str:
    """Write the ends of an interval; nothing where there is none.

    >>> ends((0.5, 1.25)), ends(None)
    ('[0.50, 1.25]', '')
    """
    return "" if interval is None else f"[{interval[0] + 0.0:.2f}, {interval[1] + 0.0:.2f}]"


def row_ends(row: Mapping[str, Any], before: str = "") -> str:
    """Write the ends that a row has of an interval, `low` and `high` behind some words.

    >>> row_ends({"share_low": 0.5, "share_high": 1.25}, "share_"), row_ends({"low": None})
    ('[0.50, 1.25]', '')
    """
    low, high = (row.get(f"{before}{which}") for which in ("low", "high"))
    return "" if low is None or high is None else ends((low, high))


def written(output: str | None) -> None:
    """Say which file was written, if one was."""
    if output is not None:
        line()
        line(f"written: {output}")


def emit(document: Mapping[str, object], rows: Sequence[str] = ()) -> None:
    """Print a JSON object; the lists named in `rows` one item a line."""
    from ..graphs.files.json_files import dump_document

    emit_text(dump_document(document, rows))


def emit_text(text: str) -> None:
    r"""Print JSON; within its strings, what a terminal would obey stands as `\u…`."""

    def shown(found: re.Match[str]) -> str:
        return found[0] if found[0].isprintable() else dumps(found[0])[1:-1]

    click.echo(re.sub(r"[^\n -~]", shown, text), nl=False)


def kind(name: str) -> str:
    """Return the word for a kind of edge or node."""
    return KIND_WORDS.get(name, name)


def edges_by_kind(kept: Mapping[str, int], total: Mapping[str, int]) -> None:
    """Print how many edges of each kind are kept."""
    rows = [(kind(name), kept.get(name, 0), count) for name, count in total.items()]
    rows.append(("all", sum(kept.values()), sum(total.values())))
    parts = ((*row, f"{100 * row[1] / row[2]:.2f}%" if row[2] else "-") for row in rows)
    table(("edges into", "kept", "of", "share"), parts)
