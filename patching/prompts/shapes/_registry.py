"""The registry of shapes: each says which files it is of, and turns one into rows of pairs.

A row is what a line of a JSON Lines file of this project says, by the names of its fields
(`keys.FIELDS`); so whatever a file's shape, its pairs are read by one reader.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from typing_extensions import TypedDict, Unpack

from ....graphs.errors import PromptError
from ..content import Content
from ..row_context import RowContext

Fields = dict[str, object]


@dataclass
class Rows:
    """The rows that a file's shape gives, and what was understood.

    Attributes:
        rows: each with its place, or why it is none.
        said: what was understood, without the number of pairs.
        left_out: how many of the file's entries became no pair, by reason.
        unused: keys that are no field of a pair.
        missing: what to say if there is no pair at all.
        mixed: whether answers are token ids beside prompts as text.
        called: what the file itself calls the fields.
        native: whether the file is as this project writes it, so that nothing was to be understood.
    """

    rows: list[tuple[str, Fields | PromptError]]
    said: str
    left_out: Counter[str] = field(default_factory=Counter)
    unused: list[str] = field(default_factory=list)
    missing: str = ""
    mixed: bool = False
    native: bool = False
    called: Mapping[str, str] = field(default_factory=dict)

    def own_words(self, problem: str) -> str:
        """Return what is wrong with a row, with the names that the file itself has for fields."""
        for name, key in self.called.items():
            problem = problem.replace(f"'{name}'", f"'{key}'")
        return problem


ReadShape = Callable[[Content, RowContext], Rows]


@dataclass(frozen=True)
class Shape:
    """A registered shape: what it is, its keys and what they say, and an example of a file.

    `fits` tells whether a file is of the shape, by its keys; `draws`, whether its pairs are formed
    from what stands in it, so that a seed decides which; `chat`, whether it holds messages.
    """

    name: str
    summary: str
    keys: Mapping[str, str]
    ending: str
    example: str
    fits: Callable[[Content], bool]
    read: ReadShape
    order: int
    draws: bool = False
    chat: bool = False


class About(TypedDict, total=False):
    """What else a shape is; see `Shape`."""

    draws: bool
    chat: bool


SHAPES: dict[str, Shape] = {}


def shape(
    name: str,
    *,
    summary: str,
    keys: Mapping[str, str],
    example: tuple[str, str],
    fits: Callable[[Content], bool],
    order: int = 0,
    **about: Unpack[About],
) -> Callable[[ReadShape], ReadShape]:
    """Register a shape: what turns a file of it into rows. `example`: its ending and content.

    `about`: `draws` and `chat`, see `Shape`. Of several shapes that a file fits, the one of the
    lowest `order` is taken.
    """

    def register(read: ReadShape) -> ReadShape:
        if name in SHAPES:
            raise ValueError(f"the shape '{name}' is registered twice")
        SHAPES[name] = Shape(name, summary, dict(keys), *example, fits, read, order=order, **about)
        return read

    return register
