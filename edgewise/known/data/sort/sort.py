"""The tokens, which are numbers, in order; equal ones may stand there."""

from tracr.compiler.lib import make_sort
from tracr.rasp import rasp

vocabulary = (1, 2, 3)
max_length = 4
program = make_sort(rasp.tokens, rasp.tokens, max_seq_len=max_length, min_key=1)
