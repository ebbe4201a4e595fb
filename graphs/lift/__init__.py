"""From a transformers model to a description of its blocks, proven to compute the same."""
