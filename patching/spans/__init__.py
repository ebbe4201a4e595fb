"""Circuits that tell spans of the prompts' positions apart: how they run, and scores of edges."""
