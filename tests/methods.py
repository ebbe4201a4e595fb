"""Options with which a method is quick enough to be run in every test of all methods."""

from __future__ import annotations

from edgewise.discovery.registry import get_method

FEW: dict[str, object] = {"updates": 3}
"""Trainings of some hundred updates are tested where they are trained."""


def quick(method: str) -> dict[str, object]:
    """Return those of the options that a method has."""
    return {key: value for key, value in FEW.items() if key in get_method(method).options}
