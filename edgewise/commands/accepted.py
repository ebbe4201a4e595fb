"""What values options accept, and how options are written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import reduce
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..graphs.errors import EdgewiseError, unknown
from ..patching.metrics.registry import get_metric

if TYPE_CHECKING:
    from ..experiment.parts import Part

P = TypeVar("P", bound="Part")
Function = TypeVar("Function", bound=Callable[..., Any])


class Known(click.ParamType):  # type: ignore[type-arg]
    """A name that passes a check, such as a registry's; one that does not is wrong usage."""

    name = "name"

    def __init__(self, check: Callable[[str], object]) -> None:
        self._check = check

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the name."""
        try:
            self._check(value)
        except EdgewiseError as error:
            self.fail(str(error), param, ctx)
        return value


def among(what: str, accepted: Iterable[str]) -> Callable[[str], None]:
    """Return a check, for `Known`, that a name is in a closed list."""

    def check(text: str) -> None:
        if text not in accepted:
            raise unknown(what, text, accepted)

    return check


def _not_blank(text: str) -> None:
    if not text.strip():  # as an unset variable of a shell makes it
        raise EdgewiseError("it is empty; accepted: a name. Give the one that was meant.")


FILE = Known(_not_blank)


class WholeNumber(click.IntRange):
    """A whole number within a range, called so in the error for what is none."""

    name = "whole number"


class Number(click.FloatRange):
    """A number within a range, called so in the error for what is none."""

    name = "number"


COUNT = WholeNumber(1)


METRIC = Known(get_metric)


class LateHelp(click.Option):
    """An option whose help is made from registries, once somebody reads it."""

    def __init__(self, names: list[str], *, text: Callable[[], str], **settings: Any) -> None:
        super().__init__(names, **settings)
        self._text = text

    @property
    def help(self) -> str:
        """Return the help."""
        return self._text()

    @help.setter
    def help(self, value: str | None) -> None:
        """Leave out what click would set."""


@contextmanager
def usage() -> Iterator[None]:
    """Turn what is wrong with the request itself into wrong usage: exit status 2."""
    try:
        yield
    except EdgewiseError as error:
        raise click.UsageError(str(error)) from None


def names_of(option: str, text: str) -> list[str]:
    """Return the names in an option's value, with commas between; refuse none."""
    names = [one.strip() for one in text.split(",") if one.strip()]
    if not names:
        raise click.UsageError(f"--{option} names none; accepted: names with commas between them.")
    return names


def all_of(*decorators: Callable[[Any], Any]) -> Callable[[Function], Function]:
    """Return one decorator for several; help lists them in the order given."""
    return lambda function: reduce(lambda made, one: one(made), reversed(decorators), function)


def option(
    words: str, help: str | Callable[[], str], *name: str, **settings: Any
) -> Callable[[Function], Function]:
    """Add an option, written as in help: its flags, then what it takes, if anything.

    `help`: its text, or what makes it once somebody reads it. `name`: of the parameter.
    """
    flags = [word for word in words.split() if word.startswith("-")]
    takes = words.split()[len(flags) :]
    settings |= {"metavar": takes[0]} if takes else {"is_flag": True}
    settings |= {"help": help} if isinstance(help, str) else {"cls": LateHelp, "text": help}
    return click.option(*flags, *name, **settings)
