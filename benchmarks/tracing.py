"""What causal tracing costs beside whole runs: the ratio of processor times within one run.

    OMP_NUM_THREADS=1 python benchmarks/tracing.py [--prompt TEXT --subject TEXT] [--draws 10]

For each kind that can be put back, all layers × tokens of one prompt are traced. Beside it stand
forward passes of the original model: of the prompt with as many copies as there are draws, which
is what one cell costs if it is run whole, and of the prompt alone. Times are the least of a few.
Prints one Markdown row for each kind: cells, seconds, in passes of all draws, of the prompt alone,
and how many passes of all draws whole runs would take.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable

import torch

from edgewise.patching.facts.prompts import fact_prompts
from edgewise.patching.facts.tracing import (
    DEVIATIONS,
    DRAWS,
    KINDS,
    Noise,
    subject_deviation,
    trace_prompt,
)
from edgewise.session import open_model
from edgewise.steps.facts.prompts import fact_of_text

ROUNDS = 3


def least(call: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Return the least processor time of some calls."""
    found = []
    for _ in range(rounds):
        begun = time.process_time()
        call()
        found.append(time.process_time() - begun)
    return min(found)


def main() -> None:
    """Measure one prompt."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--prompt", default="The capital city of France is called")
    parser.add_argument("--subject", default="France")
    parser.add_argument("--draws", type=int, default=DRAWS)
    parser.add_argument("--window", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    session = open_model(options.model)
    model, facts = session.lifted, fact_of_text(session, options.prompt, options.subject)
    (prompt,) = fact_prompts(model, facts.pairs)
    noise = Noise(DEVIATIONS * subject_deviation(model, [prompt]), options.draws)
    ids = torch.tensor([prompt.pair.clean], device=session.device)
    many = ids.expand(options.draws, -1).contiguous()
    cells = len(model.blocks) * (prompt.last + 1 - prompt.subject[0])
    print(f"{ids.shape[1]} tokens, the subject at {list(prompt.subject)}")
    print("| kind | cells | seconds | passes of all draws | passes of the prompt | whole runs |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |", flush=True)
    for kind in KINDS:

        def trace(kind: str = kind) -> object:
            return trace_prompt(model, prompt, noise, [kind], window=options.window)

        with torch.no_grad():
            alone = least(lambda: session.loaded.model(ids), 2 * options.rounds)
            drawn = least(lambda: session.loaded.model(many), options.rounds)
        seconds = least(trace, options.rounds)
        row = [kind, str(cells), f"{seconds:.1f}", f"{seconds / drawn:.1f}"]
        print("|", " | ".join([*row, f"{seconds / alone:.0f}", str(cells)]), "|", flush=True)


if __name__ == "__main__":
    main()
