"""One model's values in another model's run."""
