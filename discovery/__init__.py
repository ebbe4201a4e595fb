"""Discovery algorithms, one file each, and the evaluation of circuits."""
