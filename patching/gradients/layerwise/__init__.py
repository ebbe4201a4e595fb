"""Scores that look at one layer, or one node, at a time."""
