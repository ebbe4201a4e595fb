"""The tokens in reverse order."""

from tracr.compiler.lib import make_reverse
from tracr.rasp import rasp

program = make_reverse(rasp.tokens)
vocabulary = ("a", "b", "c", "d")
max_length = 5
