"""Whether brackets of two kinds are balanced, each by itself."""

from tracr.compiler.lib import make_shuffle_dyck2

program = make_shuffle_dyck2()
vocabulary = ("(", ")", "{", "}")
max_length = 3
