"""The tree of errors under its public name; it stands in `graphs/errors.py`, below everything."""

from .graphs.errors import *  # noqa: F403 - a second door to the same names
