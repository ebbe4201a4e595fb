"""What was found: which edges are kept of scores, how stable they are, what a file says of it."""
