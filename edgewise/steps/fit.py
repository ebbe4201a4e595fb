"""Do circuits, models and prompts fit together: equal graphs, weights, and prompts for the task?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..experiment.spec import ComputeSpec, GraphSpec
from ..graphs.diff import shape_differences
from ..graphs.errors import GraphMismatch, PromptError
from ..progress import Progress
from ..session import Session, open_model, open_task
from .stored import open_stored

if TYPE_CHECKING:
    from ..experiment.task import TaskSpec
    from ..graphs.files import CircuitFile
    from ..graphs.graph import ComputationGraph
    from ..patching.prompts.pairs import Pair, PromptPairs
    from ..patching.tasks import TaskReport


def open_for(
    file: CircuitFile,
    reference: str | None = None,
    compute: ComputeSpec | None = None,
    *,
    option: str = "--model",
    refusal: Callable[[str, str], str] | None = None,
    progress: Progress | None = None,
) -> Session:
    """Open a model to run a file's circuit in, with the circuit's graph options.

    Model and precision default to those the circuit was found in. For messages: `option` gives
    another model; `refusal` says that a model, of this name, is of another shape, and in what.

    Raises:
        ModelNotFound: there is no such model.
        GraphMismatch: the model is not of the circuit's shape.
    """
    graph = file.circuit.graph

    def load(name: str) -> Session:
        asked = compute or ComputeSpec.of_circuit(file)
        return open_model(name, GraphSpec.of_graph(graph), asked, progress=progress)

    session = open_stored(file, load, option) if reference is None else load(reference)
    unequal = "; ".join(graph.differences(session.graph))
    if unequal and refusal is not None:
        raise GraphMismatch(refusal(session.loaded.name, unequal))
    if unequal:
        raise GraphMismatch(
            f"the circuit was found in '{file.model['name']}' and cannot be run in "
            f"'{session.loaded.name}': their graphs differ in {unequal} (circuit and model). "
            "Accepted: a model of the circuit's shape."
        )
    return session


def weights_notes(file: CircuitFile, session: Session, *, same_model: bool) -> list[str]:
    """Say in what the model is not the one the circuit was found in."""
    stored, found = file.model["weights_sha256"], session.loaded.weights_sha256
    if stored is None or stored == found:
        return []
    dtypes = file.discovery.get("dtype"), session.loaded.dtype
    if same_model and dtypes[0] not in (None, dtypes[1]):
        return [f"the circuit was found in {dtypes[0]} and is measured in {dtypes[1]}."]
    if same_model:
        return [
            f"the weights of '{session.loaded.name}' are not those the circuit was found in: the "
            "model has changed since."
        ]
    return [
        f"the circuit was found in '{file.model['name']}' and is measured in "
        f"'{session.loaded.name}', whose weights differ."
    ]


def same_shape(
    a: ComputationGraph,
    b: ComputationGraph,
    widths: tuple[object, object],
    refusal: Callable[[str], str],
) -> None:
    """Refuse two models of unlike shape; `refusal` says so, given in what they differ."""
    differences = shape_differences(a, b, widths)
    if differences:
        raise GraphMismatch(refusal("; ".join(differences)))


def same_prompts(
    expected: PromptPairs,
    own: Callable[[], tuple[PromptPairs, TaskReport | None]],
    refusal: Callable[[str], str],
) -> None:
    """Refuse a model that reads a task otherwise; `refusal` says so, given the first difference.

    `expected` are the prompt pairs every model gets; `own` makes them as this model reads them.
    """
    try:
        found, _ = own()
    except PromptError as error:
        raise PromptError(refusal(str(error).rstrip("."))) from error
    difference = first_difference(expected.pairs, found.pairs)
    if difference:
        raise PromptError(refusal(difference))


def check_variant(
    names: tuple[str, str], base: CircuitFile, session: Session, pairs: PromptPairs, task: TaskSpec
) -> None:
    """Refuse a variant whose circuit could not be compared with the first model's, `base`.

    `names`: of the two models. `pairs`: those every model gets, made from the task.

    Raises:
        GraphMismatch: its graph is not the first model's.
        PromptError: its tokenizer makes other prompts.
    """
    where = f"model '{names[1]}' cannot be compared with '{names[0]}'"
    widths = (base.model["d_model"], session.lifted.d_model)
    same_shape(
        base.circuit.graph,
        session.graph,
        widths,
        lambda found: (
            f"{where}: their graphs differ in {found} ({names[0]} and {names[1]}). Variants must "
            "have the first model's shape; give this one a spec of its own, and compare what the "
            "heads of two circuits do with `edgewise roles`."
        ),
    )
    if session.loaded.tokenizer is not None:
        same_prompts(
            pairs,
            lambda: open_task(session, task),
            lambda found: (
                f"{where}: their tokenizers map the task's prompts differently: {found}. Circuits "
                "are compared on equal prompts only; give the pairs as token ids that both "
                "understand, or leave the model out."
            ),
        )


def first_difference(expected: Sequence[Pair], found: Sequence[Pair]) -> str | None:
    """Say where two lists of pairs differ first, None if they are equal."""
    for number, (a, b) in enumerate(zip(expected, found, strict=False), start=1):
        if a.answer_position != b.answer_position and len(a.clean) == len(b.clean):
            places = f"{a.answer_position} and {b.answer_position}"
            return f"the answer of pair {number} stands at position {places}"
        for what in ("clean", "corrupted", "answers", "distractors"):
            one, other = getattr(a, what), getattr(b, what)
            if len(one) != len(other):
                return f"{what} of pair {number} has {len(one)} and {len(other)} tokens"
            for at, (x, y) in enumerate(zip(one, other, strict=True), start=1):
                if x != y:
                    return f"{what} of pair {number} has token {x} and {y} at place {at}"
    if len(expected) != len(found):
        return f"there are {len(expected)} and {len(found)} pairs"
    return None


def sample(session: Session, pair: Pair) -> dict[str, str | list[str]]:
    """Return one pair as people read it; ids where there is no tokenizer."""
    tokenizer = session.loaded.tokenizer

    def text(ids: Sequence[int]) -> str:
        return " ".join(map(str, ids)) if tokenizer is None else str(tokenizer.decode(list(ids)))

    return {
        "clean": text(pair.clean),
        "corrupted": text(pair.corrupted),
        "answers": [text([token]) for token in pair.answers],
        "distractors": [text([token]) for token in pair.distractors],
    }
