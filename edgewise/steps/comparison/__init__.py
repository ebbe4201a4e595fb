"""Two models held against each other, on the same prompts."""
