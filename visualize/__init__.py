"""Drawings of circuits and diffs, as data, DOT and images; no model is needed here."""
