"""Write a drawing to a file; the name's ending says which kind."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from ..graphs.calls.typed import typed
from ..graphs.circuit import Circuit
from ..graphs.diff import CircuitDiff
from ..graphs.errors import unknown, unknown_argument
from ..graphs.files.atomic import replacing
from .compose import make_scene
from .dot import to_dot
from .html import to_html
from .raster import render
from .scene import Scene
from .subject import Drawing, read_subject
from .svg import to_svg

FORMATS: dict[str, Callable[[Scene, BinaryIO], object]] = {
    ".svg": lambda scene, file: file.write(to_svg(scene).encode()),
    ".png": lambda scene, file: render(scene, file, "png"),
    ".pdf": lambda scene, file: render(scene, file, "pdf"),
    ".html": lambda scene, file: file.write(to_html(scene).encode()),
}
"""The kinds of file made from a scene, by ending. DOT is made from the circuit itself."""


def accepted_suffixes(*, scene: bool = False) -> tuple[str, ...]:
    """List the endings that `draw` understands; `scene`: those of pictures that are no graph."""
    return tuple(FORMATS) if scene else (".svg", ".png", ".pdf", ".dot", ".html")


@typed
def draw(
    subject: Circuit | CircuitDiff,
    path: str | os.PathLike[str],
    drawing: Drawing | None = None,
    **fields: Any,
) -> Path:
    """Draw a circuit or a diff to a file of the kind its ending names; return its path.

    Args:
        subject: what to draw.
        path: where to; `.svg`, `.png`, `.pdf`, `.dot` or `.html`.
        drawing: how; default: plainly.
        fields: those of `Drawing` in place of the given ones: `scores`, `names` (of a diff),
            `title`, `caption`, `labels`, `layout` and others.

    Raises:
        UnknownName: the ending or the layout is none of the accepted ones.
        EdgewiseError: the file cannot be written, or matplotlib is needed and missing.

    >>> import tempfile
    >>> from edgewise.graphs.graph import ComputationGraph
    >>> circuit = Circuit.empty(ComputationGraph(1, 1)).with_edges(["embed->m0", "m0->logits"])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     draw(circuit, f"{folder}/circuit.svg", title="Two edges").name
    'circuit.svg'
    """
    known = list(Drawing.__dataclass_fields__)
    for name in fields:
        if name not in known:
            raise unknown_argument("draw", name, known)
    target, drawing = Path(path), replace(drawing or Drawing(), **fields)
    suffix = target.suffix.lower()
    if suffix not in accepted_suffixes():
        raise unknown("ending of a drawing's file name", suffix, accepted_suffixes())
    if suffix != ".dot":
        return write_scene(make_scene(subject, drawing), target)
    drawn = read_subject(subject, drawing)
    words = drawn.caption if drawing.caption is None else drawing.caption
    text = to_dot(drawn, title=drawing.title, caption=words)
    with replacing(target) as temporary:
        temporary.write_bytes(text.encode())
    return target


@typed
def write_scene(scene: Scene, path: str | os.PathLike[str]) -> Path:
    """Write a drawing that is made already, to a file of the kind its ending names.

    What its layout had to do without becomes a warning.

    Raises:
        UnknownName: the ending is none of the accepted ones.
        EdgewiseError: the file cannot be written, or matplotlib is needed and missing.
    """
    target = Path(path)
    suffix = target.suffix.lower()
    if suffix not in FORMATS:
        raise unknown("ending of this drawing's file name", suffix, FORMATS)
    for note in scene.notes:
        warnings.warn(note, stacklevel=3)
    with replacing(target) as temporary, temporary.open("wb") as file:
        FORMATS[suffix](scene, file)
    return target
