"""Measure searches: ACDC and exact effects, in forward passes of the bare model.

    python benchmarks/search.py [--metric kl] [--corruption third-name] [--ports-first]
    python benchmarks/search.py --work exact --model gpt2-small-shape --metric logit_diff

Everything is timed in one process with one thread count; the forward pass, of the same batch of
clean prompts with the original transformers model, is timed before and after. Printed are the
seconds of the search without loading, the same in forward passes, the questions, how many of them
took the whole vocabulary, the circuit's size and the peak memory beside that of the forward pass.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from typing import Any

import torch

from edgewise.discovery.acdc import Rule, walk
from edgewise.discovery.exact import exact
from edgewise.discovery.registry import Discovery
from edgewise.graphs.lift.lifting import describe
from edgewise.graphs.load.loading import load
from edgewise.patching.incremental.search import IncrementalSearch, Search
from edgewise.patching.prompts.pairs import Pair, PromptPairs
from edgewise.patching.run.runner import Runner
from edgewise.patching.tasks import make_task


def subject(options: argparse.Namespace) -> tuple[Any, PromptPairs]:
    """Return a model and prompt pairs."""
    if options.model == "gpt2-small-shape":
        from transformers import GPT2Config, GPT2LMHeadModel

        torch.manual_seed(0)
        model = GPT2LMHeadModel(GPT2Config()).eval()
        return model, one_token_pairs(options.pairs, options.length, options.differs)
    loaded = load(options.model)
    task = make_task(
        "ioi",
        tokenizer=loaded.tokenizer,
        examples=options.pairs,
        length=options.length,
        corruption=options.corruption,
    )
    return loaded.model, task.pairs


def one_token_pairs(number: int, length: int, differs: int) -> PromptPairs:
    """Make random pairs that differ in one token."""
    tokens = torch.randint(
        0, 50257, (number, length + 2), generator=torch.Generator().manual_seed(0)
    )
    pairs = []
    for row in tokens.tolist():
        clean, answer, wrong = row[:-2], row[-2], row[-1]
        corrupted = [*clean]
        corrupted[differs] = (clean[differs] + 1) % 50257
        pairs.append(Pair(tuple(clean), tuple(corrupted), (answer,), (wrong,)))
    return PromptPairs(tuple(pairs))


def peak() -> float:
    """Return the process's largest memory so far, in gigabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", choices=["acdc", "exact"], default="acdc")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--metric", default="kl")
    parser.add_argument("--corruption", default="third-name")
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--length", type=int, default=14)
    parser.add_argument("--differs", type=int, default=9, help="which token (random prompts)")
    parser.add_argument("--threshold", type=float, default=0.02)
    parser.add_argument("--ports-first", action="store_true")
    parser.add_argument("--dense", action="store_true", help="search by whole runs")
    parser.add_argument("--candidates", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def search(options: argparse.Namespace, runner: Runner) -> tuple[Discovery, int | None]:
    """Search; return what was found and how many questions took the whole vocabulary."""
    if options.work == "exact":
        return exact(runner), None
    found: Search = (
        Search(runner) if options.dense else IncrementalSearch(runner, options.threshold)
    )
    rule = Rule(options.threshold, options.ports_first, candidates=options.candidates)
    result = walk(found, runner.graph, rule)
    return result, found.products if isinstance(found, IncrementalSearch) else None


def main() -> None:
    """Run one search."""
    options = parse()
    torch.set_num_threads(options.threads)
    model, pairs = subject(options)
    lifted = describe(model)
    batch = pairs.batch()

    def forward_seconds() -> float:
        with torch.no_grad():
            start = time.perf_counter()
            model(input_ids=batch.clean, attention_mask=batch.mask.long(), use_cache=False)
            return time.perf_counter() - start

    forward_seconds()
    forwards = [forward_seconds() for _ in range(7)]
    memory = peak()
    start = time.perf_counter()
    runner = Runner.create(lifted, pairs, metric=options.metric)
    found, products = search(options, runner)
    seconds = time.perf_counter() - start
    memory_after = peak()
    forwards += [forward_seconds() for _ in range(7)]
    forward = statistics.median(forwards)
    print(f"{options}\nforward pass {forward:.3f} s, {batch.clean.shape[1]} tokens")
    print(f"{seconds:.1f} s = {seconds / forward:.0f} forward passes")
    per_question = seconds / forward / found.questions
    print(f"{found.questions} questions, {per_question:.4f} forward passes each")
    if products is not None:
        print(f"the whole vocabulary for {products} of them")
    if found.circuit is not None:
        loss = runner.loss(found.circuit)
        circuit = found.circuit
        print(f"{len(circuit)} edges, {len(circuit.nodes)} nodes, loss {loss:.6f} (dense runner)")
    print(f"peak memory {memory_after:.2f} GB; of loading and the forward pass {memory:.2f} GB")


if __name__ == "__main__":
    main()
