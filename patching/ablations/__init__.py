"""Ablations, one in each file; `registry.py` says what one is."""
