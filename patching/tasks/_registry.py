"""The registry of tasks: a function yields what pairs there are, its keywords are options."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args, get_origin, get_type_hints

from ...graphs.calls.typed import typed
from ...graphs.errors import EdgewiseError, UnknownName, unknown
from ..registries import look_up
from ._space import Space

TaskFunction = Callable[..., Iterable[Space]]


@typed
@dataclass(frozen=True)
class TaskOption:
    """One option of a task: a closed choice of these values, or without any a whole number."""

    name: str
    default: str | int | None
    choices: tuple[str, ...] = ()

    @typed
    def read(self, task: str, value: object) -> str | int | None:
        """Return a value given for the option, checked; numbers may be written as text."""
        if value is None and self.default is None:
            return None
        if self.choices:
            if value in self.choices:
                return str(value)
            raise unknown(f"{self.name} of task '{task}'", str(value), self.choices)
        written = isinstance(value, str) and re.fullmatch(r"[+-]?\d+", value.strip())
        number = int(str(value)) if written else value
        if not isinstance(number, int) or isinstance(number, bool) or number < 1:
            raise UnknownName(
                f"{self.name}={value!r} does not fit task '{task}'; accepted: a whole number "
                f"from 1 up (default {self.default})."
            )
        return number


@typed
@dataclass(frozen=True)
class Task:
    """A registered task: `spaces(vocabulary, **options)` yields its candidate pairs.

    `spans`: names of parts of its prompts that its candidates declare, in the prompt's order.
    """

    name: str
    summary: str
    spaces: TaskFunction
    options: tuple[TaskOption, ...]
    needs_tokenizer: bool
    spans: tuple[str, ...] = ()

    @typed
    def read_options(self, given: Mapping[str, object]) -> dict[str, str | int | None]:
        """Return all options with their values: those given, checked, and the defaults."""
        known = {option.name: option for option in self.options}
        for name in given:
            if not known:
                raise UnknownName(
                    f"unknown option '{name}' of task '{self.name}', which has no options."
                )
            look_up(f"option of task '{self.name}'", name, known)
        return {
            name: option.read(self.name, given.get(name, option.default))
            for name, option in known.items()
        }


END = "end"
"""The span of the position at which the answer is predicted."""

TASKS: dict[str, Task] = {}


@typed
def get_task(name: str) -> Task:
    """Return a registered task; raises UnknownName with the nearest match."""
    return look_up("task", name, TASKS)


@typed
def task(
    name: str, *, summary: str, needs_tokenizer: bool = True, spans: tuple[str, ...] = ()
) -> Callable[[TaskFunction], TaskFunction]:
    """Register a task: what yields its spaces; keyword-only parameters become its options.

    `spans`: see `Task`; `END`, where the answer is predicted, is one of every task.
    """

    @typed
    def register(function: TaskFunction) -> TaskFunction:
        if name in TASKS:
            raise EdgewiseError(
                f"a task named '{name}' is registered already; accepted: a name of its own."
            )
        hints = get_type_hints(function)
        parameters = inspect.signature(function).parameters.items()
        options = tuple(
            TaskOption(key, one.default, get_args(hint) if get_origin(hint) is Literal else ())
            for key, one in parameters
            if one.kind is one.KEYWORD_ONLY and (hint := hints[key])
        )
        TASKS[name] = Task(name, summary, function, options, needs_tokenizer, (*spans, END))
        return function

    return register


def describe_tasks() -> list[dict[str, object]]:
    """Return every task's name, summary, options and whether it needs a tokenizer, for JSON."""

    def described(option: TaskOption) -> dict[str, object]:
        kind = "choice" if option.choices else "int"
        return {**vars(option), "type": kind, "choices": list(option.choices)}

    return [
        {
            "name": task.name,
            "summary": task.summary,
            "needs_tokenizer": task.needs_tokenizer,
            "options": list(map(described, task.options)),
            "spans": list(task.spans),
        }
        for _, task in sorted(TASKS.items())
    ]
