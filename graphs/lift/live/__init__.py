"""What is looked at in a live model before and while it is read, and how it is left."""
