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
    parser.add_render_rule("image", _image)
    parser.add_render_rule("table_open", lambda *_: '<div class="table">\n<table>\n')
    parser.add_render_rule("table_close", lambda *_: "</table>\n</div>\n")
    for i, token in enumerate(tokens):
        if token.type in ("th_open", "td_open") and token.attrs.pop("style", ""):
            token.attrs["class"] = "right"
        if [one.type for one in token.children or []] == ["image"]:  # alone: without a paragraph
            tokens[i - 1].hidden = tokens[i + 1].hidden = True
    body = parser.renderer.render(tokens, parser.options, {"folder": folder})
    style = "\n" + files(__package__).joinpath("page.css").read_text(encoding="utf-8")
    return whole_page(f"<main>\n{body}</main>\n", title=title, style=style)


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
