"""From what a user types to a model in memory."""
