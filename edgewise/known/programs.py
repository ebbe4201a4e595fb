"""Programs to compile: what a file of one says, prompts of its inputs, and the directory made.

A program's file is Python that sets

    program = …                      # an SOp of tracr.rasp.rasp
    vocabulary = ("a", "b", "c")     # every value of a token
    max_length = 5                   # tokens of the longest input

and, where it needs them, `causal = True`, and `sample(draw, length)`, which returns one input of
that length for a program that is not meant for every input; `draw` is a `random.Random`.

`write_program` makes a directory that every command takes as a model: `config.json` and
`model.safetensors`; `pairs.jsonl`, prompt pairs whose answers are what the program says, and
`test.jsonl`, others; `program.json`, what tokens and outputs stand for; and for each ablation that
the pairs allow `truth-ABLATION.txt`, a list of the edges that have an effect on the first pairs.
"""

from __future__ import annotations

import json
import random
import runpy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..graphs.calls.typed import typed
from ..graphs.circuit import Circuit
from ..graphs.errors import EdgewiseError, PromptError
from ..graphs.files.atomic import write_text
from ..patching.prompts.pairs import Pair, PromptPairs
from .compiled import CompiledProgram, Value, compile_program

PAIRS, HELD_OUT, ABOUT = "pairs.jsonl", "test.jsonl", "program.json"
TRUTH, TRUTH_UNDER = "truth.txt", "truth-{}.txt"
EXAMPLES, OTHERS = 128, 64
_TRIES = 200


@typed
@dataclass(frozen=True, eq=False)
class RaspProgram:
    """A program, and for which inputs it is meant; see the module."""

    name: str
    sop: Any
    vocabulary: tuple[Value, ...]
    length: int
    causal: bool = False
    sample: Callable[[random.Random, int], Sequence[Value]] | None = None

    @typed
    def compiled(self) -> CompiledProgram:
        """Compile it; see `compile_program`."""
        return compile_program(self.sop, self.vocabulary, self.length, causal=self.causal)

    @typed
    def input(self, draw: random.Random, length: int) -> tuple[Value, ...]:
        """Draw an input of a length."""
        if self.sample is None:
            return tuple(draw.choice(self.vocabulary) for _ in range(length))
        return tuple(self.sample(draw, length))

    @typed
    def says(self, values: Sequence[Value]) -> list[Value | None]:
        """Run the program itself; None where it says nothing."""
        return list(self.sop(list(values)))


@typed
def read_program(path: str | Path) -> RaspProgram:
    """Run a program's file, and take from it what the module tells.

    Raises:
        EdgewiseError: it cannot be run, or lacks something; says what.
    """
    place = Path(path).expanduser()
    try:
        found = runpy.run_path(str(place))
    except OSError as error:
        raise EdgewiseError(f"cannot read the program {path}: {error.strerror or error}.") from None
    except ModuleNotFoundError as error:
        raise EdgewiseError(
            f"the program {path} imports {error.name}, which is not installed here; a program "
            'takes the extra: pip install "edgewise[tracr]".'
        ) from None
    except Exception as error:
        raise EdgewiseError(
            f"the program {path} ends with {type(error).__name__}: {error}; accepted: Python that "
            "sets program, vocabulary and max_length."
        ) from error
    wanted = {"program": object, "vocabulary": (tuple, list, set), "max_length": int}
    for key, kind in wanted.items():
        if key not in found or not isinstance(found[key], kind):  # type: ignore[arg-type]
            what = f"sets {key} to {found[key]!r}" if key in found else f"does not set {key}"
            raise EdgewiseError(
                f"the program {path} {what}; accepted: program, an SOp of Tracr's RASP; "
                "vocabulary, a list of tokens; max_length, a whole number."
            )
    vocabulary = tuple(sorted(found["vocabulary"], key=repr))
    return RaspProgram(
        place.stem, found["program"], vocabulary, found["max_length"],
        bool(found.get("causal", False)), found.get("sample"),
    )  # fmt: skip


@typed
def program_pairs(
    program: RaspProgram, compiled: CompiledProgram, examples: int = EXAMPLES, seed: int = 0
) -> PromptPairs:
    """Draw prompt pairs of inputs of all lengths, each asked at one of its positions.

    The answer is what the program says of the clean input; the distractor what it says of the
    corrupted one at that place, or any other output where both are the same. Of a number the first
    logit is the answer where the clean one is the larger, the second (0) else. Positions where the
    two differ are preferred, as others define no behaviour.

    Raises:
        EdgewiseError: the program says too little of such inputs.
    """
    draw, pairs = random.Random(seed), list[Pair]()
    for _ in range(examples * _TRIES):
        if len(pairs) == examples:
            return PromptPairs(tuple(pairs), name=program.name, bos_prepended=True)
        length = draw.randint(1, program.length)
        clean, twin = program.input(draw, length), program.input(draw, length)
        if clean == twin and len(program.vocabulary) > 1:
            continue
        pair = _pair(program, compiled, (clean, twin), draw)
        if pair is not None:
            pairs.append(pair)
    raise EdgewiseError(
        f"of {examples * _TRIES:,} inputs of {program.name} only {len(pairs)} have an output at "
        "some position; accepted: programs that say something of most inputs, or a `sample` of "
        "those that they are meant for."
    )


def _pair(
    program: RaspProgram,
    compiled: CompiledProgram,
    both: tuple[tuple[Value, ...], tuple[Value, ...]],
    draw: random.Random,
) -> Pair | None:
    """Ask about two inputs at one position; None if there is none to ask at."""
    said, instead = (program.says(one) for one in both)
    able = [i for i, (a, b) in enumerate(zip(said, instead, strict=True)) if None not in (a, b)]
    if not able:
        return None
    at = draw.choice([i for i in able if said[i] != instead[i]] or able)
    clean, twin = (compiled.encode(one) for one in both)
    answer, other = said[at], instead[at]
    if compiled.outputs is None:
        right, wrong = (0, 1) if float(answer or 0) >= float(other or 0) else (1, 0)
    else:
        place: dict[Value | None, int] = {one: i for i, one in enumerate(compiled.outputs)}
        right, wrong = place[answer], place[other]
        if right == wrong:
            wrong = draw.choice([i for i in range(len(place)) if i != right] or [right])
    distractors = () if right == wrong else (wrong,)
    return Pair(clean, twin, (right,), distractors, answer_position=at + 1)


@typed
def share_said(program: RaspProgram, compiled: CompiledProgram, seed: int = 1) -> float:
    """Return at what share of positions the model says what the program does, on fresh inputs.

    Of a number they agree where they differ by less than .01.
    """
    import torch

    draw, right, total = random.Random(seed), 0, 0
    for _ in range(OTHERS):
        values = program.input(draw, draw.randint(1, program.length))
        with torch.no_grad():
            logits = compiled.model(torch.tensor([compiled.encode(values)])).logits[0, 1:]
        for own, said in zip(logits, program.says(values), strict=True):
            if said is None:
                continue
            total += 1
            if compiled.outputs is None:
                right += abs(float(own[0]) - float(said)) < 0.01
            else:
                right += compiled.outputs[int(own.argmax())] == said
    return right / max(1, total)


@typed
@dataclass(frozen=True, eq=False)
class KnownProgram:
    """A compiled program with prompts and its true circuit under each ablation."""

    program: RaspProgram
    compiled: CompiledProgram
    pairs: PromptPairs
    test: PromptPairs
    said: float
    truth: dict[str, Circuit]


@typed
def known_program(
    program: RaspProgram, examples: int = EXAMPLES, seed: int = 0, split_embedding: bool = True
) -> KnownProgram:
    """Compile a program, draw prompts, and find its true edges under every ablation they allow."""
    from ..graphs.lift.lifting import describe

    compiled = program.compiled()
    pairs = program_pairs(program, compiled, examples, seed)
    test = program_pairs(program, compiled, OTHERS, seed + 1)
    lifted = describe(compiled.model, split_embedding=split_embedding)
    truth = dict(_truths(lifted, pairs))
    return KnownProgram(program, compiled, pairs, test, share_said(program, compiled), truth)


def _truths(lifted: Any, pairs: PromptPairs) -> Iterator[tuple[str, Circuit]]:
    """Yield the truth under each ablation that takes no more than its name."""
    from ..patching.ablations.registry import ablations
    from ..patching.metrics.registry import default_metric
    from ..patching.run.runner import Runner
    from .truth import true_edges

    for name, one in ablations().items():
        if one.takes:
            continue
        try:
            runner = Runner.create(
                lifted, pairs, ablation=name, metric=default_metric(searching=True)
            )
        except PromptError:  # it cannot be used on such prompts
            continue
        yield name, true_edges(runner)


@typed
def write_program(folder: str | Path, known: KnownProgram) -> None:
    """Write a directory that every command takes as a model; see the module."""
    from ..patching.prompts.pair_files import write_pairs

    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    save_model(place, known.compiled.model.float())
    write_pairs(place / PAIRS, known.pairs)
    write_pairs(place / HELD_OUT, known.test)
    for stale in place.glob(TRUTH_UNDER.format("*")):  # of another state of the program
        stale.unlink()
    outputs = known.compiled.outputs
    about = {
        "program": known.program.name,
        "tokens": list(known.compiled.tokens),
        "outputs": "a number" if outputs is None else list(outputs),
        "longest": known.program.length,
        "said": known.said,
        "true edges": {name: len(one) for name, one in known.truth.items()},
    }
    write_text(place / ABOUT, json.dumps(about, indent=2) + "\n")
    for name, circuit in known.truth.items():
        write_edges(
            place / TRUTH_UNDER.format(name), circuit, f"{known.program.name}, {name} ablation"
        )


@typed
def save_model(folder: Path, model: Any) -> None:
    """Write a small model as a directory: its configuration, and one file of weights."""
    from safetensors.torch import save_file

    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    weights = {name: x.detach().contiguous().clone() for name, x in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


@typed
def write_edges(path: str | Path, circuit: Circuit, what: str) -> None:
    """Write a list of edges by name, one a line, below a line that says what they are."""
    names = "".join(f"{edge}\n" for edge in circuit.edges)
    write_text(path, f"# {what}: {len(circuit)} of {circuit.graph.edge_count} edges\n{names}")
