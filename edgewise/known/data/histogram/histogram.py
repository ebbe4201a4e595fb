"""How often the token here stands in the input."""

from tracr.compiler.lib import make_hist

program = make_hist()
vocabulary = ("a", "b", "c", "d")
max_length = 5
