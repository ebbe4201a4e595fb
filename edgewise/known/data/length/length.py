"""How many tokens the input has, at every position."""

from tracr.compiler.lib import make_length

program = make_length()
vocabulary = ("a", "b")
max_length = 5
