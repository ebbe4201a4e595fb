"""One file per model family: where its weights are, and which variants hold."""
