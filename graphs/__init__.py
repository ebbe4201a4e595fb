"""Names, computation graphs, circuits, scores, diffs, their files, and the lifting of models."""
