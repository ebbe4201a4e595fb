"""Claims about circuits, put to the test: hypotheses, the worst case, a control, other tasks."""
