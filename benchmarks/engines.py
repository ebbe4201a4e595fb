"""Measure the compiled engine beside torch, in forward passes of the bare model.

    python benchmarks/engines.py [--model smollm2-135m | gpt2-small-shape | llama-1b-shape |
        llama-8b-shape] [--pairs 8] [--length 16] [--threads 2] [--clock processor] [--circuits 64]

All is timed in one process, in rounds that alternate with the bare model's forward pass on the same
batch, so that a busy machine slows all alike; a figure is the median of ratios. The first token of
every pair differs, so that no engine can leave out a position. `first call` is the compiled
program's first run, compiling included, with nothing kept from before. On a card (--device cuda)
the model lies there, in bfloat16 for the Llama shapes, which have random weights.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from edgewise.discovery.registry import get_method
from edgewise.graphs.circuit import Circuit
from edgewise.graphs.lift.lifting import describe
from edgewise.graphs.load.loading import load
from edgewise.patching.prompts.pairs import Pair, PromptPairs
from edgewise.patching.run.runner import Runner

Work = Callable[[], Any]
LLAMAS = {
    "llama-1b-shape": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
                       "num_attention_heads": 32, "num_key_value_heads": 8},
    "llama-8b-shape": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
                       "num_attention_heads": 32, "num_key_value_heads": 8},
}  # fmt: skip


def subject(name: str, device: str) -> Any:
    """Return a model, on a device."""
    torch.manual_seed(0)
    if name == "gpt2-small-shape":
        from transformers import GPT2Config, GPT2LMHeadModel

        return GPT2LMHeadModel(GPT2Config()).eval().to(device)
    if name in LLAMAS:
        return random_weights({"vocab_size": 128256, **LLAMAS[name]}, device, torch.bfloat16)
    return load(name, device=device).model


def random_weights(config: dict[str, Any], device: str, dtype: torch.dtype) -> Any:
    """Return a Llama of random weights, made where it is to lie."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    with torch.device(device):
        torch.set_default_dtype(dtype)
        model = LlamaForCausalLM(LlamaConfig(**config)).eval()
        torch.set_default_dtype(torch.float32)
    return model


def drawn_pairs(number: int, length: int, vocabulary: int) -> PromptPairs:
    """Draw pairs whose first tokens differ."""
    draw = random.Random(0)
    rows = []
    for _ in range(number):
        clean = [draw.randrange(vocabulary) for _ in range(length)]
        twin = ((clean[0] + 1) % vocabulary, *clean[1:])
        rows.append(Pair(tuple(clean), twin, (draw.randrange(9),), (9 + draw.randrange(9),)))
    return PromptPairs(tuple(rows), name="first token differs")


def measure(works: dict[str, Work], rounds: int, clock: Callable[[], float], done: Work) -> None:
    """Time each work beside the first one, `forward`, and print ratios."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for name, work in works.items():
        start = clock()
        work()
        done()
        if "jax" in name:
            print(f"  {name:44s} first call {clock() - start:6.1f} s", flush=True)
    for _ in range(rounds):
        for name, work in works.items():
            start = clock()
            work()
            done()
            times[name].append(clock() - start)
    base = times["forward"]
    print(f"forward pass: {statistics.median(base):.4f} s")
    for name, taken in times.items():
        ratios = [t / f for t, f in zip(taken, base, strict=True)]
        print(f"  {name:44s} {statistics.median(ratios):7.2f} forwards  (min {min(ratios):.2f})")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--length", type=int, default=14)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--clock", choices=["wall", "processor"], default="wall")
    parser.add_argument("--engines", default="torch,jax")
    parser.add_argument("--circuits", type=int, default=0, help="random circuits of 1%%, together")
    return parser.parse_args()


def main() -> None:
    """Run the benchmark."""
    options = parse()
    torch.set_num_threads(options.threads)
    model = subject(options.model, options.device)
    lifted = describe(model)
    pairs = drawn_pairs(options.pairs, options.length, len(lifted.tokens))
    ids = pairs.batch(device=options.device).clean
    works: dict[str, Work] = {}

    @torch.no_grad()
    def forward() -> None:
        model(input_ids=ids, use_cache=False)

    works["forward"] = forward
    for engine in options.engines.split(","):
        for name, settings in (("eap", {}), ("eap-ig", {"steps": 5})):
            works[f"{name}, {engine}"] = lambda n=name, e=engine, o=settings: get_method(n)(
                Runner.create(lifted, pairs, metric="logit_diff", engine=e), **o
            )
    if options.circuits:
        works |= together(Runner.create(lifted, pairs, metric="logit_diff"), options.circuits)
    print(f"{options.model}, {len(pairs)} pairs of {options.length} tokens, on {options.device}")
    clock = time.perf_counter if options.clock == "wall" else time.process_time
    cuda = options.device.startswith("cuda")
    measure(works, options.rounds, clock, torch.cuda.synchronize if cuda else lambda: None)
    if cuda:
        import jax

        stats = jax.devices()[0].memory_stats() or {}
        peak = torch.cuda.max_memory_allocated() / 1e9
        own = stats.get("peak_bytes_in_use", 0) / 1e9
        print(f"peak memory: torch {peak:.1f} GB, jax {own:.1f} GB")


def together(runner: Runner, number: int) -> dict[str, Work]:
    """Return runs of random circuits of 1% of the edges, one by one and all at once."""
    from edgewise.patching.compiled.circuits import CompiledCircuits

    draw, reads = np.random.default_rng(0), runner.graph.reads
    circuits = [
        Circuit(runner.graph, reads & (draw.random(reads.shape) < 0.01)) for _ in range(number)
    ]
    compiled = CompiledCircuits(runner)
    return {
        f"{number} circuits of 1%, torch": lambda: runner.losses(circuits),
        f"{number} circuits of 1%, jax": lambda: compiled.losses(circuits),
    }


if __name__ == "__main__":
    main()
