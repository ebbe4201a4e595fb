"""What a person asks for, as one value: checked once, written in TOML, kept in files."""
