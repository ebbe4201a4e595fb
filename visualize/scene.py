"""A drawing as data: marks with positions and colours, which any backend can render.

Lengths are points (1/72 inch), x to the right, y downward, the origin at the top left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

Point: TypeAlias = tuple[float, float]
Command: TypeAlias = tuple[str, tuple[float, ...]]
"""M or L with x, y; C with two control points and the end; Z with nothing."""
PathData: TypeAlias = tuple[Command, ...]


@dataclass(frozen=True)
class Text:
    """One line of text; `anchor` is start, middle or end, y is the text's middle."""

    x: float
    y: float
    text: str
    size: float
    colour: str
    anchor: str = "middle"
    bold: bool = False
    halo: bool = False


@dataclass(frozen=True)
class Cell:
    """A filled rectangle; x and y are its top left corner.

    `name` is what it stands for, empty for a background or a sample in a legend.
    """

    name: str
    x: float
    y: float
    width: float
    height: float
    fill: str
    tooltip: str = ""


@dataclass(frozen=True)
class NodeMark:
    """A node's outline and label, of `colour` and `size`; x and y are its centre."""

    name: str
    x: float
    y: float
    width: float
    height: float
    shape: str
    fill: str
    stroke: str
    colour: str = ""
    size: float = 8.0
    tooltip: str = ""


@dataclass(frozen=True)
class EdgeMark:
    """An edge's path; `name` is the edge's name, empty for a mark that is no edge."""

    name: str
    path: PathData
    colour: str
    width: float
    opacity: float = 1.0
    dashes: tuple[float, ...] = ()
    tooltip: str = ""


@dataclass(frozen=True)
class Legend:
    """The legend's sample marks and texts, already placed."""

    nodes: tuple[NodeMark, ...] = ()
    lines: tuple[EdgeMark, ...] = ()
    texts: tuple[Text, ...] = ()

    def __add__(self, other: Legend) -> Legend:
        return Legend(self.nodes + other.nodes, self.lines + other.lines, self.texts + other.texts)


@dataclass(frozen=True)
class Scene:
    """Everything a backend draws: bands, cells, links, edges, nodes, texts, legend, in order.

    `links` tie a key/value head to the heads that use it, and an MLP's port to the experts that
    read it. `edges` have the strongest last. `notes` say what the layout had to do without.
    """

    width: float
    height: float
    title: str
    bands: tuple[Cell, ...] = ()
    links: tuple[EdgeMark, ...] = ()
    edges: tuple[EdgeMark, ...] = ()
    nodes: tuple[NodeMark, ...] = ()
    texts: tuple[Text, ...] = ()
    legend: Legend = Legend()
    notes: tuple[str, ...] = ()
    cells: tuple[Cell, ...] = ()


def outline(mark: NodeMark) -> PathData:
    """Return a node's outline as a closed path."""
    left, right = mark.x - mark.width / 2, mark.x + mark.width / 2
    top, bottom = mark.y - mark.height / 2, mark.y + mark.height / 2
    if mark.shape in ("pill", "box"):
        radius = mark.height / 2 if mark.shape == "pill" else 1.5
        return _rounded(left, top, right, bottom, radius)
    slant, half = mark.height * 0.35, mark.y
    corners = {
        "cut": [
            (left + slant / 1.4, top), (right, top), (right, bottom - slant / 1.4),
            (right - slant / 1.4, bottom), (left, bottom), (left, top + slant / 1.4),
        ],
        "hexagon": [
            (left + slant, top), (right - slant, top), (right, half),
            (right - slant, bottom), (left + slant, bottom), (left, half),
        ],
        "foot": [(left + slant, top), (right - slant, top), (right, bottom), (left, bottom)],
        "crown": [(left, top), (right, top), (right - slant, bottom), (left + slant, bottom)],
    }[mark.shape]  # fmt: skip
    return (*straight(corners), ("Z", ()))


def straight(points: Sequence[Point]) -> PathData:
    """Join points by straight lines."""
    return tuple(("L" if i else "M", point) for i, point in enumerate(points))


def _rounded(left: float, top: float, right: float, bottom: float, radius: float) -> PathData:
    """Return a rectangle with rounded corners; 0.5523 makes a cubic a quarter circle."""
    r, c = radius, radius * (1 - 0.5523)
    return (
        ("M", (left + r, top)),
        ("L", (right - r, top)),
        ("C", (right - c, top, right, top + c, right, top + r)),
        ("L", (right, bottom - r)),
        ("C", (right, bottom - c, right - c, bottom, right - r, bottom)),
        ("L", (left + r, bottom)),
        ("C", (left + c, bottom, left, bottom - c, left, bottom - r)),
        ("L", (left, top + r)),
        ("C", (left, top + c, left + c, top, left + r, top)),
        ("Z", ()),
    )
