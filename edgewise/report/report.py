"""The report of a run: report.md and report.html, made from its output directory's files alone.

What was found is read in `findings`, the templates say it in words, and `page` makes the page.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from ..experiment.spec import Experiment
from ..graphs.calls.text import visible, visible_lines
from ..graphs.files.atomic import write_text
from ..store.names import REPORT, REPORT_PAGE
from .findings import read_findings
from .page import to_page

if TYPE_CHECKING:
    from jinja2 import Environment

    from ..discovery.uncertainty.bootstrap import Estimate


def write_report(spec: Experiment, folder: Path) -> None:
    """Write report.md and report.html of a finished run; a FileFormatError says what is damaged."""
    found = read_findings(spec, folder)
    words = templates().get_template("report.md.j2").render(run=found).rstrip("\n") + "\n"
    write_text(folder / REPORT, words)
    write_text(folder / REPORT_PAGE, to_page(words, title=spec.name, folder=folder))


@cache
def templates() -> Environment:
    """Return the templates, with the ways in which they write values."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    def source(name: str) -> str:
        """Read a template; an indented line goes on with the line above."""
        return re.sub(r"\n +", " ", files(__package__).joinpath(name).read_text(encoding="utf-8"))

    found = Environment(
        loader=FunctionLoader(source), undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    found.filters |= FILTERS
    return found


MARKUP = r"[\\`*_\[\]<>|]|&(?=#?\w+;)|^[#=~]|^[-+](?=[- ]|$)"
"""What Markdown takes for markup: within a line, and at its beginning."""


def text(value: object) -> str:
    r"""Write what people can name on one line, with a backslash before what would be markup.

    >>> print(text("a_b|<c>\n d\x1b"))
    a\_b\|\<c\> d\\x1b
    """
    words = " ".join(visible(str(value)).split())
    return re.sub(r"^(\d+)([.)] )", r"\1\\\2", re.sub(MARKUP, r"\\\g<0>", words))


def code(value: object) -> str:
    """Set a text as code.

    >>> code("a|`b`")
    "`a¦'b'`"
    """
    return "`" + visible(str(value)).replace("`", "'").replace("|", "¦") + "`"


def codes(values: Iterable[object]) -> str:
    """Set several texts as code."""
    return ", ".join(map(code, values)) or "none"


def fenced(texts: Iterable[str]) -> str:
    """Set texts as a block of code, between fences that are longer than any within.

    >>> print(fenced(["a ```", "b"]))
    ````text
    a ```
    b
    ````
    """
    inner = "\n".join(map(visible_lines, texts))
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", inner)), default=0))
    return f"{fence}text\n{inner}\n{fence}"


def links(names: Iterable[str]) -> str:
    """Link files of the same directory."""
    return ", ".join(f"[{name}]({name})" for name in names)


def settings(values: Mapping[str, object]) -> str:
    """Write options with their values.

    >>> settings({"a": True, "b": None, "c": 2.5, "d": ["x", "y"]})
    'a on, b –, c 2.5, d x y'
    """
    signs = {True: "on", False: "off", None: "–"}
    found = []
    for key, value in values.items():
        words = " ".join(map(str, value)) if isinstance(value, list | tuple) else value
        if value is None or isinstance(value, bool):
            words = signs[value]
        found.append(f"{text(key)} {text(words)}")
    return ", ".join(found)


def ratio(value: float | None) -> str:
    """Write a ratio with three decimals, a dash where there is none."""
    return "–" if value is None else f"{value:.3f}".replace("-0.000", "0.000")


def ends(found: tuple[float, float] | None) -> str:
    """Write the ends of an interval, a dash where there is none."""
    return "–" if found is None else f"{found[0]:.3g} to {found[1]:.3g}"


def interval(found: Estimate) -> str:
    """Write the ends of an estimate's interval, a dash where there is none."""
    return ends(found.interval)


def estimate(found: Estimate) -> str:
    """Write a ratio with its interval, or that it is undefined."""
    if found.value is None:
        return "undefined"
    ends = "" if found.interval is None else f" [{found.low + 0.0:.2f}, {found.high + 0.0:.2f}]"
    return ratio(found.value) + ends


def number(value: float | None) -> str:
    """Write a number with four digits, a dash where there is none."""
    return "–" if value is None else f"{value:.4g}"


def percent(share: float, digits: int = 0) -> str:
    """Write a share in percent.

    >>> percent(-0.001), percent(0.12345, 2)
    ('0%', '12.35%')
    """
    return f"{share:.{digits}%}".replace("-0%", "0%")


_OWN = (
    text,
    code,
    codes,
    fenced,
    links,
    settings,
    ratio,
    number,
    percent,
    ends,
    interval,
    estimate,
)
FILTERS = {
    **{one.__name__: one for one in _OWN},
    "whole": "{:,}".format,
    "short": "{:g}".format,
    "rough": "{:.2g}".format,
}
