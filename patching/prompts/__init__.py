"""Prompt pairs: in memory, in files, as tokens."""
