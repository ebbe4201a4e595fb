"""What a circuit is made of when not of single edges: whole nodes."""
