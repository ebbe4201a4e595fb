"""The report as a page: all of report.md is in it, escaped, and nothing comes from outside."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from edgewise.report.page import to_page

MARKDOWN = """# A \\<b\\> & \\*c\\*

* one **two**

![a \\_picture\\_](images/a.png)

Also as [images/a.svg](images/a.svg).

| x | y |
| --- | ---: |
| `a->b<q>` | 1 |

```text
<script>alert(1)</script>
```
"""


class Reader(HTMLParser):
    """Collect tags with their attributes, and check that every tag is closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br", "hr"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    return reader


def page(tmp_path: Path) -> str:
    return to_page(MARKDOWN, title="<t>", folder=tmp_path)


def test_text_is_never_markup(tmp_path: Path) -> None:
    text = page(tmp_path)
    assert "<h1>A &lt;b&gt; &amp; *c*</h1>" in text
    assert "<code>a-&gt;b&lt;q&gt;</code>" in text
    assert "&lt;script&gt;" in text and "<script" not in text
    assert "<title>&lt;t&gt;</title>" in text
    raw = to_page("<script>x</script>\n\n<b>y</b> [z](javascript:q)", title="", folder=tmp_path)
    assert "<script" not in raw and "<b>" not in raw and 'href="javascript' not in raw


def test_tables_and_lists(tmp_path: Path) -> None:
    text = page(tmp_path)
    assert "<li>one <strong>two</strong></li>" in text
    assert '<td class="right">1</td>' in text
    assert 'style="' not in text.split("</style>")[1]


@pytest.mark.parametrize("suffixes", [(".png", ".svg"), (".png",), ()])
def test_pictures_are_in_the_page(tmp_path: Path, suffixes: tuple[str, ...]) -> None:
    (tmp_path / "images").mkdir()
    content = {
        ".png": b"\x89PNG",
        ".svg": b'<?xml version="1.0"?>\n<svg><g class="mine"></g></svg>',
    }
    for suffix in suffixes:
        (tmp_path / "images" / f"a{suffix}").write_bytes(content[suffix])
    text = page(tmp_path)
    reader = read(text)
    assert ('<g class="mine">' in text) == (".svg" in suffixes)
    assert ("data:image/png;base64,iVBORw==" in text) == (suffixes == (".png",))
    assert ("no picture" in text) == (suffixes == ())
    assert "<?xml" not in text
    if suffixes:
        assert "<figcaption>a _picture_</figcaption>" in text
    sources = [attrs["src"] for _, attrs in reader.seen if "src" in attrs]
    assert all((source or "").startswith("data:") for source in sources)


def test_nothing_is_loaded_from_elsewhere(tmp_path: Path) -> None:
    reader = read(page(tmp_path))
    tags = {tag for tag, _ in reader.seen}
    assert not tags & {"script", "link", "iframe", "object"}
    assert "default-src 'none'" in page(tmp_path)
    assert not re.search(r"url\(|@import", page(tmp_path))
    assert page(tmp_path) == page(tmp_path)


def test_templates_and_markdown_load_only_where_a_report_is_written() -> None:
    program = (
        "import sys, edgewise.cli, edgewise.run, edgewise.report.report as report;"
        "assert not {'jinja2', 'markdown_it'} & set(sys.modules);"
        "report.templates().get_template('report.md.j2')"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
