"""What is done with opened models: discover, evaluate, repeat, compare, follow, transplant."""
