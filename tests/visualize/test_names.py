"""Whatever people name things, every kind of file stays whole and shows all of the name."""

from __future__ import annotations

import base64
import hashlib
import html
import re
import unicodedata
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.graphs.calls.text import visible
from edgewise.graphs.circuit import Circuit
from edgewise.graphs.diff import CircuitDiff, Overlap
from edgewise.graphs.graph import ComputationGraph
from edgewise.graphs.timeline import Timeline
from edgewise.report.page import to_page
from edgewise.visualize import make_scene, to_svg
from edgewise.visualize.charts.heat_map import make_heat_map, panels_of
from edgewise.visualize.charts.overlap import make_overlap_matrix
from edgewise.visualize.charts.timeline import MetricLine, make_timeline_scene
from edgewise.visualize.dot import to_dot
from edgewise.visualize.draw import write_scene
from edgewise.visualize.html import to_html
from edgewise.visualize.scene import Scene
from edgewise.visualize.subject import Drawing, read_subject

GRAPH = ComputationGraph(1, 1)
EMPTY = Circuit.empty(GRAPH)
ONE, OTHER = EMPTY.with_edges(["embed->m0", "m0->logits"]), EMPTY.with_edges(["embed->logits"])
NASTY = (
    "a\nb", "\x1b[31mred\x1b[0m", "nul\x00", "half\ud800", "\udfff", "\u202egpj.exe", "\x85\u2028",
    "]]>", "</title><script>x</script>", "&lt;&#27;", '"; }\\', "\\", " ", "", "\ufffe\uffff",
    "$x_1$", "naïve 漢字 👩‍👩‍👧",
)  # fmt: skip
TEXT = st.one_of(
    st.sampled_from(NASTY),
    st.text(st.characters(exclude_categories=()), max_size=12),
    st.text(st.sampled_from('\\"\n&;#x<>-]\x1b\ud83d\udc69\u202e\x00 '), max_size=12),
)


def scenes(name: str, other: str) -> list[Scene]:
    """Draw everything that shows a name: as title, caption, names, labels, axis."""
    words = {"title": name, "caption": other}
    diff, strip = CircuitDiff(ONE, OTHER), Timeline((f"{name}1", f"{other}2"), (ONE, OTHER))
    values = [ONE.kept.sum(0).astype(float), OTHER.kept.sum(0).astype(float)]
    alike = Overlap(9, 2, 2, 1)
    return [
        make_scene(ONE, labels={"m0": name}, layout="built-in", **words),
        make_scene(diff, names=(name, other), layout="built-in", **words),
        make_timeline_scene(
            strip, curves=[MetricLine(name, (1.0, 2.0))], axis=other, layout="built-in", **words
        ),
        make_heat_map(GRAPH, panels_of([name, other], values), **words),
        make_overlap_matrix([name, other], [[alike, alike]] * 2, **words),
    ]


def is_shown(sign: str) -> bool:
    return sign in "\u200c\u200d" or sign == " " or unicodedata.category(sign)[0] not in "CZ"


class Page(HTMLParser):
    """Read a page's tags, and what stands in some of them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.inside = ""
        self.text: dict[str, str] = {}
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        self.inside = tag

    def handle_data(self, data: str) -> None:
        self.text.setdefault(self.inside, data)

    @property
    def policy(self) -> dict[str, list[str]]:
        names = [name for name, _ in self.attributes]
        content = self.attributes[names.index("http-equiv") + 1][1] or ""
        return {part.split()[0]: part.split()[1:] for part in content.split(";")}


@settings(max_examples=40, deadline=None)
@given(TEXT, TEXT)
def test_images_and_pages_are_whole(name: str, other: str) -> None:
    for scene in scenes(name, other):
        root = ElementTree.fromstring(to_svg(scene).encode("utf-8"))
        told = "".join(root.itertext())
        assert all(is_shown(sign) for sign in told if sign != "\n")
        title = root.findtext("{http://www.w3.org/2000/svg}title") or ""
        assert not (name or other) or title.strip() == visible(name or other).strip()
        page = to_html(scene)
        page.encode("utf-8")
        read = Page(page)
        assert read.tags.count("script") == 1 and read.tags.count("main") == 1
        assert read.text["script"].strip().startswith("const picture")


STRING = r'"((?:[^"\\]|\\.)*)"'
LINE = r"digraph circuit \{|\}|  \{rank=same; [S; ]+\}|  .*\];"


def lines_of(label: str) -> list[str]:
    """Read a label as Graphviz does: a backslash makes a line break or a sign, & an entity."""
    text = re.sub(r"\\(.)", lambda found: "\n" if found[1] == "n" else found[1], label)
    return html.unescape(re.sub(r"&(?!#?\w+;)", "&amp;", text)).split("\n")


@settings(max_examples=100, deadline=None)
@given(TEXT, TEXT)
def test_dot_is_whole(name: str, other: str) -> None:
    """A string ends at the first quote without a backslash before it."""
    for subject, drawing in (
        (ONE, Drawing(labels={"m0": name})),
        (CircuitDiff(ONE, OTHER), Drawing(names=(name, other))),
    ):
        text = to_dot(read_subject(subject, drawing), title=name, caption=other)
        text.encode("utf-8")
        bare = re.sub(STRING, "S", text)
        assert '"' not in bare and "\\" not in bare
        assert all(re.fullmatch(LINE, line) for line in bare.splitlines())
        strings = re.findall(STRING, text)
        assert all(is_shown(sign) for string in strings for sign in string)
        assert lines_of(strings[1]) == [visible(one) for one in (name, other) if one] or [""]
        assert (
            not name or drawing.names[0] == name or ["m0", visible(name)] in map(lines_of, strings)
        )


@pytest.mark.parametrize("suffix", ["png", "pdf"])
@pytest.mark.filterwarnings("ignore:Glyph")
def test_images_of_pixels_are_whole(suffix: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    name = "".join(NASTY)
    strip = Timeline((f"{name}1", "2"), (ONE, OTHER))
    path = write_scene(
        make_timeline_scene(strip, axis=name, title=name, layout="built-in"),
        tmp_path / f"a.{suffix}",
    )
    start, end = {"png": (b"\x89PNG", b"IEND\xaeB`\x82"), "pdf": (b"%PDF", b"%%EOF\n")}[suffix]
    assert path.read_bytes().startswith(start) and path.read_bytes().endswith(end)


@given(TEXT)
def test_what_is_shown_is_plain_and_stays(text: str) -> None:
    shown = visible(text)
    assert all(is_shown(sign) for sign in shown)
    assert visible(shown) == shown
    if all(is_shown(sign) for sign in text):
        assert shown == text


def test_codes_tell_what_was_there() -> None:
    assert visible("a\x1b[0m\x00\ud800\u202e") == "a\\x1b[0m\\x00\\ud800\\u202e"
    assert visible("one\r\ntwo\tthree") == "one  two three"


def test_pages_allow_nothing_but_their_own_script_and_style(tmp_path: Path) -> None:
    def name_of(content: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"

    drawn = Page(to_html(make_scene(ONE, layout="built-in")))
    report = Page(to_page("# A\n\n| x |\n| ---: |\n| 1 |\n", title="A", folder=tmp_path))
    for page in (drawn, report):
        assert page.policy["default-src"] == page.policy["base-uri"] == ["'none'"]
        assert page.policy["style-src"] == [name_of(page.text["style"])]
        assert page.policy["img-src"] == ["data:"]
        assert not [name for name, _ in page.attributes if name == "style" or name[:2] == "on"]
    assert drawn.policy["script-src"] == [name_of(drawn.text["script"])]
    assert report.policy["script-src"] == ["'none'"] and "script" not in report.tags
