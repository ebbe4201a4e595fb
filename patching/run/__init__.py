"""Runs of a lifted model under masks, and the proof that they are the model's."""
