"""The words around a drawing: title, caption, and what shapes, colours, widths and dashes mean."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..graphs.names import Kind
from ..graphs.text import visible
from .scene import EdgeMark, Legend, NodeMark, Text
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
    text_width,
)
from .subject import Subject

_LINE, _SAMPLE, _SPACE, _GAP, _HEADING = 15.0, 22.0, 5.0, 12.0, 56.0


@dataclass(frozen=True)
class _Entry:
    """A sample (a node's shape, or a line's colour, width and dashes) and its words."""

    words: str
    kind: Kind | None = None
    colour: str = INK
    width: float = 2.0
    opacity: float = 1.0
    dashes: tuple[float, ...] = ()

    @property
    def length(self) -> float:
        return _SAMPLE + _SPACE + text_width(self.words, SMALL_FONT) + _GAP


def build_legend(
    subject: Subject, caption: str, left: float, top: float, width: float
) -> tuple[Legend, float]:
    """Place the legend and the caption below `top`; return them and where they end."""
    nodes: list[NodeMark] = []
    lines: list[EdgeMark] = []
    texts: list[Text] = []
    y = top
    for heading, entries in _blocks(subject).items():
        for i, row in enumerate(_fill(entries, width - 2 * left - _HEADING)):
            x = left + _HEADING
            if not i:
                texts.append(Text(left + 5, y, heading, SMALL_FONT, FAINT, "start"))
            for entry in row:
                _sample(entry, x, y, nodes, lines)
                at = x + _SAMPLE + _SPACE
                texts.append(Text(round(at, 2), y, entry.words, SMALL_FONT, INK, "start"))
                x += entry.length
            y += _LINE
    words, y = paragraph(caption, left + 5, y, width - 2 * left - 10)
    return Legend(tuple(nodes), tuple(lines), (*texts, *words)), y - _LINE / 2


def least_width(subject: Subject, left: float) -> float:
    """Return the width that the longest entry of the legend needs."""
    lengths = [entry.length for entries in _blocks(subject).values() for entry in entries]
    return 2 * left + _HEADING + max(lengths, default=0.0)


def _blocks(subject: Subject) -> dict[str, list[_Entry]]:
    """List the legend's entries under their headings."""
    return {
        "nodes": _shapes(subject),
        "edges" if subject.letters else "edges into": _colours(subject),
        "|score|": _widths(subject),
        "stability": _stabilities(subject),
    }


MARGIN, TITLE_LINE, TEXT_LINE = 12.0, 17.0, 13.0
"""Points around a drawing, and from one line of its title, or of its caption, to the next."""


MOST_LINES = 60
"""Of a title, a name or a caption."""


def heading(title: str, width: float) -> tuple[list[Text], float]:
    """Place a drawing's title; return it and where it ends. Bold letters are a little wider."""
    lines = enumerate(wrap(title, (width - 2 * MARGIN) / 1.1, TITLE_FONT))
    texts = [
        Text(width / 2, MARGIN + (i + 0.4) * TITLE_LINE, words, TITLE_FONT, INK, bold=True)
        for i, words in lines
    ]
    return texts, MARGIN + len(texts) * TITLE_LINE


def paragraph(text: str, x: float, y: float, width: float) -> tuple[list[Text], float]:
    """Place a caption from a line's middle on; return it and where the next line would be."""
    lines = enumerate(wrap(text, width))
    texts = [Text(x, y + i * TEXT_LINE, one, SMALL_FONT, FAINT, "start") for i, one in lines]
    return texts, y + len(texts) * TEXT_LINE


def wrap(text: str, width: float, size: float = SMALL_FONT) -> list[str]:
    """Break a text into lines of at most the given width; a long name breaks within itself.

    Of a text that would fill pages the beginning is left.

    >>> wrap("one two three", 40), wrap("one-two", 24)
    (['one two', 'three'], ['one-', 'two'])
    """
    lines: list[str] = []
    for word in visible(text).split():
        if lines and text_width(f"{lines[-1]} {word}", size) <= width:
            lines[-1] += f" {word}"
        else:
            lines += _broken(word, width, size)
    return lines if len(lines) <= MOST_LINES else [*lines[: MOST_LINES - 1], "…"]


def _broken(word: str, width: float, size: float) -> list[str]:
    """Break a word that is too long for a line, where it has a sign such as - or / if it can."""
    parts = re.findall(r"[^-_/.@]*[-_/.@]+|[^-_/.@]+", word)
    lines = [""]
    for part in parts:
        whole = text_width(part, size) <= width
        for piece in [part] if whole else part:
            if lines[-1] and text_width(lines[-1] + piece, size) > width:
                lines.append("")
            lines[-1] += piece
    return lines


def _shapes(subject: Subject) -> list[_Entry]:
    """List the shapes that occur."""
    kinds = {node.kind for node, _ in subject.nodes}
    kinds = {Kind.EMBED if k in (Kind.TOK, Kind.POS) else k for k in kinds}
    return [_Entry(style.words, kind) for kind, style in NODE_STYLES.items() if kind in kinds]


def _colours(subject: Subject) -> list[_Entry]:
    """List the colours, with counts."""
    entries = [_Entry(f"{g.words} ({g.count:,})", colour=g.colour) for g in subject.groups]
    if any(node.kind is Kind.KV for node, _ in subject.nodes):
        entries.append(_Entry("key/value head used by", colour=FAINT, width=0.8, dashes=DOTS))
    if any(node.kind in (Kind.EXPERT, Kind.SHARED) for node, _ in subject.nodes):
        entries.append(_Entry("MLP input read by experts", colour=FAINT, width=0.8, dashes=DOTS))
    return entries


def _widths(subject: Subject) -> list[_Entry]:
    """List sample widths, and the dashes if a score is negative."""
    entries = []
    for share in (1.0, 0.25, 0.0625) if subject.largest else ():
        opacity = edge_opacity(share) if subject.level is None else 1.0
        words = f"{subject.largest * share:.2g}"
        entries.append(_Entry(words, None, FAINT, edge_width(share), opacity))
    if any(line.negative for line in subject.lines):
        entries.append(_Entry("negative", colour=FAINT, width=1.6, dashes=DASHES))
    return entries


def _stabilities(subject: Subject) -> list[_Entry]:
    """List sample shades: how often repeated discoveries keep an edge, and what changed."""
    if subject.level is None:
        return []
    entries = {f"kept in {share:.0%}": (share, False) for share in (0.0, 0.5, 1.0)}
    entries[f"solid: changed, q < {subject.level:g}"] = (1.0, True)
    return [
        _Entry(words, colour=stable_colour(INK, share, changed=changed))
        for words, (share, changed) in entries.items()
    ]


def _fill(entries: list[_Entry], width: float) -> list[list[_Entry]]:
    """Break entries into rows of at most the given width."""
    rows: list[list[_Entry]] = []
    used = 0.0
    for entry in entries:
        if not rows or used + entry.length - _GAP > width:
            rows.append([])
            used = 0.0
        rows[-1].append(entry)
        used += entry.length
    return rows


def _sample(
    entry: _Entry, x: float, y: float, nodes: list[NodeMark], lines: list[EdgeMark]
) -> None:
    """Draw an entry's sample."""
    if entry.kind is not None:
        style = NODE_STYLES[entry.kind]
        middle = round(x + _SAMPLE / 2, 2)
        nodes.append(
            NodeMark("", middle, y, _SAMPLE - 2, 10, style.shape, style.fill, INK, INK, 8, "")
        )
        return
    path = (("M", (round(x, 2), y)), ("L", (round(x + _SAMPLE, 2), y)))
    lines.append(EdgeMark("", path, entry.colour, entry.width, entry.opacity, entry.dashes))
