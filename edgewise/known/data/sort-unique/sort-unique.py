"""The tokens, which are different numbers, in order."""

import random

from tracr.compiler.lib import make_sort_unique
from tracr.rasp import rasp

program = make_sort_unique(rasp.tokens, rasp.tokens)
vocabulary = (1, 2, 3, 4)
max_length = 4


def sample(draw: random.Random, length: int) -> list[int]:
    """Draw different numbers."""
    return draw.sample(vocabulary, length)
