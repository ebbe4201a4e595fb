"""The parts of an experiment that a command line asks for."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..discovery.registry import get_method, methods, scoring_method
from ..graphs.errors import unknown
from . import show
from .accepted import FILE, usage

if TYPE_CHECKING:
    from ..discovery.registry import Method, Option
    from ..experiment.parts import Part
    from ..experiment.spec import ComputeSpec, DiscoverySpec, Experiment
    from ..experiment.task import TaskSpec
    from ..graphs.files import CircuitFile
    from ..patching.prompts.pairs import PromptPairs
    from ..patching.prompts.splits import PromptSplit
    from ..session import Session

P = TypeVar("P", bound="Part")
Function = TypeVar("Function", bound=Callable[..., Any])

PREFIX = "method_option_"
"""What precedes the name of a method's option among a command's parameters."""

IN_TORCH = ("hypotheses", "knockout", "neurons", "patch", "roles", "tokens", "trace", "transplant")
"""Commands that neither run circuits nor score edges, which is what engines differ in."""


class Flags(dict[str, Any]):
    """What a command line says of an experiment, by the names of its parts' fields.

    What was not given is None here, and is the part's default, or that of a circuit's file.
    """

    def __missing__(self, name: str) -> None:
        return None

    def only(self, *names: str) -> dict[str, Any]:
        """Return what was given under some names."""
        return {name: self[name] for name in names if name in self}

    def over(self, part: P) -> P:
        """Return a part with the fields that were given; what makes no sense is wrong usage."""
        with usage():
            return part.but(**self.only(*part.names()))

    def compute(self, file: CircuitFile | None = None) -> ComputeSpec:
        """Return where and how to compute, by default in the precision of a circuit."""
        from ..experiment.spec import ComputeSpec

        context = click.get_current_context(silent=True)
        if self["engine"] == "jax" and context is not None and context.info_name in IN_TORCH:
            told = context.meta.setdefault("engine", [])
            if not told:
                told.append(
                    f"Engine 'jax' scores edges and runs circuits; '{context.info_name}' does "
                    "neither, and computes with torch."
                )
                show.aside(*told)
        return self.over(ComputeSpec() if file is None else ComputeSpec.of_circuit(file))

    def task(self) -> TaskSpec | None:
        """Return which prompt pairs are asked for, None if they are those of a circuit."""
        from ..experiment.task import TaskSpec

        if self["task"] is None:
            if self["task_settings"]:
                raise click.UsageError("--task-option needs --task.")
            return None
        fields, options = self.only(*TaskSpec.names()), self["task_settings"] or {}
        with usage():
            return TaskSpec.named(self["task"], options=options, **fields)

    def discovery(self) -> DiscoverySpec:
        """Return how circuits are to be found."""
        from ..experiment.spec import DiscoverySpec, Selection
        from ..experiment.start import read_start
        from ..graphs.levels.nodes import EDGE

        flags = with_chosen(self)
        fields = flags.only(*DiscoverySpec.names())
        fields["options"] = _method_options(flags)
        fields |= {"level": self["circuit_level"] or EDGE}  # `level` is that of a comparison
        if "start" in fields:
            fields["start"] = read_start(fields["start"])
        with usage():
            given = self.only(*Selection.names())
            if self["stable"] and not {"method", *Selection.ways()} & self.keys():
                given |= Selection.usual().as_dict()
            return DiscoverySpec.usual(**fields, select=Selection.of(**given))

    def experiment(self, *models: str) -> Experiment:
        """Return everything that is asked for."""
        from ..experiment.spec import (
            ComparisonSpec,
            EvaluationSpec,
            Experiment,
            GraphSpec,
            numbered,
        )

        discovery, task = self.discovery(), self.task()
        assert task is not None  # click requires --task where an experiment is asked for
        with usage():
            metrics = tuple(dict.fromkeys([discovery.metric, *(self["measure"] or ())]))
            evaluation = EvaluationSpec(metrics, **self.only("control", "rivals", "penalty"))
            graph = self.over(GraphSpec())
            return Experiment(
                task.name, numbered(models), task, discovery, evaluation,
                compute=self.compute(), graph=graph, comparison=self.over(ComparisonSpec()),
            )  # fmt: skip

    def pairs(self, file: CircuitFile, session: Session) -> tuple[PromptPairs, list[str]]:
        """Return the prompt pairs asked for, or a circuit's own, and notes if these changed."""
        from ..experiment.task import TAKEN
        from ..session import open_task
        from ..steps.stored import circuit_pairs

        task = self.task()
        if task is not None:
            pairs = open_task(session, task)[0]
            show.understood(pairs.origin)
            return pairs, []
        return circuit_pairs(file, session, self.only("examples", "seed", "bos", *TAKEN))

    def split(self, file: CircuitFile, session: Session) -> tuple[PromptSplit, list[str]]:
        """Return the pairs asked for, or a circuit's own with those held out; notes as `pairs`.

        Of a task that is named with so many test pairs, those are meant.
        """
        from ..experiment.task import TAKEN
        from ..patching.prompts.splits import PromptSplit
        from ..session import open_split
        from ..steps.stored import circuit_split

        task = self.task()
        if task is None:
            return circuit_split(
                file, session, self.only("examples", "test", "seed", "bos", *TAKEN)
            )
        if not task.test:
            return PromptSplit(self.pairs(file, session)[0]), []
        made = open_split(session, task)
        show.understood(made.discovery.origin)
        return PromptSplit(made.test or made.discovery), []


def with_flags(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command what its command line says of an experiment as one argument, `flags`."""

    @wraps(function)
    def command(*first: Any, **values: Any) -> None:
        from ..experiment.spec import FIELDS

        mine = {key for key in values if key in FIELDS or key.startswith(PREFIX)}
        given = {key: values.pop(key) for key in mine}
        flags = Flags({key: value for key, value in given.items() if value is not None})
        if flags["threads"] is not None:
            import torch

            torch.set_num_threads(flags["threads"])
        function(*first, flags=flags, **values)

    return command


def flag_name(key: str) -> str:
    """Write an option's key as its flag.

    >>> flag_name("ports_first")
    '--ports-first'
    """
    return "--" + key.replace("_", "-")


def with_chosen(flags: Flags) -> Flags:
    """Have a file of edges that alone are meant stand where scores to start from do.

    The option may be another method's too, of which it is a number.
    """
    method = _method(flags)
    key = PREFIX + method.chosen_by
    if not method.chosen_by or flags[key] is None:
        return flags
    name = flag_name(method.chosen_by)
    if flags["start"] is not None:
        raise click.UsageError(
            f"{name} and --from are given together; accepted: one file of edges."
        )
    kept = {k: v for k, v in flags.items() if k != key}
    return Flags(kept, start=FILE.convert(flags[key], None, None))


def _method(flags: Flags) -> Method:
    """Return the method that is asked for."""
    return scoring_method() if flags["method"] is None else get_method(flags["method"])


def _method_options(flags: Flags) -> dict[str, Any]:
    """Return the method's options that were given; others' are wrong usage."""
    method = _method(flags)
    own = {key.removeprefix(PREFIX): flags[key] for key in flags if key.startswith(PREFIX)}
    for key in own.keys() - method.options.keys():
        owners = ", ".join(name for name, one in methods().items() if key in one.options)
        of_others = f"{flag_name(key)} is an option of {owners}"
        if not method.options:
            raise click.UsageError(f"{of_others}; method '{method.name}' has no options.")
        known = map(flag_name, method.options)
        error = unknown(f"option of method '{method.name}'", flag_name(key), known)
        raise click.UsageError(f"{error} {of_others}.")
    return {key: _number(key, value, method.options[key]) for key, value in own.items()}


def _number(key: str, value: Any, option: Option) -> Any:
    """Return an option's value; a text that stands for a whole number, as one."""
    if option.type is not int or not isinstance(value, str):
        return value
    try:
        return int(value)
    except ValueError:
        raise click.UsageError(
            f"Invalid value for '{flag_name(key)}': '{value}' is not a valid integer."
        ) from None
