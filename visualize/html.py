"""A scene as one page of HTML: its SVG, and a line that names what the mouse points at.

The page needs nothing from elsewhere, and forbids itself to load anything or to run any other
script. Without scripts the SVG's own tooltips do the same.
"""

from __future__ import annotations

import base64
import hashlib
from html import escape
from importlib.resources import files

from ..graphs.calls.text import visible
from .scene import Scene
from .style import FONTS
from .svg import to_svg

STYLE = f"""
body {{ margin: 0; font: 14px {FONTS}; color: #1a1a1a; background: #ffffff; }}
main {{ padding: 8px 8px 48px; text-align: center; }}
svg {{ max-width: 100%; height: auto; }}
#told {{ position: fixed; bottom: 0; left: 0; right: 0; min-height: 1.4em; padding: 8px 16px;
  background: #1a1a1a; color: #ffffff; font-size: 14px; }}
[data-edge] {{ pointer-events: stroke; cursor: default; }}
svg.pointed [data-edge]:not(.near, .wide) {{ stroke-opacity: 0.06; }}
[data-edge].near {{ stroke-opacity: 1; }}
[data-cell]:hover {{ stroke: #1a1a1a; stroke-width: 1; }}
"""


def to_html(scene: Scene) -> str:
    """Render a scene as a page; pointing at an edge, node or cell shows its name and score."""
    body = (
        f"<main>\n{to_svg(scene, inline=True)}</main>\n"
        '<div id="told" role="status">Point at a mark to read its name and score.</div>\n'
    )
    script = "\n" + files(__package__).joinpath("page.js").read_text(encoding="utf-8")
    return whole_page(body, title=scene.title, style=STYLE, script=script)


def whole_page(body: str, *, title: str, style: str, script: str = "") -> str:
    """Make a page that shows its body and pictures in it, and does nothing but its own script."""
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(visible(title))}</title>\n<style>{style}</style>\n</head>\n<body>\n"
        f"{body}{f'<script>{script}</script>{chr(10)}' if script else ''}</body>\n</html>\n"
    )


def _hash(content: str) -> str:
    """Name the one style or script that a page's policy allows."""
    if not content:
        return "'none'"
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
