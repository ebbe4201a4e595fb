"""Steps about facts: where the model has them, and by which attention they are read."""
