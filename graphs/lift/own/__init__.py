"""What a live model's own code does, seen by watching it run."""
