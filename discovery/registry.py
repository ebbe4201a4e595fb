"""The registry of discovery methods: names, options with their types, and one way to call them."""

from __future__ import annotations

import builtins
import inspect
import math
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal, get_args, get_type_hints

from typing_extensions import Required, TypedDict, Unpack

from ..graphs.calls.typed import typed
from ..graphs.errors import EdgewiseError, unknown
from ..graphs.levels.nodes import EDGE, LEVELS, NODE
from ..patching.registries import look_up, registered

if TYPE_CHECKING:
    from ..graphs.circuit import Circuit
    from ..graphs.example_scores import ExampleScores
    from ..graphs.scores import Scores
    from ..patching.ablations.registry import Ablation
    from ..patching.metrics.metric import Metric
    from ..patching.run.runner import Progress, Runner
    from .journal import Journal


@typed
@dataclass(frozen=True)
class Option:
    """An option of a method: what it means, and which values it takes.

    It stands in the annotation of the method's parameter, `Annotated[float, Option("…")] = 0.02`,
    from which `type` and `default` are read too. `only_time`: it changes nothing that is found.
    `engines`: what can compute with another value than the default; empty: all that can the method.
    `quiet`: where it is the default, reports do not mention it.
    """

    help: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    only_time: bool = False
    engines: tuple[str, ...] = ()
    quiet: bool = False
    type: builtins.type = str
    default: bool | int | float | str = ""


@typed
@dataclass(frozen=True)
class Page:
    """What a user should know of a method: how it goes, from where, at what cost, what it is for.

    `steps`: what it does, in order; formulas in the letters of docs/reference/definitions.md.
    `paper`: authors, year and title, and what is taken from where else. `cost`: in forward passes
    of the model on the same prompts. `when`: when to take it, and when not.
    """

    steps: tuple[str, ...]
    paper: str
    cost: str
    when: str


class Options:
    """Mark a parameter, `Annotated[Which, Options()] = Which()`, as options that methods share.

    `Which` is a frozen dataclass whose fields are annotated with an `Option` each; it refuses, when
    it is built, values that contradict each other.
    """


@typed
@dataclass(frozen=True)
class Discovery:
    """What a method found: scores of every edge, or of each that a search measured.

    `circuit`: if the method selects one itself. `questions`: how many candidate ablations were
    evaluated; `order`: in which order edges were decided, for searches. `notes`: what else a file
    says: of searches `loss_search`, the circuit's loss as the search has it, and
    `vocabulary_products`, the questions that took all logits. `doubt`: why it cannot mean anything.
    `examples`: the scores on each example, if they were asked for.
    """

    scores: Scores
    circuit: Circuit | None = None
    questions: int = 0
    order: str | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)
    doubt: str | None = None
    examples: ExampleScores | None = None

    def at_nodes(self) -> Discovery:
        """Return what was found of nodes: of each the sum of its edges' scores."""
        examples = None if self.examples is None else self.examples.at_nodes()
        return replace(self, scores=self.scores.at_nodes(), examples=examples)


@typed
@dataclass(frozen=True)
class Method:
    """A registered method.

    `page`: what a user should know of it, for the documents. `function` takes a runner, `progress`,
    and the options as keywords; one that takes `journal` can be stopped and resumed, one that takes
    `start` can start from given scores, one that takes `per_example` can give the scores on each
    example. `selects`: it returns a circuit; otherwise scores to choose from. `gradient`: where it
    takes the metric's gradient: `clean` (only there), `path`, or empty. `scores_for_searches`: its
    scores stand in where a search gives none to all edges. `chosen_by`: the option of commands for
    a file of the edges it is to be about alone, which it takes as `start`. `unpaired`: options that
    suit ablations whose values are not those of a corrupted prompt. `engines`: what it can compute
    with. `spans`: it can tell spans of positions apart. `additive`: its scores are linear in what a
    sender writes, so that a node's is the sum of its edges'. `nodes_only`: it scores nothing but
    nodes. `level`: what it is to score, see `at`. `rival`: finds another circuit, of a runner,
    options, and by how much more each edge must
    matter, [ports, senders].
    """

    name: str
    function: Callable[..., Discovery]
    summary: str
    selects: bool
    page: Page | None = None
    gradient: str = ""
    scores_for_searches: bool = False
    chosen_by: str = ""
    unpaired: Mapping[str, object] = field(default_factory=dict)
    engines: tuple[str, ...] = ("torch",)
    spans: bool = False
    additive: bool = False
    nodes_only: bool = False
    level: str = EDGE
    rival: Callable[..., Discovery] | None = None

    @cached_property
    def options(self) -> dict[str, Option]:
        """Read what the function's parameters annotated with an `Option` accept, and defaults.

        Those that it shares with others stand behind its own.
        """
        found = {
            key: replace(option, type=kind, default=self._parameters[key].default)
            for key, (kind, option) in self._annotated("Option(").items()
        }
        for which in self._shared.values():
            hints = get_type_hints(which, include_extras=True)
            for one in fields(which):
                kind, option = get_args(hints[one.name])
                found[one.name] = replace(option, type=kind, default=one.default)
        return found

    @cached_property
    def _shared(self) -> dict[str, builtins.type]:
        """Map the parameters that hold options which methods share to their types."""
        return {key: kind for key, (kind, _) in self._annotated("Options(").items()}

    def _annotated(self, mark: str) -> dict[str, tuple[Any, Any]]:
        """Return type and mark of the function's parameters that are annotated with a mark."""
        wanted = {key: p.annotation for key, p in self._parameters.items()}
        wanted = {key: text for key, text in wanted.items() if mark in str(text)}
        # apart, because other names may be there for type checks only
        carrier = SimpleNamespace(__annotations__=wanted)
        names = vars(sys.modules[self.function.__module__])
        hints = get_type_hints(carrier, names, include_extras=True)
        return {key: get_args(hint) for key, hint in hints.items()}

    def _given(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return checked options as the function takes them: shared ones as one value."""
        found = dict(options)
        for key, which in self._shared.items():
            found[key] = which(**{one.name: found.pop(one.name) for one in fields(which)})
        return found

    @cached_property
    def _parameters(self) -> Mapping[str, inspect.Parameter]:
        return inspect.signature(self.function).parameters

    @property
    def resumable(self) -> bool:
        """Tell whether it keeps a journal, from which it goes on after it was stopped."""
        return "journal" in self._parameters

    @property
    def starts(self) -> bool:
        """Tell whether it can start from given scores."""
        return "start" in self._parameters

    @property
    def by_example(self) -> bool:
        """Tell whether it can give the scores on each example too."""
        return "per_example" in self._parameters

    @property
    def levels(self) -> tuple[str, ...]:
        """List what it can score: edges, and nodes if it takes `level` or its scores add up."""
        if self.nodes_only:
            return (NODE,)
        return tuple(LEVELS) if self.additive or "level" in self._parameters else (EDGE,)

    @typed
    def at(self, level: str) -> Method:
        """Return the method that scores edges, or nodes; refuse a level that it does not know."""
        if level not in LEVELS:
            raise unknown("level", level, LEVELS)
        if level not in self.levels:
            raise EdgewiseError(
                f"method '{self.name}' does not work at level {level}; accepted: level "
                f"{' or '.join(self.levels)}, or a method that does: {_able_at(level)}."
            )
        return replace(self, level=level)

    @property
    def default_metric(self) -> str:
        """Name what it measures unless annotated otherwise."""
        from ..patching.metrics.registry import default_metric

        return default_metric(searching=self.selects)

    @typed
    def engine(self, runner: Runner, options: Mapping[str, Any] | None = None) -> str:
        """Return the engine that it computes with; refuse one, asked for by name, that cannot."""
        from ..patching.engines import AUTO, TORCH, engine_of

        if len(self.engines) > 1:
            for key, option in self.options.items():
                value = (options or {}).get(key, option.default)
                if option.engines and value != option.default:
                    if runner.engine not in (AUTO, *option.engines):
                        raise EdgewiseError(
                            f"engine '{runner.engine}' does not compute method '{self.name}' with "
                            f"{key} {_said(value)}; accepted: engine '{TORCH}' or '{AUTO}', or "
                            f"{key} {_said(option.default)}."
                        )
                    return option.engines[0]
            return engine_of(runner.engine, runner.model, runner.metric)
        if runner.engine not in (AUTO, TORCH):
            able = [name for name, one in methods().items() if runner.engine in one.engines]
            raise EdgewiseError(
                f"method '{self.name}' does not run on engine '{runner.engine}'; accepted: engine "
                f"'{TORCH}' or '{AUTO}', or a method that does: {', '.join(able)}."
            )
        return TORCH

    @typed
    def suited(self, ablation: Ablation) -> dict[str, object]:
        """Return the options that suit an ablation."""
        return {} if ablation.paired else dict(self.unpaired)

    @typed
    def check_metric(self, metric: Metric) -> None:
        """Refuse a metric whose gradient the method needs and that has none."""
        if self.gradient:
            clean, instead = self.gradient == "clean", scoring_method().name
            metric.require_gradient(at_clean_only=clean, instead=instead)

    @typed
    def check(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return options with defaults filled in, types and ranges checked."""
        given = {key: self.check_option(key, value) for key, value in options.items()}
        found = {key: given.get(key, option.default) for key, option in self.options.items()}
        self._given(found)
        return found

    @typed
    def check_option(self, key: str, value: Any) -> Any:
        """Return the value of one option, type and range checked."""
        option = look_up(f"option of method '{self.name}'", key, self.options)
        return _checked(self.name, key, option, value)

    def check_start(self) -> None:
        """Refuse scores to start from unless the method can use them."""
        if not self.starts:
            raise EdgewiseError(
                f"method '{self.name}' cannot start from scores; accepted: no scores, or a method "
                f"that can ({_able('starts')})."
            )

    def check_by_example(self) -> None:
        """Refuse to give scores on each example if the method cannot."""
        if not self.by_example:
            raise EdgewiseError(
                f"method '{self.name}' gives no scores on each example; accepted: "
                f"{_able('by_example')}."
            )

    def check_resumable(self) -> None:
        """Refuse to go on where a run was stopped if the method cannot."""
        if not self.resumable:
            raise EdgewiseError(
                f"method '{self.name}' keeps no journal, so it cannot be resumed; accepted: "
                f"{_able('resumable')}. Start it anew."
            )

    @typed
    def __call__(
        self,
        runner: Runner,
        progress: Progress | None = None,
        journal: Journal | None = None,
        start: Scores | None = None,
        per_example: bool = False,
        **options: Any,
    ) -> Discovery:
        """Run the method; `start`: scores to start from. Warns where the result means nothing."""
        from .meaning import Meaningless, doubt

        if not self.spans:
            runner.require_plain(f"method '{self.name}'")
        # by one engine alone, so that what is asked of the runner later is too
        runner = replace(runner, engine=self.engine(runner, options))
        if journal is not None:
            self.check_resumable()
        if start is not None:
            self.check_start()
        if per_example:
            self.check_by_example()
        of = EDGE if self.level == EDGE else NODE  # neurons are nodes of the runner's graph
        level = of if "level" in self._parameters else None
        given: dict[str, Any] = {"journal": journal, "start": start, "level": level}
        given["per_example"] = per_example or None
        given = {key: value for key, value in given.items() if value is not None}
        given |= self._given(self.check(options))
        found = self.function(runner, progress=progress, **given)
        if of == NODE and found.scores.level == EDGE:
            found = found.at_nodes()
        found = replace(found, doubt=doubt(runner, found.scores, searched=self.selects))
        if found.doubt:
            warnings.warn(f"method '{self.name}': {found.doubt}", Meaningless, stacklevel=2)
        return found


METHODS: dict[str, Method] = {}


class MethodProperties(TypedDict, total=False):
    """What else than its name and its function a method has; see `Method`."""

    summary: Required[str]
    selects: Required[bool]
    page: Page
    gradient: Literal["clean", "path"]
    scores_for_searches: bool
    chosen_by: str
    unpaired: Mapping[str, object]
    engines: tuple[str, ...]
    spans: bool
    additive: bool
    nodes_only: bool
    rival: Callable[..., Discovery]


@typed
def method(
    name: str, **properties: Unpack[MethodProperties]
) -> Callable[[Callable[..., Discovery]], Callable[..., Discovery]]:
    """Register a discovery method by name."""

    @typed
    def register(function: Callable[..., Discovery]) -> Callable[..., Discovery]:
        METHODS[name] = Method(name, function, **properties)
        return function

    return register


def methods() -> dict[str, Method]:
    """Map the names of all methods to them."""
    return registered(METHODS, __package__)


@typed
def get_method(name: str) -> Method:
    """Look a method up; `UnknownName` if there is none."""
    return look_up("method", name, methods())


def scoring_method() -> Method:
    """Return the method whose scores stand in where a search gives none to all edges."""
    return next(one for one in methods().values() if one.scores_for_searches)


def metric_defaults() -> str:
    """Say which metric is the default of which methods."""
    searches = [one for one in methods().values() if one.selects]
    names = " and ".join(one.name for one in searches)
    scores = scoring_method().default_metric
    return f"{searches[0].default_metric} for {names}, {scores} for scoring methods"


def _said(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _able(can: str) -> str:
    return ", ".join(name for name, one in methods().items() if getattr(one, can))


def _able_at(level: str) -> str:
    return ", ".join(name for name, one in methods().items() if level in one.levels)


def _checked(method_name: str, key: str, option: Option, value: Any) -> Any:
    if option.type is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    right = isinstance(value, option.type) and (option.type is bool or not isinstance(value, bool))
    where, accepted = f"option '{key}' of method '{method_name}'", ""
    if not right:
        kinds = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
        accepted, value = kinds[option.type], repr(value)
    elif option.choices and value not in option.choices:
        raise unknown(where, value, option.choices)
    elif option.type is float and not math.isfinite(value):
        accepted = "a finite number"
    elif option.minimum is not None and value < option.minimum:
        accepted = f"at least {option.minimum:g}"
    elif option.maximum is not None and value > option.maximum:
        accepted = f"at most {option.maximum:g}"
    if accepted:
        raise EdgewiseError(f"{where} is {value}; accepted: {accepted}.")
    return value
