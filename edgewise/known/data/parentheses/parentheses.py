"""Whether brackets are balanced, at every position."""

from tracr.compiler.lib import make_shuffle_dyck

program = make_shuffle_dyck(["()"])
vocabulary = ("(", ")")
max_length = 4
