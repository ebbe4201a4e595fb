"""What the owner of a port writes, for many changed inputs of the port at once."""
