"""A scene as PNG or PDF, through matplotlib (the extra `draw`), imported only here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, BinaryIO

from ..graphs.calls.text import visible
from ..graphs.errors import EdgewiseError
from .scene import PathData, Scene, Text, outline
from .style import PAPER

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def render(scene: Scene, file: BinaryIO, kind: str, *, dpi: float = 150.0) -> None:
    """Write a scene as `png` or `pdf`; the same scene gives the same bytes.

    Raises:
        EdgewiseError: matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        raise EdgewiseError(
            f"a {kind.upper()} needs matplotlib, which is not installed; install it with "
            'pip install "edgewise[draw]", or draw to .svg or .dot, which need nothing.'
        ) from None
    with rc_context({"pdf.fonttype": 42, "path.simplify": False, "font.family": ["DejaVu Sans"]}):
        figure = Figure(figsize=(scene.width / 72, scene.height / 72), facecolor=PAPER)
        axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        axes.set_xlim(0, scene.width)
        axes.set_ylim(scene.height, 0)
        axes.set_axis_off()
        _draw(axes, scene)
        nothing = {"Software": None} if kind == "png" else {"CreationDate": None}
        figure.savefig(file, format=kind, dpi=dpi, metadata=nothing)


def _draw(axes: Axes, scene: Scene) -> None:
    """Add all marks in drawing order."""
    from matplotlib.patches import PathPatch, Rectangle

    for b in (*scene.bands, *scene.cells):
        axes.add_patch(Rectangle((b.x, b.y), b.width, b.height, facecolor=b.fill, linewidth=0))
    for mark in (*scene.links, *scene.edges, *scene.legend.lines):
        style: Any = (0, tuple(d / mark.width for d in mark.dashes)) if mark.dashes else "solid"
        axes.add_patch(PathPatch(
            _path(mark.path), fill=False, edgecolor=mark.colour, linewidth=mark.width,
            alpha=mark.opacity, linestyle=style, capstyle="butt", joinstyle="round",
        ))  # fmt: skip
    for node in (*scene.nodes, *scene.legend.nodes):
        path = _path(outline(node))
        axes.add_patch(PathPatch(path, facecolor=node.fill, edgecolor=node.stroke, linewidth=0.9))
        if node.name:
            _text(axes, Text(node.x, node.y, node.name, node.size, node.colour))
    for text in (*scene.texts, *scene.legend.texts):
        _text(axes, text)


def _path(path: PathData) -> Any:
    """Turn a path into matplotlib's vertices and codes."""
    from matplotlib.path import Path

    codes = {"M": Path.MOVETO, "L": Path.LINETO, "C": Path.CURVE4, "Z": Path.CLOSEPOLY}
    vertices: list[tuple[float, float]] = []
    kinds: list[Any] = []
    for command, values in path:
        numbers = values or path[0][1]
        vertices += zip(numbers[::2], numbers[1::2], strict=True)
        kinds += [codes[command]] * (len(numbers) // 2)
    return Path(vertices, kinds)


def _text(axes: Axes, text: Text) -> None:
    from matplotlib.patheffects import withStroke

    drawn = axes.text(
        text.x, text.y + 0.35 * text.size, visible(text.text), fontsize=text.size,
        color=text.colour, va="baseline", fontweight="bold" if text.bold else "normal",
        ha={"start": "left", "middle": "center", "end": "right"}[text.anchor], parse_math=False,
    )  # fmt: skip
    if text.halo:
        drawn.set_path_effects([withStroke(linewidth=2, foreground=PAPER)])
