"""Models that have a short name and come from the Python package registry."""
