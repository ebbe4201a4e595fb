"""Known circuits to score methods on: models, prompts, an ablation, and which edges are true.

* *compiled*: the programs in `data/`, under each ablation for which their folder has a truth;
* *planted*: GPT-2 and Llama models in which a drawn circuit alone carries the signal;
* *trained*: models whose nodes were trained to play parts in a known program, from `data/` too.

A folder of a case holds a model, `pairs.jsonl`, and for each ablation `truth-ABLATION.txt`, or
`truth.txt` for the usual one; with `test.jsonl`, pairs that are held out, else half of the others
are. Anyone may write such folders; see `programs.write_program`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..graphs.calls.typed import typed
from ..graphs.circuit import Circuit
from ..graphs.errors import EdgewiseError, FileFormatError, unknown
from .programs import HELD_OUT, PAIRS, TRUTH, TRUTH_UNDER
from .shapes import PlantedShape

if TYPE_CHECKING:
    from ..patching.prompts.pairs import PromptPairs
    from ..session import Session

DATA = Path(__file__).parent / "data"
"""Where the cases that come with the package are."""

COMPILED, PLANTED, TRAINED = "compiled", "planted", "trained"
KINDS = (COMPILED, PLANTED, TRAINED)
_SPLIT = ("tok->", "pos->")
_BEFORE, _AFTER = TRUTH_UNDER.split("{}")


@typed
@dataclass(frozen=True, eq=False)
class KnownCase:
    """One model on its prompts, and what is true of it under one ablation.

    `test`: pairs that are held out, or those of discovery where there are none.
    """

    name: str
    kind: str
    ablation: str
    session: Session = field(repr=False)
    pairs: PromptPairs = field(repr=False)
    test: PromptPairs = field(repr=False)
    truth: Circuit


@typed
def read_cases(folder: str | Path, kind: str = COMPILED) -> Iterator[KnownCase]:
    """Yield the cases of one folder, one for each ablation that it has a truth of.

    Their names are FOLDER-ABLATION. Truths without an edge, or with all, decide nothing and are
    left out.

    Raises:
        EdgewiseError: there is no truth; a truth names no edges of the model's graph.
    """
    from ..experiment.spec import ComputeSpec, GraphSpec
    from ..graphs.files.exchange.named import read_named
    from ..patching.prompts.pair_files import read_pairs
    from ..session import open_model

    place = Path(folder)
    paths = _truths(place)
    if not paths:
        raise EdgewiseError(
            f"{place} is no known circuit: it has no {TRUTH_UNDER.format('ABLATION')}; accepted: "
            "folders as `edgewise compile` writes them."
        )
    named = [(ablation, path, _names(path)) for ablation, path in paths.items()]
    split = any(one.startswith(_SPLIT) for *_, names in named for one in names)
    session = open_model(str(place), GraphSpec(split_embedding=split), ComputeSpec(dtype="float64"))
    pairs = read_pairs(place / PAIRS)
    if (place / HELD_OUT).exists():
        test = read_pairs(place / HELD_OUT)
    else:
        half = len(pairs) // 2
        test = replace(pairs, pairs=pairs.pairs[half:])
        pairs = replace(pairs, pairs=pairs.pairs[: max(1, half)])
    for ablation, path, names in named:
        if not names:
            continue
        truth = read_named(path).on(session.graph)
        if len(truth) == session.graph.edge_count:
            continue
        name = f"{place.name}-{ablation}"
        yield KnownCase(name, kind, ablation, session, pairs, test, truth)


def _names(path: Path) -> list[str]:
    """Return the edges that a truth names, which may be none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FileFormatError(f"{path} cannot be read as a list of edges: {error}.") from None
    return [one for line in lines if (one := line.partition("#")[0].strip())]


@dataclass(frozen=True)
class Planting:
    """A circuit that is planted: in what, from which seed, and how strongly others leak."""

    shape: PlantedShape
    seed: int = 0
    leak: float = 0.0


PLANTINGS: Mapping[str, Planting] = {
    "gpt2-2x2": Planting(PlantedShape("gpt2", 2, 2)),
    "gpt2-4x4": Planting(PlantedShape("gpt2", 4, 4), seed=1),
    "gpt2-6x8": Planting(PlantedShape("gpt2", 6, 8), seed=2),
    "llama-2x4": Planting(PlantedShape("llama", 2, 4, kv_heads=2), seed=3),
    "llama-4x4": Planting(PlantedShape("llama", 4, 4), seed=4),
    "gpt2-4x4-leak": Planting(PlantedShape("gpt2", 4, 4), seed=5, leak=0.1),
    "llama-4x4-leak": Planting(PlantedShape("llama", 4, 4), seed=6, leak=0.1),
}
"""The planted circuits, by name; layers and heads."""

_PROMPTS, _LENGTH = 32, 8


@typed
def planted_case(name: str) -> KnownCase:
    """Plant a circuit and draw prompts of random tokens for it.

    >>> case = planted_case("gpt2-2x2")
    >>> case.truth.graph.edge_count, len(case.pairs)
    (46, 32)
    """
    from ..patching.ablations.registry import default_ablation
    from ..session import open_model
    from .planted import plant

    if name not in PLANTINGS:
        raise unknown("planted circuit", name, PLANTINGS)
    how = PLANTINGS[name]
    made = plant(how.shape, seed=how.seed, leak=how.leak)
    session = open_model(made.model)
    pairs = _random_pairs(session, how, how.seed)
    test = _random_pairs(session, how, how.seed + 1000)
    return KnownCase(name, PLANTED, default_ablation(), session, pairs, test, made.circuit)


def _random_pairs(session: Session, how: Planting, seed: int) -> PromptPairs:
    """Draw pairs of random tokens; the answer is what the model says, the distractor its twin's."""
    import torch

    from ..patching.prompts.pairs import Pair, PromptPairs

    draw, pairs = torch.Generator().manual_seed(seed), list[Pair]()
    while len(pairs) < _PROMPTS:
        both = torch.randint(how.shape.vocabulary, (2, _LENGTH), generator=draw)
        with torch.no_grad():
            said = session.loaded.model(both).logits[:, -1].argmax(-1).tolist()
        if said[0] != said[1]:
            clean, twin = (tuple(ids) for ids in both.tolist())
            pairs.append(Pair(clean, twin, (said[0],), (said[1],)))
    return PromptPairs(tuple(pairs), name="random tokens", seed=seed)


@typed
def known_cases(kinds: Sequence[str] = KINDS, names: Sequence[str] = ()) -> Iterator[KnownCase]:
    """Yield the cases that come with the package: of some kinds; with `names`, those alone.

    A name is a case's, such as `reverse-zero`, or that of all cases of one model, `reverse`.

    Raises:
        UnknownName: there is no such kind or case.
    """
    folders = _folders()
    known = [name for _, folder in folders for name in _case_names(folder)]
    every = {*known, *PLANTINGS, *(folder.name for _, folder in folders)}
    for what, given, accepted in (
        ("kind of known circuit", kinds, KINDS), ("known circuit", names, sorted(every)),
    ):  # fmt: skip
        if strange := [one for one in given if one not in accepted]:
            raise unknown(what, strange[0], accepted)
    return _known(kinds, names, folders)


@typed
def case_groups(kinds: Sequence[str] = KINDS, names: Sequence[str] = ()) -> list[tuple[str, ...]]:
    """Return the names of what `known_cases` yields, those of one model together.

    >>> case_groups(names=("reverse-zero", "gpt2-2x2"))
    [('reverse-zero',), ('gpt2-2x2',)]
    """
    known_cases(kinds, names)  # refuses what is not known
    found = list[tuple[str, ...]]()
    for kind, folder in _folders():
        own = [one for one in _case_names(folder) if not names or {one, folder.name} & set(names)]
        if kind in kinds and own:
            found.append(tuple(own))
    if PLANTED in kinds:
        found += [(name,) for name in PLANTINGS if not names or name in names]
    return found


def _known(
    kinds: Sequence[str], names: Sequence[str], folders: Sequence[tuple[str, Path]]
) -> Iterator[KnownCase]:
    for kind, folder in folders:
        own = {folder.name, *_case_names(folder)}
        if kind in kinds and (not names or own & set(names)):
            for case in read_cases(folder, kind):
                if not names or {case.name, folder.name} & set(names):
                    yield case
    if PLANTED in kinds:
        yield from (planted_case(name) for name in PLANTINGS if not names or name in names)


def _folders() -> list[tuple[str, Path]]:
    """List the folders of the package's cases, with their kinds."""
    found = list[tuple[str, Path]]()
    for folder in sorted(DATA.iterdir()):
        if (folder / PAIRS).exists():
            kind = COMPILED if (folder / f"{folder.name}.py").exists() else TRAINED
            found.append((kind, folder))
    return found


def _case_names(folder: Path) -> list[str]:
    return [f"{folder.name}-{ablation}" for ablation in _truths(folder)]


def _truths(folder: Path) -> dict[str, Path]:
    """Map ablations to their truths; one that tells no ablation is of the usual one."""
    from ..patching.ablations.registry import default_ablation

    paths = sorted(folder.glob(TRUTH_UNDER.format("*")))
    found = {path.name.removeprefix(_BEFORE).removesuffix(_AFTER): path for path in paths}
    plain = folder / TRUTH
    return {default_ablation(): plain, **found} if plain.exists() else found


@typed
def write_cases(folder: str | Path, cases: Iterable[KnownCase]) -> list[Path]:
    """Write known circuits as folders that `read_cases` takes; return these."""
    from ..patching.prompts.pair_files import write_pairs
    from .programs import save_model, write_edges

    found = dict[Path, None]()
    for case in cases:
        place = Path(folder) / case.name.removesuffix(f"-{case.ablation}")
        place.mkdir(parents=True, exist_ok=True)
        if place not in found:
            save_model(place, case.session.loaded.model)
            write_pairs(place / PAIRS, case.pairs)
            if case.test is not case.pairs:
                write_pairs(place / HELD_OUT, case.test)
        write_edges(
            place / TRUTH_UNDER.format(case.ablation), case.truth, f"{case.name}, {case.kind}"
        )
        found[place] = None
    return list(found)
