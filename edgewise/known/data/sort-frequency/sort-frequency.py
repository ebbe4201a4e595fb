"""The tokens by how often they stand in the input, the most frequent first."""

from tracr.compiler.lib import make_sort_freq

max_length = 3
program = make_sort_freq(max_length)
vocabulary = ("a", "b", "c")
