"""Metrics given from Python: any function of logits and a target.

    def margin(logits, target):
        "Answer's logit minus the largest other one."
        answer = target.answers[:, :1]
        others = logits.scatter(1, answer, -torch.inf)
        return logits.gather(1, answer)[:, 0] - others.amax(-1)

    discover(session, pairs, method="eap-ig", metric=margin)

`logits`: [B, V], of one run at the answer positions of B examples. `target`: a `Target`, whose ids
are padded with -1 and which has the full model's logits too. It returns [B], a number for each
example by itself; larger is better. `Metric("name", function, larger_is_better=False)`, whose
function takes [..., B, V] and returns [..., B], says that smaller is better.

Answers of several tokens (`answers` whole) are read at R places: `logits` are then [R, V], and
`target.answers` and `target.distractors`, which would be first tokens only, are refused. A function
that uses `target.log_probs(logits)`, which gives the log of the probability of every answer and
distractor of however many tokens, takes both kinds:

    def best(logits, target):
        "The likeliest answer beside the likeliest distractor."
        right, wrong = target.log_probs(logits)
        return right.amax(-1) - wrong.amax(-1)

Others sum over `target.steps.pair`, the pair that each read is of. A Metric has `whole`, a function
of its own for such answers.

It is named after the function. A file holds its name and a hash of its source, not the function, so
whoever measures such a circuit again gives the function again.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from textwrap import dedent
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from ...graphs.calls.typed import typed
from ...graphs.errors import EdgewiseError, PromptError
from .metric import Metric, Target, named
from .registry import get_metric, metrics

if TYPE_CHECKING:
    from torch import Tensor

Given = Callable[["Tensor", Target], "Tensor"]
ACCEPTED = (
    "a metric's name, an expression such as 'logit(answer) - logit(distractor)', a Metric, or a "
    "function of logits and a target"
)
CALL = "it is called with logits [examples, vocabulary] and a Target, and returns [examples]"
WHOLE_CALL = (
    "it is called with logits [reads, vocabulary] and what `target.log_probs(logits)` and "
    "`target.steps` are of, and returns [examples]"
)


class GivenMetric(str):
    """The name of a metric that was given from Python, with the metric itself."""

    metric: Metric
    about: Mapping[str, object]
    own: str

    def counted(self) -> object:
        """Return what of it counts: all that its values depend on, or what equals nothing else."""
        return {"name": str(self), **self.about, "own": None if self.about["sha256"] else self.own}

    @staticmethod
    def of(metric: Metric) -> GivenMetric:
        """Name a metric."""
        found = GivenMetric(metric.name)
        function = metric.given or metric.function
        found.metric, found.own = metric, uuid4().hex
        found.about = {
            "module": getattr(function, "__module__", None),
            "larger_is_better": metric.larger_is_better,
            "sha256": source_sha256(function),
        }
        return found


@typed
def as_metric(given: object) -> Metric:
    """Return the metric that is meant; an EdgewiseError says what is taken."""
    if isinstance(given, GivenMetric):
        return given.metric
    if isinstance(given, str):
        return get_metric(given)
    if isinstance(given, Metric):
        return given
    if not callable(given) or isinstance(given, type):
        raise EdgewiseError(f"the metric is {_shown(given)}; accepted: {ACCEPTED}.")
    name = getattr(given, "__name__", type(given).__name__)
    if name in metrics():
        raise EdgewiseError(
            f"the metric function is called '{name}', as one that is built in, so that files could "
            "not tell the two apart; accepted: a function of another name, or the built-in one's "
            "name as text."
        )
    function = given

    def each(logits: Tensor, target: Target) -> Tensor:
        import torch

        seen = target if target.steps is None else WholeTarget(target)
        if logits.dim() == 2:
            found: Tensor = function(logits, seen)
            return found
        runs = logits.flatten(0, -3)
        values = torch.stack([function(one, seen) for one in runs])
        return values.view(*logits.shape[:-2], -1)

    each.__doc__ = given.__doc__ or f"The Python function {name}."
    return Metric(
        name, each, larger_is_better=True, needs_clean_logits=True, given=given, whole=each
    )


class WholeTarget:
    """What a function is given where answers are of several tokens; see `Target`.

    Their first tokens alone, under logits of several reads, would be silently something else.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self.clean_logits, self.steps = target.clean_logits, target.steps

    @property
    def clean_log_probs(self) -> Tensor:
        """Return the log of the full model's probabilities, [R, V]."""
        return self._target.clean_log_probs

    def log_probs(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log of the probability of each answer and distractor; see `Target`."""
        return self._target.log_probs(logits)

    @property
    def answers(self) -> Tensor:
        """Refuse to give the first tokens for the answers."""
        raise self._refusal("answers")

    @property
    def distractors(self) -> Tensor:
        """Refuse to give the first tokens for the distractors."""
        raise self._refusal("distractors")

    def _refusal(self, what: str) -> PromptError:
        return PromptError(
            f"`target.{what}` are single tokens, and these are of several; accepted with `answers` "
            "whole: `target.log_probs(logits)`, which gives the log of the probability of every "
            "answer and distractor"
        )


def metric_name(given: object) -> str:
    """Return a metric's name, which carries the metric if it was given from Python."""
    if isinstance(given, GivenMetric):
        return given
    metric = as_metric(given)
    return metric.name if metric.known else GivenMetric.of(metric)


def about_metric(name: str) -> dict[str, object]:
    """Return what a file says of a metric that was given from Python; else nothing."""
    return {RECORDED: dict(name.about)} if isinstance(name, GivenMetric) else {}


def is_traceable(name: str) -> bool:
    """Tell whether all that a metric's values depend on is known, so that results can be kept."""
    return not isinstance(name, GivenMetric) or name.about["sha256"] is not None


RECORDED = "metric_function"
"""Under which key of a file's discovery it stands that its metric was a Python function."""


def stored_metric(block: Mapping[str, Any], again: object = None) -> str:
    """Return the metric that a file names, or is given `again`; refuse one that it cannot hold."""
    if again:
        return metric_name(again)
    name = str(block.get("metric") or "")
    if block.get(RECORDED) is not None:
        raise EdgewiseError(
            f"the circuit was found with the metric '{name}', a Python function, which its file "
            "cannot hold; give the function again as `metric`, or another metric, such as "
            f"{named(lambda one: not one.needs_distractors)}."
        )
    return name


# -- the trial ------------------------------------------------------------------------------------


def tried(metric: Metric, logits: Tensor, target: Target) -> Metric:
    """Call a metric given as a function once, and return it with what is known of its gradient.

    `logits`: [B, V], the full model's; of answers of several tokens [R, V]. An EdgewiseError says
    what is wrong with what it returns.
    """
    import torch

    if metric.given is None:
        return metric
    what = f"the metric function {metric.name}"
    leaf = logits.detach().float().requires_grad_()
    with torch.enable_grad():
        value = _called(what, metric, leaf, target)
    examples = len(target.answers)
    if value.shape != (examples,):
        reads, call = "", CALL
        if target.steps is not None:
            reads, call = f" of answers of several tokens, read at {len(leaf)} places", WHOLE_CALL
        raise EdgewiseError(
            f"{what} returns the shape {list(value.shape)} for {examples} examples{reads}; {call}."
        )
    if not value.is_floating_point():
        raise EdgewiseError(f"{what} returns {value.dtype}; accepted: floating point. {_call()}")
    if not bool(value.isfinite().all()):
        raise EdgewiseError(
            f"{what} is not finite for {int((~value.isfinite()).sum())} of {examples} examples of "
            "the full model, so no change of it can be measured; accepted: a function that is "
            "finite on every prompt."
        )
    _refuse_mixed(what, metric, leaf.detach(), target, value.detach())
    slope = _steepest(value, leaf)
    if slope is None:
        return replace(metric, differentiable=False)
    half = (leaf.detach() / 2).requires_grad_()  # of another run, to which this one is compared
    with torch.enable_grad():
        other = _steepest(_called(what, metric, half, target), half) or 0.0
    return replace(metric, flat_at_clean=slope <= FLAT * max(slope, other))


FLAT = 1e-5
"""A gradient that is smaller than so much of another run's is 0, but for rounding."""


def _steepest(value: Tensor, leaf: Tensor) -> float | None:
    """Return the largest slope of values; None if they have no finite gradient."""
    import torch

    if not value.requires_grad:
        return None
    slope: Tensor | None = torch.autograd.grad(value.sum(), leaf, allow_unused=True)[0]
    if slope is None or not bool(slope.isfinite().all()):
        return None
    return float(slope.abs().max())


def _call() -> str:
    return f"{CALL[:1].upper()}{CALL[1:]}."


def _called(what: str, metric: Metric, logits: Tensor, target: Target) -> Tensor:
    import torch

    assert metric.given is not None  # `tried` has looked
    try:
        value: object = metric.function(logits, target)
    except Exception as error:
        raise EdgewiseError(
            f"{what} failed on a trial call ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]}); {CALL}."
        ) from error
    if not isinstance(value, torch.Tensor):
        raise EdgewiseError(f"{what} returns {_shown(value)}, no tensor; {CALL}.")
    return value


def _refuse_mixed(
    what: str, metric: Metric, logits: Tensor, target: Target, values: Tensor
) -> None:
    """Refuse a function whose value of an example depends on the others of its batch."""
    import torch

    if len(target.answers) < 2:
        return
    steps = None if target.steps is None else target.steps.of_first()
    reads = 1 if steps is None else len(steps.pair)
    clean = None if target.clean_logits is None else target.clean_logits[:reads]
    first = Target(target.answers[:1], target.distractors[:1], clean, steps)
    alone = _called(what, metric, logits[:reads], first)
    if not torch.allclose(alone.reshape(-1)[:1], values[:1], rtol=1e-3, atol=1e-4):
        raise EdgewiseError(
            f"{what} gives the first example {float(values[0]):.6g} beside others and "
            f"{float(alone.reshape(-1)[0]):.6g} alone; accepted: a value for each example by "
            "itself, since examples are run in batches of any size."
        )


# -- what a function depends on -------------------------------------------------------------------


LIBRARIES = ("torch", "numpy", "scipy", "transformers", "edgewise")
"""Whose parts are counted by their names: the libraries' versions count elsewhere."""


class _Unknown(Exception):
    """Something a function depends on cannot be written down."""


def source_sha256(function: object) -> str | None:
    """Hash a function's source and the plain values it uses; None if that is not all it uses.

    >>> source_sha256(len) is None
    True
    """
    try:
        parts = _parts(function, [])
    except (_Unknown, OSError, TypeError, ValueError):
        return None
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _parts(function: object, above: list[object]) -> list[object]:
    """List what a function is made of: its source, defaults, and the names that it uses."""
    if not isinstance(function, FunctionType):
        raise _Unknown
    if any(one is function for one in above):
        return ["itself"]
    within = [*above, function]
    closure = inspect.getclosurevars(function)
    used: dict[str, object] = {**closure.nonlocals, **_globals(function)}
    values = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    return [
        dedent(inspect.getsource(function)),
        [_plain(value, within) for value in values],
        [[name, _plain(used[name], within)] for name in sorted(used)],
    ]


def _globals(function: FunctionType) -> dict[str, object]:
    """Return the global values that a function, or a function within it, names."""
    names: set[str] = set()
    codes: list[CodeType] = [function.__code__]
    while codes:
        code = codes.pop()
        names |= set(code.co_names)
        codes += [one for one in code.co_consts if isinstance(one, CodeType)]
    return {name: function.__globals__[name] for name in names & set(function.__globals__)}


def _plain(value: object, above: list[object]) -> object:
    """Return a value as JSON; its name if it is a module, class or function of a library."""
    if value is None or isinstance(value, bool | int | float | str):
        return [type(value).__name__, repr(value)]
    if isinstance(value, list | tuple):
        return [type(value).__name__, [_plain(one, above) for one in value]]
    if isinstance(value, dict):
        return [[_plain(key, above), _plain(one, above)] for key, one in value.items()]
    if not isinstance(value, ModuleType | type | FunctionType | BuiltinFunctionType):
        raise _Unknown
    home = value.__name__ if isinstance(value, ModuleType) else value.__module__
    if str(home).partition(".")[0] in (*sys.stdlib_module_names, *LIBRARIES):
        return ["library", str(home), getattr(value, "__qualname__", "")]
    return _parts(value, above)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"
