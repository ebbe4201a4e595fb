"""Train a small model to compute by a known circuit. Run by hand: a minute of one core each.

    python examples/trained/train.py fraction fraction    (or: recall recall)
Writes a model's directory with prompt pairs and its true edges, and prints how well it agrees."""

import sys
from dataclasses import replace

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from edgewise.known.interchange.agreement import agreement
from edgewise.known.interchange.directory import write_trained
from edgewise.known.interchange.models import CAUSAL_MODELS
from edgewise.known.interchange.training import Recipe, train_to

EVERY = 100
RECIPES = {"fraction": Recipe(updates=400, from_sources=True), "recall": Recipe(updates=400)}
name, folder, *rest = sys.argv[1:] or ("recall", "recall")
causal, recipe = CAUSAL_MODELS[name](), RECIPES[name]
recipe = replace(recipe, updates=int(rest[0])) if rest else recipe

torch.set_num_threads(1)
torch.manual_seed(0)
shape = {"vocab_size": causal.vocabulary, "n_positions": 16, "n_embd": 32, "n_layer": 2}
inner = {"n_head": 4, "n_inner": 64, "initializer_range": 0.2, "tie_word_embeddings": False}
no_dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
special = {"bos_token_id": None, "eos_token_id": None}
model = GPT2LMHeadModel(GPT2Config(**shape, **inner, **no_dropout, **special)).eval()


def told(done: int, total: int, words: str) -> None:
    if done % EVERY == 0 or done == total:
        print(f"{done:>4} of {total}: {words}", flush=True)


circuit = train_to(model, causal, recipe, told)
write_trained(folder, model, causal)
print(agreement(model, causal))
print("taught:", *circuit.edges)
