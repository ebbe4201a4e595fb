"""Where a fact is: for each kind of what is put back, a grid of layers × tokens.

Of one prompt the rows are its tokens, of several what tokens are to the subject.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ...graphs.files.tables.trace import EffectRow, TraceFile
from ..legend import MARGIN, heading, paragraph
from ..scene import Cell, Legend, Scene, Text
from ..style import FAINT, INK, SMALL_FONT, text_width
from .scales import SCALE_HEIGHT, SCORE, Scale, legend_bar

_ROW, _PANEL, _TICK, _WIDEST = 14.0, 34.0, 7.5, 420.0
READING = (
    "Noise on the subject's embeddings takes the answer away; in each cell one thing is put back "
    "as it is without noise, at one token: {kinds}. Colours: how much of the answer's probability "
    "comes back, of which noise took {total:.2f}; they follow its square root, so that weak "
    "effects are seen."
)


@dataclass(frozen=True)
class _Row:
    """One token of a panel: its name, whether it is the subject's, and a cell for each layer."""

    name: str
    subject: bool
    effects: Sequence[float]
    words: Sequence[str]


def draw_trace(file: TraceFile, *, title: str = "", caption: str = READING) -> Scene:
    """Turn what was traced into a drawing's values."""
    panels = {kind: list(_rows(file, kind)) for kind in file.kinds}
    every = [row for rows in panels.values() for row in rows]
    gutter = max(text_width(row.name, SMALL_FONT) for row in every)
    cell = max(5.0, min(18.0, _WIDEST / file.layers))
    left = MARGIN + gutter + 10
    width = max(left + file.layers * cell + MARGIN, 430.0)
    texts, y = heading(title, width)
    largest = max(abs(value) for row in every for value in row.effects)
    scale, cells = Scale(largest, *SCORE), list[Cell]()
    window = file.trace["window"]
    for kind, rows in panels.items():
        wide = f", windows of {window} layers" if window > 1 and kind != file.kinds[0] else ""
        texts.append(Text(left, y + 14, f"{kind}{wide}", SMALL_FONT, INK, "start", bold=True))
        top = y + _PANEL - 8
        for i, row in enumerate(rows):
            middle = top + (i + 0.5) * _ROW
            texts.append(Text(left - 6, middle, row.name, SMALL_FONT, INK, "end", bold=row.subject))
            for layer, (value, words) in enumerate(zip(row.effects, row.words, strict=True)):
                corner = (round(left + layer * cell, 2), round(top + i * _ROW, 2))
                size = (round(cell - 0.6, 2), _ROW - 0.6)
                key = f"{kind} {i},{layer}"
                cells.append(Cell(key, *corner, *size, scale.colour(value), words))
        y = top + len(rows) * _ROW
        step = next(n for n in (1, 2, 5, 10, 20, 50, 100, 1000) if n * cell >= 16)
        for layer in range(0, file.layers, step):
            x = round(left + (layer + 0.5) * cell, 2)
            texts.append(Text(x, y + 8, f"{layer}", _TICK, FAINT))
        texts.append(Text(left - 6, y + 8, "layer", _TICK, FAINT, "end"))
        y += 18
    bars, numbers = legend_bar(scale, "effect", MARGIN + 52, y + 14)
    total = next(row["p"] for row in file.totals if row["what"] == "total effect")
    words = caption.format(kinds=", ".join(panels), total=total)
    notes, bottom = paragraph(words, MARGIN, y + 14 + SCALE_HEIGHT, width - 2 * MARGIN)
    return Scene(
        width=round(width, 1), height=round(bottom - 6 + MARGIN, 1), title=title or words,
        texts=tuple(texts), legend=Legend(texts=(*numbers, *notes)), cells=(*cells, *bars),
    )  # fmt: skip


def _rows(file: TraceFile, kind: str) -> Iterator[_Row]:
    if len(file.prompts) == 1 and file.maps:
        prompt, first = file.prompts[0], file.prompts[0]["subject"][0]
        for one in file.maps:
            if one["kind"] == kind and one["position"] >= first:
                name = prompt["tokens"][one["position"]].strip() or "␣"
                words = [
                    f"{kind} at layer {layer}, {name}: {value:.3f}"
                    for layer, value in enumerate(one["effects"])
                ]
                yield _Row(name, one["position"] in prompt["subject"], one["effects"], words)
        return
    for token in file.tokens:
        found = file.rows(kind, token)
        words = [_tooltip(f"{kind} at layer {row['layer']}, {token}", row) for row in found]
        yield _Row(token, "subject" in token, [row["effect"] for row in found], words)


def _tooltip(where: str, row: EffectRow) -> str:
    words = f"{where}: {row['effect']:.3f}"
    if row["low"] is not None:
        words += f", 95% {row['low']:.3f} to {row['high']:.3f}"
    return words if row["share"] is None else f"{words}, share {row['share']:.2f}"
