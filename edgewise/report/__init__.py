"""What was found, in words and pictures: the report of a run."""
