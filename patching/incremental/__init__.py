"""Runs after a small change, from what is known before it: exact searches."""
