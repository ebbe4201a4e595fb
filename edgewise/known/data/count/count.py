"""How many of the tokens are an a, at every position."""

from tracr.compiler.lib import make_count
from tracr.rasp import rasp

program = make_count(rasp.tokens, "a")
vocabulary = ("a", "b", "c")
max_length = 5
