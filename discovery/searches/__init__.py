"""What searches have in common beside their decisions: other orders, and where to stop."""
