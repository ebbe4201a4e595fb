"""What prompts are made of: what each of their tokens does."""
