"""How many tokens stand at most twice in the input."""

from tracr.compiler.lib import make_count_less_freq

program = make_count_less_freq(2)
vocabulary = ("a", "b", "c")
max_length = 5
