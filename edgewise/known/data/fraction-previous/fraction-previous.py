"""Which share of the tokens up to here are an x."""

from tracr.compiler.lib import make_frac_prevs
from tracr.rasp import rasp

program = make_frac_prevs((rasp.tokens == "x").named("is_x"))
vocabulary = ("a", "b", "x")
max_length = 5
