"""What single heads attend to and write."""
