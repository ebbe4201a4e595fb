"""Compare the circuits of two models of one shape for one task, and draw the difference.

The models are random, and one has noise added to its last layer; give `open_model` the names
"smollm2-135m" and an adapter's directory for real ones.
"""

import copy

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from edgewise.visualize import draw
from edgewise.workflow import Selection, compare, discover, evaluate, open_model, open_task

torch.manual_seed(0)
shape = {"vocab_size": 50, "n_positions": 32, "n_embd": 32, "n_layer": 3, "n_head": 4}
shape |= {"initializer_range": 0.4, "bos_token_id": 0, "eos_token_id": 0}
base = GPT2LMHeadModel(GPT2Config(**shape)).eval()
tuned = copy.deepcopy(base)
for weight in tuned.transformer.h[-1].parameters():
    weight.data += 0.1 * torch.randn_like(weight)

sessions = [open_model(base), open_model(tuned)]
pairs, _ = open_task(sessions[0], "induction", examples=16, seed=0)  # the same for both
found = [discover(s, pairs, method="eap-ig", select=Selection(top=60)) for s in sessions]

file = compare(found[0].file, found[1].file, names=("base", "tuned"))
edges = file.diff.summary().edges
print(f"{edges.shared} edges in both, {edges.only_a} only in base, {edges.only_b} only in tuned")
print(f"Jaccard {edges.jaccard:.2f}; two random circuits of these sizes: {edges.expected:.2f}")

print("faithfulness of each circuit in each model:")
for where, session in zip(("base", "tuned"), sessions, strict=True):
    row = [evaluate(session, f.file, pairs).evaluation.faithfulness for f in found]
    print(f"  run in {where}: base's circuit {row[0]:.2f}, tuned's circuit {row[1]:.2f}")

scores = (found[0].scores.scores, found[1].scores.scores)
print("drawn:", draw(file.diff, "difference.svg", scores=scores, names=("base", "tuned")))
