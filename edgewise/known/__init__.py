"""Models whose circuit is known: what methods are scored on."""
