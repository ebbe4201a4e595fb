"""Write a drawing to a file; the name's ending says which kind."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ..graphs.circuit import Circuit
from ..graphs.diff import CircuitDiff
from ..graphs.errors import unknown
from ..graphs.files.atomic import replacing
from .compose import PairOfScores, make_scene, read_subject
from .dot import to_dot
from .html import to_html
from .raster import render
from .scene import Scene
from .subject import EdgeScores, Fade
from .svg import to_svg


@dataclass(frozen=True)
class Format:
    """Hold how a kind of file is written from a scene."""

    words: str
    write: Callable[[Scene, BinaryIO], None]


FORMATS: dict[str, Format] = {
    ".svg": Format("vector image", lambda scene, file: _text(file, to_svg(scene))),
    ".png": Format("pixel image", lambda scene, file: render(scene, file, "png")),
    ".pdf": Format("vector page", lambda scene, file: render(scene, file, "pdf")),
    ".html": Format("page that tells names", lambda scene, file: _text(file, to_html(scene))),
}
"""The kinds of file made from a scene, by ending. DOT is made from the circuit itself."""


def accepted_suffixes(*, scene: bool = False) -> tuple[str, ...]:
    """List the endings that `draw` understands; `scene`: those of pictures that are no graph."""
    return tuple(FORMATS) if scene else (".svg", ".png", ".pdf", ".dot", ".html")


def draw(
    subject: Circuit | CircuitDiff,
    path: str | os.PathLike[str],
    *,
    scores: EdgeScores | PairOfScores | None = None,
    names: tuple[str, str] = ("A", "B"),
    whole: CircuitDiff | None = None,
    fade: Fade | None = None,
    labels: Mapping[str, str] | None = None,
    title: str = "",
    caption: str | None = None,
    layout: str = "auto",
    timeout: float = 20.0,
) -> Path:
    """Draw a circuit or a diff to a file of the kind its ending names.

    Args:
        subject: what to draw.
        path: where to; `.svg`, `.png`, `.pdf`, `.dot` or `.html`.
        scores: of a circuit, a `Scores` or a mapping from edges; of a diff, a pair of those.
        names: what a diff's two circuits are called.
        whole: of a diff, the one it is a part of, which then says who has a node.
        fade: of a diff, how stable its edges are, and which changed significantly.
        labels: what is written above nodes, by their names, such as head roles.
        title: printed above, if not empty.
        caption: printed below; by default the numbers of edges and nodes.
        layout: `dot`, `built-in`, or `auto`: Graphviz's `dot` where the machine has it.
        timeout: seconds that `dot` may take; then the built-in layout does it, with a warning.

    Returns:
        The path, once the file is complete.

    Raises:
        UnknownName: the ending or the layout is none of the accepted ones.
        EdgewiseError: the file cannot be written, or matplotlib is needed and missing.

    >>> from edgewise.graphs.graph import ComputationGraph
    >>> circuit = Circuit.empty(ComputationGraph(1, 1)).with_edges(["embed->m0", "m0->logits"])
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     draw(circuit, f"{folder}/circuit.svg").name
    'circuit.svg'
    """
    target = Path(path)
    suffix = target.suffix.lower()
    if suffix not in accepted_suffixes():
        raise unknown("ending of a drawing's file name", suffix, accepted_suffixes())
    if suffix == ".dot":
        drawn = read_subject(subject, scores, names, whole, fade, labels)
        words = drawn.caption if caption is None else caption
        text = to_dot(drawn, title=title, caption=words)
        return write_file(target, lambda file: _text(file, text))
    scene = make_scene(
        subject, scores=scores, names=names, whole=whole, fade=fade, labels=labels,
        title=title, caption=caption, layout=layout, timeout=timeout,
    )  # fmt: skip
    for note in scene.notes:
        warnings.warn(note, stacklevel=2)
    return write_scene(scene, target)


def write_scene(scene: Scene, path: str | os.PathLike[str]) -> Path:
    """Write a drawing that is made already, to a file of the kind its ending names.

    Raises:
        UnknownName: the ending is none of the accepted ones.
        EdgewiseError: the file cannot be written, or matplotlib is needed and missing.
    """
    target = Path(path)
    suffix = target.suffix.lower()
    if suffix not in FORMATS:
        raise unknown("ending of this drawing's file name", suffix, FORMATS)
    return write_file(target, lambda file: FORMATS[suffix].write(scene, file))


def write_file(path: Path, write: Callable[[BinaryIO], None]) -> Path:
    """Let a writer fill a file, all or nothing.

    Raises:
        EdgewiseError: the file cannot be written there; says why.
    """
    with replacing(path) as temporary, temporary.open("wb") as file:
        write(file)
    return path


def _text(file: BinaryIO, text: str) -> None:
    file.write(text.encode("utf-8"))
