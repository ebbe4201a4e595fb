"""Whether a, b, c were read here and just before."""

from tracr.compiler.lib import detect_pattern
from tracr.rasp import rasp

program = detect_pattern(rasp.tokens, "abc")
vocabulary = ("a", "b", "c")
max_length = 5
