"""Prompts and tasks, ablations, metrics, runners and path patching."""
