"""Where a fact is: runs in which little is changed, of one prompt, at every layer and token."""
