"""Drawings that show no graph: heat maps, overlaps, timelines."""
