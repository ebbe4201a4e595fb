"""The registry of ablations: what value a_u an ablated edge out of a sender u carries.

An ablation is a function in a file beside this one, found by being there. It is given the runner's
reference set, once, and returns what maps the runs of one chunk of pairs to the values of all
senders in it:

    @ablation("zero", summary="nothing: the sender's share of the stream is 0")
    def zero(reference: Reference) -> Carried:
        return lambda runs: runs.clean.values.zeros()

Some take something behind their name, `NAME:SOMETHING`; their name is then all of that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from typing_extensions import Required, TypedDict, Unpack

from ...graphs.calls.typed import typed
from ...graphs.errors import EdgewiseError, PromptError
from ..registries import look_up, registered

if TYPE_CHECKING:
    from ...graphs.lift.lifted import LiftedModel
    from ..prompts.pairs import Batch, PromptPairs
    from ..trace import Trace, Values


class Runs(Protocol):
    """Some pairs as a batch, and their runs, each made when it is first used."""

    @property
    def batch(self) -> Batch:
        """Return the pairs' tokens."""

    @property
    def clean(self) -> Trace:
        """Return the run of the clean prompts."""

    @property
    def corrupted(self) -> Trace:
        """Return the run of the corrupted prompts."""


class Reference(Protocol):
    """All prompts that an ablation may look at: the runner's own pairs unless others are named."""

    @property
    def model(self) -> LiftedModel:
        """Return the model that is run."""

    @property
    def pairs(self) -> PromptPairs:
        """Return the pairs."""

    def chunks(self) -> Iterator[Runs]:
        """Yield the pairs' runs, some pairs at a time."""


Carried = Callable[[Runs], "Values"]  # what every sender's ablated edges carry in some runs


@typed
@dataclass(frozen=True)
class Ablation:
    """A registered ablation.

    `paired`: the values are those of the corrupted run, token by token, so that every pair needs a
    corrupted prompt. `counterfactual`: they are made of corrupted prompts in another way, so that
    every pair needs one too; others need none. `consistent`: a node all of whose inputs are ablated
    writes exactly its own ablation value. `aligned`: all prompts must be of one length. `default`:
    it is used unless told otherwise. `given`: returns the ablation with what stands behind its
    name; `takes`: what that is.
    """

    name: str
    summary: str
    prepare: Callable[[Reference], Carried]
    paired: bool = False
    consistent: bool = False
    aligned: bool = False
    default: bool = False
    counterfactual: bool = False
    takes: str = ""
    given: Callable[[Ablation, str], Ablation] | None = None

    @property
    def needs_corrupted(self) -> bool:
        """Tell whether every pair needs a corrupted prompt."""
        return self.paired or self.counterfactual

    @property
    def form(self) -> str:
        """Write how it is named, as in `NAME[:SOMETHING]`."""
        return f"{self.name}[:{self.takes}]" if self.takes else self.name

    @typed
    def check(self, pairs: PromptPairs, reference: PromptPairs) -> None:
        """Refuse prompts on which the ablation means nothing."""
        alone = [i for i, pair in enumerate(pairs, start=1) if pair.corrupted is None]
        if self.counterfactual and not alone and reference is not pairs:
            alone += [i for i, pair in enumerate(reference, start=1) if pair.corrupted is None]
        if self.needs_corrupted and alone:
            listed = ", ".join(map(str, alone[:5])) + (", …" if len(alone) > 5 else "")
            free = [name for name, one in ablations().items() if not one.needs_corrupted]
            raise PromptError(
                f"{self.name} ablation takes its values from corrupted prompts, and "
                f"{len(alone)} of the {len(pairs)} pairs of '{pairs.name}' have none (pair "
                f"{listed}); accepted: a corrupted prompt in each, the clean one with other words "
                "of as many tokens where the answer is decided, or an `ablation` that needs none: "
                f"{', '.join(free)}."
            )
        if self.needs_corrupted and all(pair.clean == pair.corrupted for pair in pairs):
            raise PromptError(
                f"in every pair of '{pairs.name}' the clean and the corrupted prompt are the same, "
                f"so {self.name} ablation changes nothing; accepted: corrupted prompts that "
                "differ, or another ablation."
            )
        each = (pair for pairs in (pairs, reference) for pair in pairs)
        lengths = sorted({len(ids) for pair in each for ids, _ in pair.runs})
        if self.aligned and len(lengths) > 1:
            raise PromptError(
                f"{self.name} ablation needs prompts that align position by position, but those of "
                f"'{pairs.name}' have {lengths[0]} to {lengths[-1]} tokens; accepted: prompts of "
                "one length (of a built-in task the option length keeps these), or another "
                "ablation."
            )


_ABLATIONS: dict[str, Ablation] = {}


class AblationProperties(TypedDict, total=False):
    """What else than its name and its function an ablation has; see `Ablation`."""

    summary: Required[str]
    paired: bool
    consistent: bool
    aligned: bool
    default: bool
    counterfactual: bool
    takes: str
    given: Callable[[Ablation, str], Ablation]


@typed
def ablation(
    name: str, **properties: Unpack[AblationProperties]
) -> Callable[[Callable[[Reference], Carried]], Ablation]:
    """Register an ablation by name; see `Ablation` for what the properties mean."""

    @typed
    def register(prepare: Callable[[Reference], Carried]) -> Ablation:
        _ABLATIONS[name] = Ablation(name=name, prepare=prepare, **properties)
        return _ABLATIONS[name]

    return register


def ablations() -> dict[str, Ablation]:
    """Map the names of all ablations to them."""
    return registered(_ABLATIONS, __package__)


@typed
def get_ablation(name: str) -> Ablation:
    """Look an ablation up, with what stands behind a colon; `UnknownName` if there is none.

    >>> get_ablation("counterfactual-mean:3").name
    'counterfactual-mean:3'
    """
    bare, colon, argument = name.partition(":")
    found = look_up("ablation", bare, ablations())
    if not colon:
        return found
    if found.given is None:
        able = [one.form for one in ablations().values() if one.takes]
        raise EdgewiseError(
            f"{bare} ablation takes nothing behind its name, and ':{argument}' stands there; "
            f"accepted: {bare}, or one that does: {', '.join(able)}."
        )
    return found.given(found, argument)


def default_ablation() -> str:
    """Name the ablation that is used unless told otherwise."""
    return next(name for name, one in ablations().items() if one.default)
