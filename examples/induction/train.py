"""Train two layers on repeated random tokens, keeping checkpoints. Run by hand: a minute each.

    python examples/induction/train.py attention-only checkpoints    (or: full checkpoints-full)
The log has the loss on tokens that induction can predict ("repeats") and on all others."""

import copy
import json
import sys
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel

VOCAB, LENGTH, HEADS, BATCH = 128, 48, 4, 64
KEPT, SPARSITY = (100, 150, 200, 300, 600, 1000), 0.05
kind, folder = sys.argv[1:] or ("attention-only", "checkpoints")
torch.manual_seed(0)
shape = {"vocab_size": VOCAB, "n_positions": LENGTH, "n_embd": 64, "n_layer": 2, "n_head": HEADS}
special = {"bos_token_id": 0, "eos_token_id": None, "n_inner": 256 if kind == "full" else 1}
no_dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
model = GPT2LMHeadModel(GPT2Config(tie_word_embeddings=False, **shape, **special, **no_dropout))
if kind == "attention-only":  # an MLP of zeros writes exactly nothing, and stays so if frozen
    for weight in (w for block in model.transformer.h for w in block.mlp.parameters()):
        torch.nn.init.zeros_(weight).requires_grad_(False)
heads = {}  # what each layer's heads hand to the output projection, [B, T, H * d]
projections = [block.attn.c_proj for block in model.transformer.h]
for one in projections:
    one.register_forward_pre_hook(lambda module, given: heads.update({module: given[0]}))


def sequences():  # BOS, distinct tokens over and over; and which follow a token seen before
    period = torch.randint(6, 23, (BATCH, 1))
    distinct = torch.rand(BATCH, VOCAB - 1).argsort(-1) + 1
    place = torch.arange(LENGTH - 1)
    tokens = torch.nn.functional.pad(distinct.gather(1, place % period), (1, 0))
    return tokens, place[1:] > period


def sizes(module):  # of what each head writes, [H]
    read, weight = heads[module].unflatten(-1, (HEADS, -1)), module.weight.unflatten(0, (HEADS, -1))
    return torch.einsum("bthd,hdm->bthm", read, weight).square().mean((0, 1, 3)).sqrt()


optimizer = torch.optim.AdamW((w for w in model.parameters() if w.requires_grad), weight_decay=0.01)
log = []
for step in range(max(KEPT) + 1):
    tokens, repeat = sequences()
    nll = -model(tokens).logits[:, 1:-1].log_softmax(-1).gather(-1, tokens[:, 2:, None])[..., 0]
    losses = {"repeats": nll[repeat].mean().item(), "elsewhere": nll[~repeat].mean().item()}
    log += [{"step": step, **losses}] if step % 10 == 0 else []
    if step in KEPT:
        print(log[-1], flush=True)
        copy.deepcopy(model).half().save_pretrained(f"{folder}/checkpoint-{step}")
    optimizer.param_groups[0]["lr"] = 2e-3 * min(1.0, (step + 1) / 100)
    optimizer.zero_grad()
    concave = (torch.cat([*map(sizes, projections)]) + 1e-4).sqrt()  # so that few heads do it all
    (nll.mean() + SPARSITY * concave.sum()).backward()
    optimizer.step()
Path(folder, "log.json").write_text(json.dumps(log))
