"""The words around a drawing: title, caption, and what shapes, colours, widths and dashes mean."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..graphs.calls.text import visible
from ..graphs.names import Kind
from .scene import EdgeMark, Legend, NodeMark, Text, straight
from .style import (
    DASHES,
    DOTS,
    FAINT,
    INK,
    NODE_STYLES,
    SMALL_FONT,
    TITLE_FONT,
    edge_opacity,
    edge_width,
    stable_colour,
    stable_opacity,
    text_width,
)
from .subject import Subject

MARGIN, TITLE_LINE, TEXT_LINE = 12.0, 17.0, 13.0
"""Points around a drawing, and from one line of its title, or of its caption, to the next."""

_MOST_LINES = 60  # of a title, a name or a caption
_LINE, _SAMPLE, _SPACE, _GAP, _HEADING = 15.0, 22.0, 5.0, 12.0, 56.0


@dataclass(frozen=True)
class LegendSample:
    """A sample (a node's shape, or a line's colour, width and dashes) and its words."""

    words: str
    kind: Kind | None = None
    colour: str = INK
    width: float = 2.0
    opacity: float = 1.0
    dashes: tuple[float, ...] = ()

    @property
    def length(self) -> float:
        """Return the points it takes in a row, with the gap to the next one."""
        return _SAMPLE + _SPACE + text_width(self.words, SMALL_FONT) + _GAP


def build_legend(
    subject: Subject, caption: str, left: float, top: float, width: float
) -> tuple[Legend, float]:
    """Place the legend and the caption below `top`; return them and where they end."""
    legend, y = Legend(), top
    for words, entries in _blocks(subject).items():
        if entries:
            title = Text(left + 5, y, words, SMALL_FONT, FAINT, "start")
            block, y = place_samples(entries, left + _HEADING, y, width - 2 * left - _HEADING)
            legend += Legend(texts=(title,)) + block
    below, y = paragraph(caption, left + 5, y, width - 2 * left - 10)
    return legend + Legend(texts=tuple(below)), y - _LINE / 2


def place_samples(
    entries: Sequence[LegendSample], left: float, y: float, width: float
) -> tuple[Legend, float]:
    """Place samples and words in rows of at most this width; return them and the next row's y."""
    nodes, lines, texts, x = list[NodeMark](), list[EdgeMark](), list[Text](), left
    for entry in entries:
        if x > left and x + entry.length - _GAP > left + width:
            x, y = left, y + _LINE
        if entry.kind is None:
            ends = (round(x, 2), y), (round(x + _SAMPLE, 2), y)
            look = (entry.colour, entry.width, entry.opacity, entry.dashes)
            lines.append(EdgeMark("", straight(ends), *look))
        else:
            style, place = NODE_STYLES[entry.kind], (round(x + _SAMPLE / 2, 2), y, _SAMPLE - 2, 10)
            nodes.append(NodeMark("", *place, style.shape, style.fill, INK))
        at = round(x + _SAMPLE + _SPACE, 2)
        texts.append(Text(at, y, entry.words, SMALL_FONT, INK, "start"))
        x += entry.length
    return Legend(tuple(nodes), tuple(lines), tuple(texts)), y + _LINE if entries else y


def least_width(subject: Subject, left: float) -> float:
    """Return the width that the longest entry of the legend needs."""
    lengths = [entry.length for entries in _blocks(subject).values() for entry in entries]
    return 2 * left + _HEADING + max(lengths, default=0.0)


def _blocks(subject: Subject) -> dict[str, list[LegendSample]]:
    """List the legend's entries under their headings."""
    kinds = {node.kind for node, _ in subject.nodes}
    if kinds & {Kind.TOK, Kind.POS}:
        kinds = kinds - {Kind.TOK, Kind.POS} | {Kind.EMBED}
    shapes = [LegendSample(style.words, k) for k, style in NODE_STYLES.items() if k in kinds]
    colours = [LegendSample(words, colour=colour) for words, colour in subject.groups]
    if Kind.KV in kinds:
        colours.append(LegendSample("key/value head used by", None, FAINT, 0.8, dashes=DOTS))
    if kinds & {Kind.EXPERT, Kind.SHARED}:
        colours.append(LegendSample("MLP input read by experts", None, FAINT, 0.8, dashes=DOTS))
    if kinds & {Kind.NEURON, Kind.REST}:
        words = "MLP input read by neurons"
        colours.append(LegendSample(words, None, FAINT, 0.8, dashes=DOTS))
    widths, shades = [], []
    for size in (1.0, 0.25, 0.0625) if subject.largest else ():
        plain = subject.samples is None and not subject.resampled
        look = (edge_width(size), edge_opacity(size) if plain else 1.0)
        widths.append(LegendSample(f"{subject.largest * size:.2g}", None, FAINT, *look))
    if any(line.negative for line in subject.lines):
        widths.append(LegendSample("negative", None, FAINT, 1.6, dashes=DASHES))
    for words, (kept, changed) in (subject.samples or {}).items():
        shades.append(LegendSample(words, colour=stable_colour(INK, kept, changed=changed)))
    for share in (1.0, 0.5, 0.0) if subject.resampled else ():
        shades.append(
            LegendSample(f"in {share:.0%} of resamples", None, INK, opacity=stable_opacity(share))
        )
    into = "edges" if subject.letters else "edges into"
    return {
        "nodes": shapes,
        into: colours,
        "|score|": widths,
        "change" if len(shades) == 2 else "stability": shades,
    }


def heading(title: str, width: float) -> tuple[list[Text], float]:
    """Place a drawing's title; return it and where it ends. Bold letters are a little wider."""
    texts = []
    for i, words in enumerate(wrap(title, (width - 2 * MARGIN) / 1.1, TITLE_FONT)):
        y = MARGIN + (i + 0.4) * TITLE_LINE
        texts.append(Text(width / 2, y, words, TITLE_FONT, INK, bold=True))
    return texts, MARGIN + len(texts) * TITLE_LINE


def paragraph(text: str, x: float, y: float, width: float) -> tuple[list[Text], float]:
    """Place a caption from a line's middle on; return it and where the next line would be."""
    lines = enumerate(wrap(text, width))
    texts = [Text(x, y + i * TEXT_LINE, one, SMALL_FONT, FAINT, "start") for i, one in lines]
    return texts, y + len(texts) * TEXT_LINE


def wrap(text: str, width: float, size: float = SMALL_FONT) -> list[str]:
    """Break a text into at most 60 lines; a long name breaks within itself.

    >>> wrap("one two three", 40), wrap("one-two", 24)
    (['one two', 'three'], ['one-', 'two'])
    """
    lines: list[str] = []
    for word in visible(text).split():
        if lines and text_width(f"{lines[-1]} {word}", size) <= width:
            lines[-1] += f" {word}"
        else:
            lines += _broken(word, width, size)
    return lines if len(lines) <= _MOST_LINES else [*lines[: _MOST_LINES - 1], "…"]


def _broken(word: str, width: float, size: float) -> list[str]:
    """Break a word that is too long for a line, where it has a sign such as - or / if it can."""
    lines = [""]
    for part in re.findall(r"[^-_/.@]*[-_/.@]+|[^-_/.@]+", word):
        whole = text_width(part, size) <= width
        for piece in [part] if whole else part:
            if lines[-1] and text_width(lines[-1] + piece, size) > width:
                lines.append("")
            lines[-1] += piece
    return lines
