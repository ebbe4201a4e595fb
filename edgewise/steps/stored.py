"""Find again what a circuit file names: its model, wherever it is now, and its prompt pairs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

from ..experiment.spec import ComputeSpec, Experiment, GraphSpec, ModelSpec
from ..experiment.task import TAKEN, TaskSpec
from ..graphs.calls.typed import typed
from ..graphs.errors import FileFormatError, GraphMismatch, ModelNotFound, PromptError, UnknownName
from ..graphs.files import CircuitFile
from ..graphs.files.circuit import PROMPTS, TEST_PROMPTS
from ..graphs.files.places import possible_places
from ..graphs.files.reading import is_there
from ..patching.prompts.pair_files import pairs_from_rows
from ..patching.prompts.pairs import PromptPairs
from ..patching.prompts.splits import PromptSplit, seen_in
from ..patching.prompts.tokens import tokens_sha256
from ..progress import Progress
from ..session import Session, open_model, open_split, open_task, open_vocabulary


@contextmanager
def named_by(file: CircuitFile, option: str, tried: list[str]) -> Iterator[None]:
    """Say of an error inside that the name at fault came from a circuit file; what replaces it."""
    try:
        yield
    except (ModelNotFound, PromptError, UnknownName) as error:
        places = f" (looked for at {', '.join(tried)})" if len(tried) > 1 else ""
        source = f"The name comes from {file.path or 'the circuit'}{places}"
        raise type(error)(f"{error} {source}; {option} replaces it.") from error


# -- the model -----------------------------------------------------------------------------------


@typed
def stored_model(file: CircuitFile) -> str:
    """Return the reference that loads a circuit's model; an EdgewiseError if the file has none."""
    return ModelSpec.of_circuit(file).source


def open_for(
    file: CircuitFile,
    reference: str | None = None,
    compute: ComputeSpec | None = None,
    *,
    option: str = "`model`",
    refusal: Callable[[str, str], str] | None = None,
    try_family: str | None = None,
    progress: Progress | None = None,
) -> Session:
    """Open a model to run a file's circuit in, with the circuit's graph options.

    Model and precision default to those the circuit was found in; of several places where its model
    is, the one of its weights counts. For messages: `option` gives another model; `refusal` says
    that a model, of this name, is of another shape, and in what. `try_family`: see `GraphSpec`;
    default: the one by which the circuit's model was described.

    Raises:
        ModelNotFound: there is no such model.
        GraphMismatch: the model is not of the circuit's shape.
    """
    graph, compute = file.circuit.graph.plain, compute or ComputeSpec.of_circuit(file)

    def load(name: str) -> Session:
        options = GraphSpec.of_graph(graph, try_family or file.model.get("tried_family"))
        return open_model(name, options, compute, progress=progress)

    def load_stored() -> Session:
        name, places, paths = stored_model(file), [], file.model.get("paths")
        if paths is not None or file.model["revision"] is None:  # it was on this machine
            places = possible_places(file.model["name"], paths, file.path)
        there = [place for place in places if is_there(place)]
        guessed = bool(there) and paths is None and not is_there(name)
        with named_by(file, option, places):
            for place in there if len(there) > 1 or guessed else ():
                session = load(place)
                if session.loaded.weights_sha256 == file.model["weights_sha256"]:
                    return session
                del session  # one model in memory at a time
            if guessed:
                raise ModelNotFound(
                    f"model '{name}' does not exist here, and the one beside the circuit, "
                    f"'{there[0]}', is another: its weights have another hash than the file states."
                )
            return load(name)

    session = load_stored() if reference is None else load(reference)
    if unequal := "; ".join(graph.differences(session.graph)):
        said = (
            f"the circuit was found in '{file.model['name']}' and cannot be run in "
            f"'{session.loaded.name}': their graphs differ in {unequal} (circuit and model). "
            "Accepted: a model of the circuit's shape."
        )
        raise GraphMismatch(said if refusal is None else refusal(session.loaded.name, unequal))
    return session


def weights_notes(file: CircuitFile, session: Session, *, same_model: bool) -> list[str]:
    """Say in what the model is not the one the circuit was found in."""
    stored, found, name = file.model["weights_sha256"], session.loaded, session.loaded.name
    if stored is None or stored == found.weights_sha256:
        return []
    source, dtype = f"the circuit was found in '{file.model['name']}'", file.discovery.get("dtype")
    if not same_model:
        return [f"{source} and is measured in '{name}', whose weights differ."]
    if dtype not in (None, found.dtype):
        return [f"the circuit was found in {dtype} and is measured in {found.dtype}."]
    changed = f"the weights of '{name}' are not those the circuit was found in"
    return [
        f"{changed}: the model has changed since, or the hash in the circuit's file has "
        f"(model.weights_sha256 is {stored:.12}…, the model's {found.weights_sha256:.12}…). What "
        "is measured here need not hold there."
    ]


# -- the prompt pairs ----------------------------------------------------------------------------


@typed
def stored_pairs(file: CircuitFile, vocab_size: int | None = None) -> PromptPairs | None:
    """Return the prompt pairs that a circuit's file holds, None if it is older and holds none.

    Raises:
        FileFormatError: they are not those the circuit was found on, or cannot be read.
        PromptError: they hold ids that a vocabulary of this size has not.
    """
    return _inline(file, PROMPTS, "the circuit was found on", file.task["sha256"], vocab_size)


def stored_test_pairs(file: CircuitFile, vocab_size: int | None = None) -> PromptPairs | None:
    """Return the held-out pairs that a circuit's file holds, None if it holds none.

    Raises:
        FileFormatError, PromptError: as `stored_pairs`.
    """
    block = file.task.get("test")
    if block is None:
        return None
    found = _inline(file, TEST_PROMPTS, "that were held out", block["sha256"], vocab_size)
    if found is None:
        return None
    tokens = {k: v for k, v in found.origin.items() if k != "tokens_sha256"}
    tokens |= {k: v for k, v in block.items() if k == "tokens_sha256"}
    made = found.seed if "file" in file.task else block.get("seed")  # a file's are only drawn by it
    return replace(found, seed=made, origin=tokens)


def _inline(
    file: CircuitFile, key: str, which: str, sha256: str | None, vocab_size: int | None
) -> PromptPairs | None:
    """Return the prompt pairs under a key of a circuit's file, if their hash is as stated."""
    if key not in file.extra:
        return None
    where = f"the prompt pairs in {file.path or 'the circuit'}"
    try:
        pairs = pairs_from_rows(cast("list[object]", file.extra[key]), vocab_size)
        pairs = pairs.at_spans(file.circuit.graph.spans)
    except PromptError as error:
        raise PromptError(f"{where}, {error}") from None
    if pairs.sha256 != sha256:
        raise FileFormatError(
            f"{where} are not those {which} (their hash differs): the file was altered. Restore "
            "it, or give the prompts with `task`."
        )
    task, said = file.at(None).task, ("name", "sha256", "examples", "seed", "bos_prepended")
    about = (*said, "test", "nothing_held_out")
    origin = {key: value for key, value in task.items() if key not in about}
    bos = task.get("bos_prepended")
    return replace(pairs, name=task["name"], seed=task["seed"], bos_prepended=bos, origin=origin)


@typed
def stored_task(file: CircuitFile) -> dict[str, Any]:
    """Return the arguments of `open_task` that make a circuit's prompt pairs again."""
    task = TaskSpec.of_circuit(file)
    again: dict[str, Any] = {"task": task.reference, "bos": task.bos, "examples": task.examples}
    again |= {**task.taken, **({"spans": True} if task.spans else {})}
    if task.file is not None:
        again |= {"test": task.test} if task.test else {}
        return again if task.seed is None else {**again, "seed": task.seed}
    return {**again, "seed": task.seed, "options": task.options}


@typed
def circuit_pairs(
    file: CircuitFile, model: Session | str, changed: Mapping[str, Any] | None = None
) -> tuple[PromptPairs, list[str]]:
    """Return a circuit's prompt pairs for a model, and notes if they are not what they were.

    The pairs that the file holds are taken as they are. The task is made again if it holds none,
    if the model's tokenizer reads them otherwise, or if something is to be `changed`: more
    `examples`, `seed`, `bos`, `answers`. Of a reference to a model the tokenizer alone is read.

    Raises:
        PromptError, UnknownName: the task cannot be made again; says that the file named it.
        FileFormatError: see `stored_pairs`.
    """
    changed = changed or {}
    tokenizer, vocabulary = open_vocabulary(model)
    kept = stored_pairs(file, vocabulary)
    first = changed.get("examples", file.task["examples"])
    if (
        kept is not None
        and set(changed) <= {"examples"}
        and (first is not None and first <= len(kept))  # None: all of the task's file
        and reads_alike(tokenizer, kept)
    ):
        return replace(kept, pairs=kept.pairs[:first]), []
    name, task = file.task.get("file"), TaskSpec.of_circuit(file)
    places = [] if name is None else possible_places(name, file.task.get("paths"), file.path)
    with named_by(file, "`task`", places):
        pairs = open_task(model, task, **changed)[0]
        if name is not None and "paths" not in file.task and task.file != name:  # a guess
            whole = open_task(model, task)[0] if changed else pairs
            if whole.sha256 != file.task["sha256"]:
                raise PromptError(
                    f"the task's file '{name}' does not exist here, and the one beside the "
                    f"circuit, '{task.file}', holds other prompt pairs: their hash is not the one "
                    "the circuit's file states."
                )
    if changed or pairs.sha256 == file.task["sha256"]:
        return pairs, []
    why = "the task's file, words or tokenizer have changed"
    if kept is not None:
        called = model if isinstance(model, str) else model.loaded.name
        why = f"the tokenizer of '{called}' reads their token ids otherwise"
    return pairs, [
        f"the prompt pairs made anew for task '{pairs.name}' are not those the circuit was found "
        f"on (their hash differs): {why}."
    ]


@typed
def circuit_split(
    file: CircuitFile, model: Session | str, changed: Mapping[str, Any] | None = None
) -> tuple[PromptSplit, list[str]]:
    """Return a circuit's prompt pairs and those held out beside them, for a model, with notes.

    Pairs of which anything but `test` is `changed` are others, beside which nothing is held out.
    With `test` so many are held out: those of the file, or made anew, or of the task's file those
    that the circuit was not found on; 0 for none.

    Raises:
        PromptError, UnknownName, FileFormatError: as `circuit_pairs`.
    """
    changed = dict(changed or {})
    wanted = changed.pop("test", None)
    pairs, notes = circuit_pairs(file, model, changed)
    block = file.task.get("test")
    if changed or wanted == 0 or (block is None and wanted is None):
        return PromptSplit(pairs), notes
    tokenizer, vocabulary = open_vocabulary(model)
    kept, words = stored_test_pairs(file, vocabulary), "" if block is None else block.get("words")
    number = wanted or (0 if block is None else block["examples"])
    if kept is not None and number <= len(kept) and reads_alike(tokenizer, kept):
        return PromptSplit(pairs, replace(kept, pairs=kept.pairs[:number]), words or ""), notes
    task = TaskSpec.of_circuit(file)
    with named_by(file, "`task`", []):
        made = open_split(model, task if wanted is None else task.but(test=wanted))
    seen = set(seen_in(made.test or (), pairs))
    left = tuple(pair for i, pair in enumerate(made.test or ()) if i not in seen)
    if made.test is None or not left:
        return PromptSplit(pairs), [*notes, "no pairs are there to hold out beside the circuit's."]
    test = replace(made.test, pairs=left)
    if wanted is None and block is not None and test.sha256 != block["sha256"]:
        notes.append(
            f"the held-out pairs made anew for task '{test.name}' are not those of the circuit's "
            "file (their hash differs)."
        )
    return PromptSplit(pairs, test, made.words), notes


def experiment_split(experiment: Experiment, model: Session | str) -> PromptSplit:
    """Return the prompt pairs that a model gets: those of the experiment's circuit, or the task's.

    A circuit's pairs count unless more is changed than `circuit_pairs` can change; a warning says
    if they are not what they were.
    """
    file, task = experiment.circuit, experiment.task
    if file is None:
        return open_split(model, task)
    before = vars(TaskSpec.of_circuit(file))
    changed = {key: value for key, value in vars(task).items() if value != before[key]}
    if set(changed) - {"examples", "test", "seed", "bos", *TAKEN}:
        return open_split(model, task)
    first = {key: value for key, value in changed.items() if key != "test"}
    if first:  # others than the circuit's, beside which others are held out
        pairs, notes = circuit_pairs(file, model, first)
        split = beside(pairs, model, task)
    else:
        split, notes = circuit_split(file, model, changed)
    for words in notes:
        warnings.warn(words, stacklevel=1)  # this module, so that the command line shows it
    return split


def beside(pairs: PromptPairs, model: Session | str, task: TaskSpec) -> PromptSplit:
    """Hold out pairs of a task beside given ones of it, if it can be made again."""
    if task.test == 0:
        return PromptSplit(pairs)
    try:
        made = open_split(model, task)
    except (PromptError, UnknownName):
        return PromptSplit(pairs, words="nothing is held out: the task cannot be made again")
    seen = set(seen_in(made.test or (), pairs))
    left = tuple(pair for i, pair in enumerate(made.test or ()) if i not in seen)
    if made.test is None or not left:
        return PromptSplit(pairs, words=made.words)
    return replace(made, discovery=pairs, test=replace(made.test, pairs=left))


def experiment_pairs(experiment: Experiment, model: Session | str) -> tuple[PromptPairs, object]:
    """Return the pairs of `experiment_split` that circuits are found on, and what it left out."""
    split = experiment_split(experiment, model)
    return split.discovery, split.report


def reads_alike(tokenizer: Any, pairs: PromptPairs) -> bool:
    """Tell whether the ids of pairs are the same text to a tokenizer as where they were made."""
    made = pairs.origin.get("tokens_sha256")
    return made is None or tokenizer is None or made == tokens_sha256(tokenizer, pairs)
