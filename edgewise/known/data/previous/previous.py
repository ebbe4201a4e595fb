"""The token before the one here."""

from tracr.compiler.lib import shift_by
from tracr.rasp import rasp

program = shift_by(1, rasp.tokens)
vocabulary = ("a", "b", "c", "d")
max_length = 5
