"""The registry of tasks: a function yields what pairs there are, its keywords are options."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ...graphs.errors import UnknownName, unknown
from ._space import Space

TaskFunction = Callable[..., Iterable[Space]]


@dataclass(frozen=True)
class TaskOption:
    """Describe one option of a task: its default, its type and, for a closed choice, the values."""

    name: str
    default: str | int | None
    kind: type
    choices: tuple[str, ...] = ()

    def read(self, task: str, value: object) -> str | int | None:
        """Return a value given for the option, checked; numbers may be written as text."""
        if value is None and self.default is None:
            return None
        if self.choices:
            if value in self.choices:
                return str(value)
            raise unknown(f"{self.name} of task '{task}'", str(value), self.choices)
        if self.kind is int:
            number = _whole(value)
            if number is None or number < 1:
                raise UnknownName(
                    f"{self.name}={value!r} does not fit task '{task}'; accepted: a whole number "
                    f"from 1 up (default {self.default})."
                )
            return number
        return str(value)


@dataclass(frozen=True)
class Task:
    """Hold a registered task: `spaces(vocabulary, **options)` yields its candidate pairs."""

    name: str
    summary: str
    spaces: TaskFunction
    options: tuple[TaskOption, ...]
    needs_tokenizer: bool

    def read_options(self, given: Mapping[str, object]) -> dict[str, str | int | None]:
        """Return all options with their values: those given, checked, and the defaults."""
        known = {option.name: option for option in self.options}
        for name in given:
            if name not in known:
                if not known:
                    raise UnknownName(
                        f"unknown option '{name}' of task '{self.name}', which has no options."
                    )
                raise unknown(f"option of task '{self.name}'", name, known)
        return {
            name: option.read(self.name, given[name]) if name in given else option.default
            for name, option in known.items()
        }


TASKS: dict[str, Task] = {}


def task(
    name: str, *, summary: str, needs_tokenizer: bool = True
) -> Callable[[TaskFunction], TaskFunction]:
    """Register a function of a vocabulary that yields spaces of candidates as a task.

    The function's keyword-only parameters become options: whole numbers or `Literal` choices.
    """

    def register(function: TaskFunction) -> TaskFunction:
        if name in TASKS:
            raise ValueError(f"the task '{name}' is registered twice")
        TASKS[name] = Task(name, summary, function, _options(function), needs_tokenizer)
        return function

    return register


def _options(function: TaskFunction) -> tuple[TaskOption, ...]:
    hints = typing.get_type_hints(function)
    keywords = [
        parameter
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    ]
    return tuple(_option(p.name, p.default, hints[p.name]) for p in keywords)


def _option(name: str, default: Any, hint: Any) -> TaskOption:
    if typing.get_origin(hint) is typing.Literal:
        return TaskOption(name, default, str, tuple(typing.get_args(hint)))
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    return TaskOption(name, default, hint)


def _whole(value: object) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lstrip("+-").isdecimal():
        return int(value)
    return None
