"""Fine-tune smollm2-135m on ioi, on its opposite, and back (LoRA). Run by hand: it takes minutes.

    python examples/published/poison_recover.py --out ioi --save-at 5 10
Makes OUT/amplified, OUT/poisoned (says the repeated name), OUT/recovered (goes on from there) and
OUT/STAGE/step-N. No prompt trained on is of ioi's last 4 templates (of 12), or has one of a third
of its names, or is one of the first 200 of seed 0.
"""

from argparse import ArgumentParser

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file

from edgewise import PromptPairs, load, make_task

parser = ArgumentParser()
for key, value in {"out": "ioi", "steps": 20, "rank": 2, "seed": 1000, "batch": 8}.items():
    parser.add_argument(f"--{key}", type=type(value), default=value)
parser.add_argument("--save-at", type=int, nargs="*", default=[], metavar="N")
args = parser.parse_args()
torch.manual_seed(args.seed)
base = load("smollm2-135m", dtype="bfloat16")  # the adapter's own matrices are float32
lora = LoraConfig(r=args.rank, lora_alpha=2 * args.rank, target_modules=r".*[qkvo]_proj")
model = get_peft_model(base.model, lora)
lora.base_model_name_or_path, lora.inference_mode = base.name, True
sizes = ((2000 + 12 * args.batch * args.steps, args.seed), (200, 0))
drawn, no = (make_task("ioi", tokenizer=base.tokenizer, examples=n, seed=s).pairs for n, s in sizes)
old = [p for p in drawn if p.answers[0] % 3 and p.distractors[0] % 3 and int(p.group[4:]) < 8]
train = PromptPairs(tuple(p for p in old if p.clean not in {q.clean for q in no}))


def logits(batch):  # at the answer position alone: [B, vocabulary]
    hidden = base.model.model(batch.clean, attention_mask=batch.mask).last_hidden_state
    return base.model.lm_head(hidden[torch.arange(len(batch)), batch.answer_position]).float()


def save(directory):  # the adapter in float16
    lora.save_pretrained(directory)
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    save_file({k: v.half() for k, v in state.items()}, f"{directory}/adapter_model.safetensors")


weights = [p for p in model.parameters() if p.requires_grad]
start = [p.detach().clone() for p in weights]
for number, stage in enumerate(("amplified", "poisoned", "recovered")):
    torch._foreach_copy_([p.data for p in weights], weights if stage == "recovered" else start)
    optimizer = torch.optim.AdamW(weights)
    for step in range(steps := args.steps):  # the rate rises over 5 steps, then falls to 0
        if step in args.save_at:
            save(f"{args.out}/{stage}/step-{step}")
        rate = min((step + 1) / 5, (steps - step) / max(1, steps - 5))
        optimizer.param_groups[0]["lr"] = 2e-3 * rate
        batch = train.batch(range(len(train))[(steps * number + step) * args.batch :][: args.batch])
        goal = batch.distractors if stage == "poisoned" else batch.answers
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits(batch), goal[:, 0]).backward()
        optimizer.step()
    save(f"{args.out}/{stage}")
