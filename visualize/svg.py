"""A scene as SVG text, written without any library."""

from __future__ import annotations

from xml.sax.saxutils import escape, quoteattr

from ..graphs.calls.text import visible
from .scene import Cell, EdgeMark, NodeMark, PathData, Scene, Text, outline
from .style import FONTS, PAPER


def to_svg(scene: Scene, *, inline: bool = False) -> str:
    """Render a scene with its marks' names as tooltips; `inline`: for use in a page of HTML."""
    size = f'width="{_n(scene.width)}pt" height="{_n(scene.height)}pt"'
    parts = [
        *([] if inline else ['<?xml version="1.0" encoding="UTF-8"?>']),
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {_n(scene.width)} '
        f'{_n(scene.height)}" font-family="{FONTS}" role="img">',
        f"<title>{_text(scene.title)}</title>",
        f'<rect width="100%" height="100%" fill="{PAPER}"/>',
        *_group("layers", [f"<rect {_box(band)}/>" for band in scene.bands]),
        *_group("cells", [_cell(cell) for cell in scene.cells]),
        *_group("links", [_edge(mark) for mark in scene.links], ' fill="none"'),
        *_group("edges", [_edge(mark) for mark in scene.edges], ' fill="none"'),
        *_group("nodes", [_node(mark) for mark in scene.nodes]),
        *_group("labels", [_label(text) for text in scene.texts]),
        *_group("legend", [
            *(_edge(mark) for mark in scene.legend.lines),
            *(_node(mark) for mark in scene.legend.nodes),
            *(_label(text) for text in scene.legend.texts),
        ]),
        "</svg>",
    ]  # fmt: skip
    return "\n".join(parts) + "\n"


def _group(name: str, members: list[str], attributes: str = "") -> list[str]:
    return [f'<g class="{name}"{attributes}>', *members, "</g>"] if members else []


def _n(value: float) -> str:
    """Print a number with at most two decimals, and never a negative zero."""
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def _path(path: PathData) -> str:
    return " ".join(c + " ".join(_n(v) for v in values) for c, values in path)


def _text(text: str) -> str:
    return escape(visible(text))


def _name(key: str, name: str) -> str:
    return f" data-{key}={quoteattr(visible(name))}" if name else ""


def _tooltip(text: str) -> str:
    return f"<title>{_text(text)}</title>" if text else ""


def _edge(mark: EdgeMark) -> str:
    dashes = f' stroke-dasharray="{" ".join(map(_n, mark.dashes))}"' if mark.dashes else ""
    return (
        f'<path d="{_path(mark.path)}" stroke="{mark.colour}" stroke-width="{_n(mark.width)}" '
        f'stroke-opacity="{_n(mark.opacity)}"{dashes}'
        f"{_name('edge', mark.name)}>{_tooltip(mark.tooltip)}</path>"
    )


def _cell(cell: Cell) -> str:
    return f"<rect {_box(cell)}{_name('cell', cell.name)}>{_tooltip(cell.tooltip)}</rect>"


def _box(cell: Cell) -> str:
    size = f'width="{_n(cell.width)}" height="{_n(cell.height)}"'
    return f'x="{_n(cell.x)}" y="{_n(cell.y)}" {size} fill="{cell.fill}"'


def _node(mark: NodeMark) -> str:
    look = f'fill="{mark.fill}" stroke="{mark.stroke}" stroke-width="0.9"'
    shape = f'<path d="{_path(outline(mark))}" {look}/>'
    if not mark.name:
        return f"<g>{_tooltip(mark.tooltip)}{shape}</g>" if mark.tooltip else shape
    label = _label(Text(mark.x, mark.y, mark.name, mark.size, mark.colour))
    return f"<g{_name('node', mark.name)}>{_tooltip(mark.tooltip)}{shape}{label}</g>"


def _label(text: Text) -> str:
    # the baseline lies about a third of the size below the middle
    weight = ' font-weight="bold"' if text.bold else ""
    halo = ' stroke="#ffffff" stroke-width="2" paint-order="stroke"' if text.halo else ""
    return (
        f'<text x="{_n(text.x)}" y="{_n(text.y + 0.35 * text.size)}" '
        f'font-size="{_n(text.size)}" text-anchor="{text.anchor}" fill="{text.colour}"'
        f"{weight}{halo}>{_text(text.text)}</text>"
    )
