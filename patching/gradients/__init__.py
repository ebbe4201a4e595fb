"""Gradients of a loss in what each port reads, and the scores of edges they give."""
