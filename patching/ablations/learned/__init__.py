"""Vectors of optimal ablation: how they are learned, and the file that they stand in."""
