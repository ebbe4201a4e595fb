"""Find, measure, save and draw a circuit from Python, on a random model that needs no download.

Put "smollm2-135m" in the place of `model` and "ioi" in that of "induction" for a real one.
"""

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from edgewise import write_circuit, write_scores
from edgewise.visualize import draw
from edgewise.workflow import Selection, discover, evaluate, open_model, open_task

torch.manual_seed(0)
shape = {"vocab_size": 50, "n_positions": 32, "n_embd": 32, "n_layer": 3, "n_head": 4}
shape |= {"initializer_range": 0.4, "bos_token_id": 0, "eos_token_id": 0}
model = GPT2LMHeadModel(GPT2Config(**shape)).eval()

session = open_model(model)  # loads, lifts, and proves that the lift computes what the model does
pairs, _ = open_task(session, "induction", examples=16, seed=0)
found = discover(session, pairs, method="eap-ig", options={"steps": 5}, select=Selection(top=60))
circuit, scores = found.file.circuit, found.scores.scores
measured = evaluate(session, circuit, pairs, metric="kl").evaluation

print(f"{session.graph.describe()}: {session.graph.edge_count} edges")
print(f"{len(circuit)} of them keep {found.evaluation.faithfulness:.2f} of the logit difference")
kl, empty = measured.value_circuit, measured.value_empty
print(f"KL divergence from the whole model: {kl:.3f}; with every edge ablated: {empty:.3f}")
strongest = max(circuit.edges, key=lambda edge: abs(scores[edge]))
print(f"strongest edge: {strongest}, score {scores[strongest]:.3f}")

write_circuit("induction.json", found.file)
write_scores("induction.json", scores, method="eap-ig", metric="logit_diff", ablation="resample")
print("drawn:", draw(circuit, "induction.svg", scores=scores, title="A random model's circuit"))
