"""How sure a measured number is, from values per example; no model is run here."""
