"""Drawings of circuits and diffs, as data, DOT and images; no model is needed here."""

from __future__ import annotations

from .compose import make_scene
from .draw import accepted_suffixes, draw
from .raster import render
from .scene import Scene
from .svg import to_svg

__all__ = ["Scene", "accepted_suffixes", "draw", "make_scene", "render", "to_svg"]
