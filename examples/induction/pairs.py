"""Make prompt pairs that only induction solves, as token ids, into induction-pairs.jsonl.

A prompt is BOS, distinct random tokens, and the same tokens again up to a key token; the answer is
what followed the key the first time. The corrupted prompt has the key and another token swapped in
the first copy, so that the key is followed by the other token's successor: the distractor. What
stands at which distance is the same in both prompts; only which token followed which is not.
"""

import json
import random
from pathlib import Path

PAIRS, VOCABULARY = 48, 128

draw = random.Random(1)
lines = []
for _ in range(PAIRS):
    period = draw.randint(8, 22)
    tokens = draw.sample(range(1, VOCABULARY), period)
    key, other = draw.sample(range(1, period - 1), 2)
    while abs(key - other) < 2:
        key, other = draw.sample(range(1, period - 1), 2)
    swapped = list(tokens)
    swapped[key], swapped[other] = tokens[other], tokens[key]
    lines.append(
        {
            "clean_ids": [0, *tokens, *tokens[: key + 1]],
            "corrupted_ids": [0, *swapped, *tokens[: key + 1]],
            "answer_ids": [tokens[key + 1]],
            "distractor_ids": [tokens[other + 1]],
        }
    )
Path("induction-pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
print(f"{PAIRS} pairs, such as {lines[0]}")
