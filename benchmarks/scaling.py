"""Measure how ACDC's time and memory grow with layers, examples and prompt length.

    python benchmarks/scaling.py [--threads 2]

Random models of the Llama architecture (d_model 128, 4 heads, 2 key/value heads, 1,000 tokens), one
corrupted token in the middle of the prompt, KL. The threshold is a hundredth of the loss with every
edge ablated. Each row runs in a process of its own; memory is its peak less what it held before
the search. One of layers, examples and length changes at a time.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

import torch

from edgewise.discovery.acdc import Rule, walk
from edgewise.graphs.circuit import Circuit
from edgewise.graphs.lift.lifting import describe
from edgewise.patching.incremental.search import IncrementalSearch
from edgewise.patching.prompts.pairs import Pair, PromptPairs
from edgewise.patching.run.runner import Runner

BASE = {"layers": 8, "examples": 8, "length": 16}
GRID = {"layers": [2, 4, 8, 16, 32, 48], "examples": [2, 8, 32], "length": [8, 16, 64]}
VOCABULARY = 1000


def measure(layers: int, examples: int, length: int, threads: int) -> dict[str, float]:
    """Run one search; return its figures."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.1,
    )
    model = LlamaForCausalLM(config).eval()
    tokens = torch.randint(0, VOCABULARY, (examples, length + 1)).tolist()
    pairs = []
    for row in tokens:
        corrupted = [*row[:-1]]
        corrupted[length // 2] = (corrupted[length // 2] + 1) % VOCABULARY
        pairs.append(Pair(tuple(row[:-1]), tuple(corrupted), (row[-1],), ()))
    runner = Runner.create(describe(model), PromptPairs(tuple(pairs)), metric="kl")
    threshold = runner.loss(Circuit.empty(runner.graph)) / 100
    batch = runner.pairs.batch()
    with torch.no_grad():
        model(input_ids=batch.clean)
        start = time.perf_counter()
        model(input_ids=batch.clean)
        forward = time.perf_counter() - start
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    found = walk(IncrementalSearch(runner, threshold), runner.graph, Rule(threshold))
    seconds = time.perf_counter() - start
    assert found.circuit is not None
    return {
        "edges": runner.graph.edge_count,
        "kept": len(found.circuit),
        "questions": found.questions,
        "seconds": seconds,
        "forwards": seconds / forward,
        "megabytes": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3,
    }


def main() -> None:
    """Run the grid, or one row of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--row", type=int, nargs=3)
    options = parser.parse_args()
    if options.row:
        print(json.dumps(measure(*options.row, options.threads)))
        return
    print("| layers | examples | length | edges | kept | questions | s | forwards | MB |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    rows = [tuple((BASE | {name: value}).values()) for name in GRID for value in GRID[name]]
    for row in dict.fromkeys(rows):
        command = [sys.executable, __file__, "--threads", str(options.threads), "--row"]
        done = subprocess.run([*command, *map(str, row)], check=True, stdout=subprocess.PIPE)
        found = json.loads(done.stdout.splitlines()[-1])
        cells = [*row, found["edges"], found["kept"], found["questions"]]
        figures = [f"{found[key]:.1f}" for key in ("seconds", "forwards", "megabytes")]
        print("| " + " | ".join(map(str, [*cells, *figures])) + " |", flush=True)


if __name__ == "__main__":
    main()
