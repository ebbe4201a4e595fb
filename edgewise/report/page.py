"""A report in Markdown as a single page of HTML, with its pictures in it; needs nothing else.

Pictures are inlined: as SVG where the same picture is there as SVG, else as data. Text is never
taken for HTML. The page holds no script and forbids itself to load anything.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..visualize.html import whole_page

if TYPE_CHECKING:
    from markdown_it.token import Token

TYPES = {".png": "image/png", ".svg": "image/svg+xml"}


def to_page(text: str, *, title: str, folder: Path) -> str:
    """Turn a report into a page; pictures are read from the report's folder.

    >>> page = to_page("# A <b>\\n\\n| x |\\n| --- |\\n| 1 |\\n", title="A", folder=Path())
    >>> "<h1>A &lt;b&gt;</h1>" in page, "<td>1</td>" in page
    (True, True)
    """
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(text)
    pictures = {"folder": folder}
    for name, rule in _RULES.items():
        parser.add_render_rule(name, rule)
    _align(tokens)
    _unwrap_pictures(tokens)
    body = parser.renderer.render(tokens, parser.options, pictures)
    style = "\n" + files(__package__).joinpath("page.css").read_text(encoding="utf-8")
    return whole_page(f"<main>\n{body}</main>\n", title=title, style=style)


def _align(tokens: Sequence[Token]) -> None:
    """Replace the style of right-aligned cells by a class."""
    for token in tokens:
        if token.type in ("th_open", "td_open") and token.attrs.pop("style", ""):
            token.attrs["class"] = "right"


def _unwrap_pictures(tokens: Sequence[Token]) -> None:
    """Take away the paragraph around a picture that stands alone."""
    for i, token in enumerate(tokens[1:-1], start=1):
        inner = token.children or []
        if token.type == "inline" and [one.type for one in inner] == ["image"]:
            for around in (tokens[i - 1], tokens[i + 1]):
                around.hidden = True


def _image(
    self: Any, tokens: Sequence[Token], place: int, options: Any, about: Mapping[str, Path]
) -> str:
    """Put a picture of the folder into the page; without one, its words."""
    token = tokens[place]
    words = escape(self.renderInlineAsText(token.children or [], options, about))
    path = about["folder"] / str(token.attrs["src"])
    drawn = path.with_suffix(".svg")
    if drawn.is_file():
        text = drawn.read_text(encoding="utf-8")
        picture = re.sub(r"^<\?xml[^>]*\?>\s*", "", text)
    elif path.is_file() and path.suffix in TYPES:
        data = base64.b64encode(path.read_bytes()).decode("ascii")
        picture = f'<img alt="{words}" src="data:{TYPES[path.suffix]};base64,{data}">\n'
    else:
        return f"<p>({words}: no picture)</p>\n"
    return f"<figure>\n{picture}<figcaption>{words}</figcaption>\n</figure>\n"


def _table_open(*_: Any) -> str:
    return '<div class="table">\n<table>\n'


def _table_close(*_: Any) -> str:
    return "</table>\n</div>\n"


_RULES = {"image": _image, "table_open": _table_open, "table_close": _table_close}
