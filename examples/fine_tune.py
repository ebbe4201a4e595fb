"""Fine-tune smollm2-135m with a LoRA adapter on a built-in task. Run by hand: it takes minutes.

    python examples/fine_tune.py --out adapters/entity-tracking --save-at 0 10 20 30 50
OUT, and OUT/step-N for every N of --save-at, can be given wherever a MODEL is expected.
"""

from argparse import ArgumentParser

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file

from edgewise.graphs.load.loading import load
from edgewise.patching.tasks import make_task

parser = ArgumentParser()
defaults = {"out": "adapter", "task": "entity-tracking", "steps": 100, "rank": 8, "seed": 1000}
for key, value in defaults.items():
    parser.add_argument(f"--{key}", type=type(value), default=value)
parser.add_argument("--save-at", type=int, nargs="*", default=[0], metavar="N")
args = parser.parse_args()
torch.manual_seed(args.seed)
base = load("smollm2-135m", dtype="bfloat16")  # 4 times faster than float32 on processors
lora = LoraConfig(r=args.rank, lora_alpha=2 * args.rank, target_modules=r".*[qkvo]_proj")
model = get_peft_model(base.model, lora)  # the adapter's own matrices are float32
lora.base_model_name_or_path, lora.inference_mode = base.name, True


def logits(batch):  # at the answer position alone: [B, vocabulary]
    hidden = base.model.model(batch.clean, attention_mask=batch.mask).last_hidden_state
    return base.model.lm_head(hidden[torch.arange(len(batch)), batch.answer_position]).float()


def save(directory, step):  # the adapter in float16, and how often the likeliest token is right
    lora.save_pretrained(directory)
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    save_file({k: v.half() for k, v in state.items()}, f"{directory}/adapter_model.safetensors")
    with torch.no_grad():
        right = [logits(batch).argmax(-1, keepdim=True) == batch.answers for batch in held_out]
    print(f"step {step}: accuracy {torch.cat(right).float().mean():.3f}; {directory}", flush=True)


held, train = (
    make_task(args.task, tokenizer=base.tokenizer, examples=count, seed=seed).pairs
    for count, seed in ((200, 0), (16 * args.steps, args.seed))
)
assert not {pair.clean for pair in held} & {pair.clean for pair in train}, "take another --seed"
held_out = [held.batch(range(start, start + 20)) for start in range(0, 200, 20)]
optimizer = torch.optim.AdamW(p for p in model.parameters() if p.requires_grad)
for step in range(args.steps):  # the learning rate rises over 10 steps, then falls to 0
    if step in args.save_at:
        save(f"{args.out}/step-{step}", step)
    rate = min((step + 1) / 10, (args.steps - step) / max(1, args.steps - 10))
    optimizer.param_groups[0]["lr"] = 1e-3 * rate
    batch = train.batch(range(16 * step, 16 * step + 16))
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(logits(batch), batch.answers[:, 0]).backward()
    optimizer.step()
save(args.out, args.steps)
