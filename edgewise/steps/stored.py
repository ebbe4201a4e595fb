"""Find again what a circuit file names: its model, wherever it is now, and its prompt pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from ..experiment.spec import ModelSpec
from ..experiment.task import TaskSpec
from ..graphs.errors import FileFormatError, ModelNotFound, PromptError, UnknownName
from ..graphs.files.places import possible_places
from ..graphs.files.reading import is_there
from ..session import Session, open_task

if TYPE_CHECKING:
    from ..graphs.files import CircuitFile
    from ..patching.prompts.pairs import PromptPairs


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


def stored_model(file: CircuitFile) -> str:
    """Return the reference that loads the model a circuit was found in.

    Raises:
        EdgewiseError: the file does not say.
    """
    return ModelSpec.of_circuit(file).source


def open_stored(
    file: CircuitFile, load: Callable[[str], Session], option: str = "--model"
) -> Session:
    """Open the model a circuit was found in; of several that are there, the one of its weights."""
    reference, places = stored_model(file), []
    if "paths" in file.model:
        places = possible_places(file.model["name"], file.model["paths"], file.path)
    there = [place for place in places if is_there(place)]
    with named_by(file, option, places):
        for place in there if len(there) > 1 else ():
            session = load(place)
            if session.loaded.weights_sha256 == file.model["weights_sha256"]:
                return session
            del session  # one model in memory at a time
        return load(reference)


# -- the prompt pairs ----------------------------------------------------------------------------


def stored_pairs(file: CircuitFile, vocab_size: int | None = None) -> PromptPairs | None:
    """Return the prompt pairs that a circuit's file holds, None if it is older and holds none.

    Raises:
        FileFormatError: they are not those the circuit was found on, or cannot be read.
        PromptError: they hold ids that a vocabulary of this size has not.
    """
    from ..graphs.files.circuit import PROMPTS
    from ..patching.prompts.pair_files import pairs_from_rows

    if PROMPTS not in file.extra:
        return None
    where = f"the prompt pairs in {file.path or 'the circuit'}"
    try:
        pairs = pairs_from_rows(cast("list[object]", file.extra[PROMPTS]), vocab_size)
    except PromptError as error:
        raise PromptError(f"{where}, {error}") from None
    if pairs.sha256 != file.task["sha256"]:
        raise FileFormatError(
            f"{where} are not those the circuit was found on (their hash differs): the file was "
            "altered. Restore it, or give the prompts with --task."
        )
    task, said = file.task, ("name", "sha256", "examples", "seed", "bos_prepended")
    return replace(
        pairs,
        name=task["name"],
        seed=task["seed"],
        bos_prepended=task.get("bos_prepended"),
        origin={key: value for key, value in task.items() if key not in said},
    )


def stored_task(file: CircuitFile) -> dict[str, Any]:
    """Return the arguments of `open_task` that make a circuit's prompt pairs again.

    Raises:
        EdgewiseError: the file does not say.
    """
    task = TaskSpec.of_circuit(file)
    again = {"task": task.reference, "bos": task.bos, "examples": task.examples}
    return again if task.file else {**again, "seed": task.seed, "options": task.options}


def circuit_pairs(
    file: CircuitFile, session: Session, changed: Mapping[str, Any] | None = None
) -> tuple[PromptPairs, list[str]]:
    """Return a circuit's prompt pairs for a model, and notes if they are not what they were.

    The pairs that the file holds are taken as they are. The task is made again if it holds none,
    if the model's tokenizer reads them otherwise, or if something is to be `changed`: more
    `examples`, `seed`, `bos`.

    Raises:
        PromptError, UnknownName: the task cannot be made again; says that the file named it.
        FileFormatError: see `stored_pairs`.
    """
    changed = changed or {}
    kept = stored_pairs(file, session.lifted.tokens.shape[0])
    first = changed.get("examples", file.task["examples"])
    if (
        kept is not None
        and set(changed) <= {"examples"}
        and (first is not None and first <= len(kept))  # None: all of the task's file
        and reads_alike(session, kept)
    ):
        return replace(kept, pairs=kept.pairs[:first]), []
    name = file.task.get("file")
    places = [] if name is None else possible_places(name, file.task.get("paths"), file.path)
    with named_by(file, "--task", places):
        pairs = open_task(session, TaskSpec.of_circuit(file), **changed)[0]
    if changed or pairs.sha256 == file.task["sha256"]:
        return pairs, []
    why = "the task's file, words or tokenizer have changed"
    if kept is not None:
        why = f"the tokenizer of '{session.loaded.name}' reads their token ids otherwise"
    return pairs, [
        f"the prompt pairs made anew for task '{pairs.name}' are not those the circuit was found "
        f"on (their hash differs): {why}."
    ]


def made_again(file: CircuitFile, session: Session) -> PromptPairs | None:
    """Make a circuit's task with a model's own tokenizer; None if the task's file is gone."""
    task = TaskSpec.of_circuit(file)
    gone = task.file is not None and not is_there(task.file)
    return None if gone else open_task(session, task)[0]


def reads_alike(session: Session, pairs: PromptPairs) -> bool:
    """Tell whether the ids of pairs are the same text to a model as where they were made."""
    from ..patching.prompts.tokens import tokens_sha256

    made, tokenizer = pairs.origin.get("tokens_sha256"), session.loaded.tokenizer
    return made is None or tokenizer is None or made == tokens_sha256(tokenizer, pairs)
