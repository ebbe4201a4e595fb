"""What is kept: results by what they depend on, journals, the directory of a run."""
