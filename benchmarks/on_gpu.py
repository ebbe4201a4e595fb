"""Take every figure that needs a card, beside its target; `on_gpu.sh` calls this.

    python benchmarks/on_gpu.py [--dry] [--only 8b,1b,smollm2,search]

Each step is a process of its own, so that none finds another's memory taken, and is given up after
its time. Times are in forward passes of the original model on the same batch, by the wall clock, in
rounds that alternate with it; medians of ratios. `--dry` takes all steps on the processor with tiny
shapes: its figures mean nothing, but that everything runs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from engines import LLAMAS, drawn_pairs, random_weights

from edgewise.discovery.registry import get_method
from edgewise.graphs.circuit import Circuit
from edgewise.graphs.errors import EdgewiseError
from edgewise.graphs.lift.lifted import LiftedModel
from edgewise.graphs.lift.lifting import describe
from edgewise.graphs.load.loading import load
from edgewise.graphs.load.weights import lay_side_by_side
from edgewise.patching.prompts.pairs import PromptPairs
from edgewise.patching.run.runner import Runner

Work = Callable[[], Any]
TINY = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2}  # fmt: skip
SMOLLM2 = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
           "num_attention_heads": 9, "num_key_value_heads": 3}  # fmt: skip
SECONDS = {"8b": 160, "1b": 60, "smollm2": 60, "search": 50}
"""The steps, and how long each may take."""

ROW = "ROW "


class Row(NamedTuple):
    """A figure: what was measured, and at most how much it may be, if the issue says so."""

    what: str
    figure: float
    unit: str
    target: float | None = None


class Subject(NamedTuple):
    """A model on the device, as the original and described."""

    model: Any
    lifted: LiftedModel
    cuda: bool

    def done(self) -> None:
        """Wait for the card."""
        if self.cuda:
            torch.cuda.synchronize()

    @property
    def size(self) -> int:
        """Return how many bytes the weights have."""
        return sum(x.nbytes for x in self.model.parameters())


def llama(name: str, dry: bool) -> Subject:
    """Return a model of random weights in bfloat16, laid out as one that is loaded by its name."""
    shape = TINY if dry else {**LLAMAS, "smollm2": SMOLLM2}[name]
    vocabulary, device = 500 if dry else 128256, "cpu" if dry else "cuda"
    model = random_weights({"vocab_size": vocabulary, **shape}, device, torch.bfloat16)
    model.requires_grad_(False)
    lay_side_by_side(model, device)
    return Subject(model, describe(model), not dry)


def smollm2(dry: bool) -> Subject:
    """Return SmolLM2 where it is kept on this machine, else random weights of its shape."""
    if not dry:
        try:
            model = load("smollm2-135m", device="cuda").model
        except EdgewiseError:
            print("SmolLM2 is not kept here: random weights of its shape")
            config = {"vocab_size": 49152, "tie_word_embeddings": True, **SMOLLM2}
            model = random_weights(config, "cuda", torch.float32).requires_grad_(False)
            lay_side_by_side(model, "cuda")
    else:
        model = random_weights({"vocab_size": 500, **TINY}, "cpu", torch.float32)
    return Subject(model, describe(model), not dry)


def ratios(
    subject: Subject, pairs: PromptPairs, works: dict[str, Work], rounds: int
) -> Iterator[Row]:
    """Time works beside the original's forward pass: what a first call takes, then the ratios."""
    ids = pairs.batch(device=str(subject.lifted.device)).clean

    @torch.no_grad()
    def forward() -> None:
        subject.model(input_ids=ids, use_cache=False)

    def seconds(work: Work) -> float:
        subject.done()
        start = time.perf_counter()
        work()
        subject.done()
        return time.perf_counter() - start

    seconds(forward)
    for name, work in works.items():
        yield Row(f"{name}: first call", seconds(work), "s", 15 if "jax" in name else None)
    taken: dict[str, list[float]] = {name: [] for name in works}
    passes = []
    for _ in range(rounds):
        for name, work in works.items():
            passes.append(min(seconds(forward) for _ in range(3)))
            taken[name].append(seconds(work) / passes[-1])
    yield Row("forward pass of the original", 1e3 * statistics.median(passes), "ms")
    for name, found in taken.items():
        yield Row(name, statistics.median(found), "forward passes")


def attributions(
    subject: Subject, pairs: PromptPairs, engine: str, names: tuple[str, ...] = ("eap", "eap-ig")
) -> dict[str, Work]:
    """Return the methods on an engine; torch's runs are made anew each time."""
    settings: dict[str, dict[str, Any]] = {"eap": {}, "eap-ig": {"steps": 5}}

    def work(name: str) -> Work:
        return lambda: get_method(name)(
            Runner.create(subject.lifted, pairs, metric="logit_diff", engine=engine),
            **settings[name],
        )

    return {f"{name}, {engine}": work(name) for name in names}


def targeted(where: str, rows: Iterator[Row], targets: dict[str, float]) -> Iterator[Row]:
    """Say of each row where it was measured, and put the issue's targets beside the figures."""
    for row in rows:
        yield row._replace(what=f"{where}: {row.what}", target=targets.get(row.what, row.target))


def large(name: str, dry: bool, targets: dict[str, float]) -> Iterator[Row]:
    """Measure a Llama shape with 8 pairs of 16 tokens; JAX first, for its memory."""
    subject = llama(f"llama-{name}-shape", dry)
    vocabulary = len(subject.lifted.tokens)
    short, long = drawn_pairs(8, 16, vocabulary), drawn_pairs(4, 128, vocabulary)
    where = f"{name.upper()} shape, bfloat16, 8 × 16"
    if subject.cuda:
        torch.cuda.reset_peak_memory_stats()
    yield from targeted(
        where, ratios(subject, short, attributions(subject, short, "jax"), 5), targets
    )
    if subject.cuda:
        yield Row(f"{where}: model", subject.size / 1e9, "GB")
        yield Row(f"{where}: memory beside the model, jax", beside(subject) / 1e9, "GB", 4)
    if name == "8b":
        found = ratios(subject, long, attributions(subject, long, "jax"), 3)
        yield from targeted(
            "8B shape, bfloat16, 4 × 128", found, {"eap, jax": 10, "eap-ig, jax": 20}
        )
    alone = attributions(subject, short, "torch", ("eap",))
    yield from targeted(where, ratios(subject, short, alone, 3), targets)


def beside(subject: Subject) -> float:
    """Return the peak of both engines' memory less the model's."""
    import jax

    own = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)
    return float(torch.cuda.max_memory_allocated() - subject.size + own)


def many(dry: bool) -> Iterator[Row]:
    """Measure SmolLM2 with 64 pairs, and 256 random circuits of 1% of the edges together."""
    from edgewise.patching.compiled.circuits import CompiledCircuits

    subject = smollm2(dry)
    pairs = drawn_pairs(4 if dry else 64, 14, len(subject.lifted.tokens))
    runner = Runner.create(subject.lifted, pairs, metric="logit_diff")
    draw, reads = np.random.default_rng(0), runner.graph.reads
    circuits = [
        Circuit(runner.graph, reads & (draw.random(reads.shape) < 0.01))
        for _ in range(8 if dry else 256)
    ]
    compiled = CompiledCircuits(runner)
    together = f"{len(circuits)} random circuits together, jax"
    works = attributions(subject, pairs, "jax")
    works |= {together: lambda: compiled.losses(circuits)}
    where = f"SmolLM2, {len(pairs)} pairs of 14"
    yield from targeted(where, ratios(subject, pairs, works, 5), {"eap, jax": 4, together: 40})
    alone = attributions(subject, pairs, "torch")
    yield from targeted(where, ratios(subject, pairs, alone, 2), {})


class _EnoughError(Exception):
    """So much of a search will do."""


def search(dry: bool) -> Iterator[Row]:
    """Search by `kl` below what the bounds resolve; count questions and decisions in 20 seconds."""
    subject = llama("llama-1b-shape", dry)
    runner = Runner.create(
        subject.lifted, drawn_pairs(8, 16, len(subject.lifted.tokens)), metric="kl"
    )
    start, decided = time.perf_counter(), [0]

    def look(done: int, total: int, what: str) -> None:
        decided[0] = done
        if time.perf_counter() - start > (2 if dry else 20):
            raise _EnoughError

    with contextlib.suppress(_EnoughError):
        get_method("acdc")(runner, progress=look, threshold=1e-4)
    seconds = time.perf_counter() - start
    where = "1B shape, bfloat16, ACDC by kl at 1e-4"
    yield Row(f"{where}: edges decided", decided[0], "edges")
    yield Row(f"{where}: in", seconds, "s")


STEPS: dict[str, Callable[[bool], Iterator[Row]]] = {
    "8b": lambda dry: large("8b", dry, {"eap, jax": 3, "eap-ig, jax": 6, "eap, torch": 25}),
    "1b": lambda dry: large("1b", dry, {"eap, jax": 1.8, "eap-ig, jax": 3.7}),
    "smollm2": many,
    "search": search,
}


def ready() -> str:
    """Say what is missing for figures of a card; empty if nothing is."""
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} sees no CUDA card; install a build of torch for CUDA."
    try:
        import jax
    except ImportError:
        return 'JAX is not installed; install "jax[cuda12]" (or "jax[cuda13]", by the driver).'
    if jax.default_backend() not in ("gpu", "cuda"):
        return (
            f"JAX {jax.__version__} computes on {jax.default_backend()}, not on the card; install "
            '"jax[cuda12]" (or "jax[cuda13]", by the driver).'
        )
    return ""


def run_step(name: str, dry: bool) -> list[Row]:
    """Run a step in a process of its own; what it printed before it failed counts."""
    command = [sys.executable, __file__, "--step", name, *(["--dry"] if dry else [])]
    start, end = time.perf_counter(), "its time was up"
    try:
        found = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            timeout=SECONDS[name] * (5 if dry else 1),  # the processor compiles slowly
        )
        output, end = found.stdout, f"status {found.returncode}"
    except subprocess.TimeoutExpired as error:
        output = error.stdout or b""
    rows, said = list[Row](), list[str]()
    for line in output.decode(errors="replace").splitlines():
        if line.startswith(ROW):
            rows.append(Row(*json.loads(line.removeprefix(ROW))))
        else:
            said.append(line)
    if end != "status 0":
        print(f"step {name} ended early, {end}:", *said[-15:], sep="\n  ")
    print(f"step {name}: {time.perf_counter() - start:.0f} s, {len(rows)} figures", flush=True)
    return rows


def table(rows: list[Row], dry: bool) -> None:
    """Print all figures beside their targets; of a dry run, not whether these are met."""
    print("\n| figure | measured | at most | |\n| --- | --- | --- | --- |")
    for row in rows:
        target = "" if row.target is None else f"{row.target:g}"
        met = "" if row.target is None else "met" if row.figure <= row.target else "NOT MET"
        met = "dry" if dry else met
        print(f"| {row.what} | {row.figure:.3g} {row.unit} | {target} | {met} |")


def main() -> None:
    """Take all figures, or one step's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dry", action="store_true", help="tiny shapes on the processor")
    parser.add_argument("--only", default=",".join(STEPS))
    parser.add_argument("--step", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        for row in STEPS[options.step](options.dry):
            print(ROW + json.dumps(row), flush=True)
        return
    if not options.dry and (missing := ready()):
        sys.exit(missing + " `benchmarks/on_gpu.sh --dry` tries everything but the card.")
    rows = [row for name in options.only.split(",") for row in run_step(name, options.dry)]
    table(rows, options.dry)


if __name__ == "__main__":
    main()
