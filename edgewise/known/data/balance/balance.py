"""Which share of the tokens up to here open a bracket, less the share that close one."""

from tracr.compiler.lib import make_pair_balance
from tracr.rasp import rasp

program = make_pair_balance(rasp.tokens, "(", ")")
vocabulary = ("(", ")", "x")
max_length = 5
