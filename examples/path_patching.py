"""Path patching: how much do single routes through a model change its answer?

Put "smollm2-135m" in the place of `model` and "ioi" in that of "induction" for a real one.
"""

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from edgewise.workflow import open_model, open_task, patch

torch.manual_seed(0)
shape = {"vocab_size": 50, "n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 4}
shape |= {"initializer_range": 0.4, "bos_token_id": 0, "eos_token_id": 0}
model = GPT2LMHeadModel(GPT2Config(**shape)).eval()

session = open_model(model)
pairs, _ = open_task(session, "induction", examples=16, seed=0)

# Which heads write the answer into the stream themselves? `*` stands for all heads of a layer.
# A positive effect: the corrupted prompt's value along this path alone raises the loss.
direct = patch(session, pairs, ["a0.*->logits", "a1.*->logits"])
for path in sorted(direct, key=lambda path: -abs(path.effect)):
    print(f"{path.name:<16} {path.effect:+.4f}")

# What does the strongest head of layer 1 look at, through which of its three inputs?
head = max((p for p in direct if p.name.startswith("a1")), key=lambda p: abs(p.effect)).name
head = head.partition("->")[0]
into = patch(session, pairs, [f"a0.*->{head}<{letter}>->logits" for letter in "qkv"])
print(f"\nfrom layer 0 through {head}:")
for path in sorted(into, key=lambda path: -abs(path.effect))[:5]:
    print(f"{path.name:<32} {path.effect:+.4f}")

# The mirror image: the clean value along one path alone, in a run of the corrupted prompt.
(restored,) = patch(session, pairs, [into[0].name], denoise=True)
print(f"\n{restored.name}, clean value in the corrupted run: {restored.effect:+.4f}")
