"""Make prompt pairs of two repeating sequences, as token ids, into induction-held-out.jsonl.

A prompt is BOS, a block of distinct random tokens, and the block again up to a key token; the
answer is what followed the key the first time. The corrupted prompt is another such sequence as
long, with a block of another length and no token of the first: which token stands where differs,
and how far back the key stood. The distractor is what the corrupted prompt's key was followed by.
"""

import json
import random
from pathlib import Path

PAIRS, VOCABULARY = 128, 128
SAME = False  # True: the other block is as long, and the same place is the right one

draw = random.Random(2)
lines = []
for _ in range(PAIRS):
    length = draw.randint(12, 34)
    periods = [n for n in range(8, 23) if 2 <= length - n < n]  # the key is not the block's last
    first, second = draw.sample(periods, 2)
    second = first if SAME else second
    tokens = draw.sample(range(1, VOCABULARY), first + second)
    one, other = tokens[:first], tokens[first:]
    lines.append(
        {
            "clean_ids": [0, *one, *one[: length - first]],
            "corrupted_ids": [0, *other, *other[: length - second]],
            "answer_ids": [one[length - first]],
            "distractor_ids": [other[length - second]],
        }
    )
Path("induction-held-out.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
print(f"{PAIRS} pairs, such as {lines[0]}")
