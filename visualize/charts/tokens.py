"""Prompts as coloured tokens: what each one does, by integrated gradients and exactly."""

from __future__ import annotations

from collections.abc import Sequence

from ...graphs.files.tables.tokens import TokenRow, TokensFile
from ..legend import MARGIN, heading, paragraph
from ..scene import Cell, Legend, Scene, Text
from ..style import FAINT, INK, SMALL_FONT, text_width
from .scales import DIFFERENCE, SCALE_HEIGHT, Scale, legend_bar

SHOWN = 8
"""How many prompts are drawn."""

READING = (
    "What each token does for the answer: how far the loss rises with its embedding ablated; "
    "positive (orange) helps. The token's own colour is its integrated gradient, the strip below "
    "it the exact effect of ablating it alone. White: nothing."
)
_WIDTH, _LINE, _HIGH, _STRIP, _PADDING, _BETWEEN = 560.0, 34.0, 17.0, 5.0, 3.0, 16.0


def draw_tokens(file: TokensFile, *, title: str = "", caption: str = READING) -> Scene:
    """Turn the effects of tokens into a drawing's values; the first `SHOWN` prompts."""
    numbers = range(min(SHOWN, len(file.prompts)))
    rows = [file.of_prompt(number) for number in numbers]
    largest = max(
        (abs(one[key]) for many in rows for one in many for key in ("integrated", "exact")),
        default=0.0,
    )
    scale = Scale(largest, *DIFFERENCE, root=False)
    texts, y = heading(title, _WIDTH + 2 * MARGIN)
    cells, y = list[Cell](), y + 8
    for number, tokens in zip(numbers, rows, strict=True):
        answer, other = (
            " or ".join(map(_shown, file.prompts[number][key]))
            for key in ("answers", "distractors")
        )
        words = f"{number + 1}: {answer}" + f", not {other}" * bool(other)
        texts.append(Text(MARGIN, y, words, SMALL_FONT, FAINT, "start"))
        drawn, written, y = _prompt(tokens, scale, y + 10)
        cells, texts = cells + drawn, texts + written
        y += _BETWEEN
    left_out = len(file.prompts) - len(rows)
    more = f" The first {len(rows)} of {len(file.prompts)} prompts." * (left_out > 0)
    words = f"rise of the loss of {file.measured['metric']}"
    bars, below = legend_bar(scale, words, MARGIN + text_width(words, SMALL_FONT) + 14, y)
    notes, bottom = paragraph(caption + more, MARGIN, y + SCALE_HEIGHT, _WIDTH)
    return Scene(
        width=_WIDTH + 2 * MARGIN, height=round(bottom - 6 + MARGIN, 1), title=title or caption,
        texts=tuple(texts), legend=Legend(texts=(*below, *notes)), cells=(*cells, *bars),
    )  # fmt: skip


def _prompt(
    tokens: Sequence[TokenRow], scale: Scale, top: float
) -> tuple[list[Cell], list[Text], float]:
    """Place one prompt's tokens, line by line; return the y behind the last one."""
    cells, texts, x, y = list[Cell](), list[Text](), MARGIN, top
    for row in tokens:
        words = _shown(row["text"])
        width = text_width(words, SMALL_FONT) + 2 * _PADDING
        if x > MARGIN and x + width > MARGIN + _WIDTH:
            x, y = MARGIN, y + _LINE
        key = f"{row['prompt'] + 1}.{row['position']}"
        named = f" ({row['span']})" if row["span"] else ""
        said = f"{words}{named}: integrated {row['integrated']:+.3f}, exact {row['exact']:+.3f}"
        cells.append(Cell(key, x, y, width, _HIGH, scale.colour(row["integrated"]), said))
        below = y + _HIGH
        cells.append(
            Cell(f"{key} exact", x, below, width, _STRIP, scale.colour(row["exact"]), said)
        )
        colour = "#ffffff" if abs(row["integrated"]) > 0.75 * scale.largest else INK
        texts.append(Text(x + width / 2, y + _HIGH / 2, words, SMALL_FONT, colour))
        x += width + 1.5
    return cells, texts, y + _LINE


def _shown(text: str) -> str:
    """Return a token's text with what cannot be seen made visible."""
    return text.strip(" ").replace("\n", "⏎").replace("\t", "⇥") or "␣"
