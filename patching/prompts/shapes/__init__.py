"""Shapes of files that prompt pairs are read from: this project's own, and those of others.

A shape is one file here, found by being there: a function under `@shape` that turns a file's
content into rows of pairs.
"""

from __future__ import annotations

from pathlib import Path

from ...registries import registered
from ..content import Content, read_content
from ..keys import is_name, plain
from ._registry import SHAPES, Rows, Shape

__all__ = ["Rows", "SHAPES", "Shape", "read_shape", "recognise", "shapes"]


def shapes() -> dict[str, Shape]:
    """Return all shapes, in the order in which a file is tried on them."""
    known = registered(SHAPES, __name__)
    return dict(sorted(known.items(), key=lambda item: (item[1].order, item[0])))


def read_shape(path: str | Path) -> tuple[Content, Shape]:
    """Read a file and recognise its shape; a PromptError says what is wrong with it as a whole."""
    names = {key for one in shapes().values() for key in one.keys}
    content = read_content(path, lambda name: is_name(name) or plain(name) in names)
    return content, recognise(content)


def recognise(content: Content) -> Shape:
    """Return the shape that a file is of; one that is of none is taken for pairs, and told why."""
    *most, last = shapes().values()
    return next((one for one in most if one.fits(content)), last)
