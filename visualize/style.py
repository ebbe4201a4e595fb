"""How drawings look: shapes, colours (Okabe and Ito's, safe for the colour-blind), sizes."""

from __future__ import annotations

from dataclasses import dataclass
from unicodedata import east_asian_width

from ..graphs.names import KIND_WORDS, Kind

INK = "#1a1a1a"
FAINT = "#8a8a8a"
STRIPE = "#f5f6f8"
PAPER = "#ffffff"

KIND_COLOURS = {
    "q": "#0072b2",
    "k": "#009e73",
    "v": "#e69f00",
    "mixer": "#a59a00",
    "post": "#56b4e9",
    "mlp": "#cc79a7",
    "logits": "#d55e00",
}
"""Colour of an edge by the kind of port it ends in."""

SHARED, ONLY_A, ONLY_B = "#8c8c8c", "#0072b2", "#d55e00"

FONTS = "Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif"
NODE_FONT, NODE_HEIGHT, NODE_PAD = 10.5, 16.0, 5.5
SMALL_FONT, TITLE_FONT = 8.5, 13.0
LABEL_FONT, LABEL_ROOM = 6.5, 7.5

THIN, THICK, PLAIN = 0.6, 3.4, 1.0
"""Width of the weakest, the strongest, and an unscored edge."""

DASHES, DOTS = (4.0, 2.2), (1.2, 1.6)


@dataclass(frozen=True)
class NodeStyle:
    """What a kind of node looks like and what the legend calls it."""

    shape: str
    fill: str
    words: str


NODE_STYLES = {
    kind: NodeStyle(shape, fill, KIND_WORDS[words or kind.value])
    for kind, shape, fill, words in (
        (Kind.EMBED, "foot", "#e3e6ea", ""),
        (Kind.TOK, "foot", "#e3e6ea", "embed"),
        (Kind.POS, "foot", "#e3e6ea", "embed"),
        (Kind.KV, "cut", "#ffffff", ""),
        (Kind.HEAD, "pill", "#ffffff", ""),
        (Kind.MIXER, "box", "#f8f6d8", ""),
        (Kind.POST, "hexagon", "#eaf5fc", ""),
        (Kind.MLP, "box", "#f6e6ef", ""),
        (Kind.EXPERT, "pill", "#f6e6ef", ""),
        (Kind.SHARED, "pill", "#ead0e0", ""),
        (Kind.NEURON, "pill", "#f6e6ef", ""),
        (Kind.REST, "pill", "#ead0e0", ""),
        (Kind.LOGITS, "crown", "#e3e6ea", ""),
    )
}

_WIDTHS = {".": 0.32, " ": 0.32, "i": 0.28, "l": 0.28, ",": 0.32, ":": 0.34, "t": 0.4, "f": 0.36}
_WIDTHS |= {"m": 0.97, "w": 0.82, "M": 0.86, "W": 0.99}


def text_width(text: str, size: float) -> float:
    """Estimate a text's width, slightly generous for the usual sans-serif fonts.

    >>> text_width("m12", 10) > text_width("m1", 10), text_width("漢字", 10)
    (True, 20.0)
    """
    return size * sum(
        _WIDTHS.get(c) or (1.0 if east_asian_width(c) in "WF" else 0.635) for c in text
    )


def edge_width(strength: float | None) -> float:
    """Turn |score| as a fraction of the largest (None: unscored) into a line width."""
    # a square root keeps the weak edges of a heavy-tailed circuit visible
    return PLAIN if strength is None else THIN + (THICK - THIN) * strength**0.5


def stable_colour(colour: str, survival: float, *, changed: bool) -> str:
    """Fade a colour by the share of repeated discoveries that keep an edge; solid: it changed.

    It is mixed with the paper: with opacity, faint edges of a trunk would add up to a solid one.

    >>> stable_colour("#000000", 0.0, changed=True), stable_colour("#000000", 1.0, changed=False)
    ('#000000', '#808080')
    """
    return colour if changed else mix(PAPER, colour, 0.08 + 0.42 * survival)


def stable_opacity(share: float) -> float:
    """Turn the share of resampled prompts that keep an edge into its opacity.

    >>> stable_opacity(0.0), stable_opacity(1.0)
    (0.12, 0.95)
    """
    return 0.12 + 0.83 * min(max(share, 0.0), 1.0)


def mix(a: str, b: str, weight: float) -> str:
    """Return the mean of two colours, the second weighing 0 to 1.

    >>> mix("#000000", "#ff8000", 0.5)
    '#804000'
    """
    both = zip(bytes.fromhex(a[1:]), bytes.fromhex(b[1:]), strict=True)
    return "#" + bytes(round(p + (q - p) * weight) for p, q in both).hex()


def edge_opacity(strength: float | None) -> float:
    """Turn |score| as a fraction of the largest into an opacity."""
    return 0.8 if strength is None else 0.5 + 0.45 * strength**0.5
