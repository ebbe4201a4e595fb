"""What the parts of an experiment are made of: frozen values that are checked when they are built.

A part is a pydantic dataclass whose fields say what they accept. Whatever builds one (flags, a TOML
table, Python, a circuit file's blocks) hears of everything that is wrong at once, in this
project's words (see `errors`). A field counts in `key()` unless it is marked `Uncounted`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import Annotated, Any, ClassVar, TypeVar, cast

from pydantic import AfterValidator, ConfigDict, Field, Strict, ValidationError, WrapValidator
from pydantic import dataclasses as pydantic_dataclasses
from pydantic_core import PydanticCustomError
from typing_extensions import Self, dataclass_transform

from ..graphs.calls.typed import typed
from ..graphs.errors import EdgewiseError, WrongArgument, unknown_argument
from .errors import Built, problems

P = TypeVar("P", bound="type[Part]")


class Part:
    """One part of what a person asks for; equal parts ask for the same."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    refused_as: ClassVar[type[EdgewiseError]] = EdgewiseError

    @classmethod
    @typed
    def of(cls, **fields: Any) -> Self:
        """Return a part with fields whose names are known only as the program runs."""
        return cls(**fields)

    @typed
    def but(self, **changes: object) -> Self:
        """Return the part with some fields changed, checked again."""
        return dataclasses.replace(self, **changes) if changes else self

    @classmethod
    def names(cls) -> list[str]:
        """List the fields."""
        return [field.name for field in dataclasses.fields(cls)]

    @classmethod
    def declared(cls) -> list[str]:
        """List the fields that an experiment's file may give."""
        hidden = cls.marked(Undeclared)
        return [name for name in cls.names() if name not in hidden]

    def table(self) -> dict[str, object]:
        """Return the declared fields, with those of options and of parts within beside them."""
        found: dict[str, object] = {}
        for name in self.declared():
            value = getattr(self, name)
            if isinstance(value, Part):
                found |= value.table()
            elif isinstance(value, Mapping):
                found |= value
            else:
                found[name] = list(value) if isinstance(value, tuple) else value
        return found

    def surroundings(self) -> dict[str, object]:
        """Return what counts beside the fields, such as versions of libraries, by name."""
        return {}

    @classmethod
    @typed
    def marked(cls, mark: type[Mark]) -> dict[str, Mark]:
        """Map the fields that have a mark to it."""
        fields = getattr(cls, "__pydantic_fields__")  # noqa: B009 - a decorator adds it
        return {
            name: found
            for name, info in fields.items()
            for found in info.metadata
            if isinstance(found, mark)
        }


@dataclass_transform(frozen_default=True, field_specifiers=(Field,))
def part(cls: P) -> P:
    """Make a class a part: frozen, checked, with errors in this project's words."""
    config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)
    made = pydantic_dataclasses.dataclass(frozen=True, config=config)(cls)
    build = made.__init__

    @wraps(build)
    def checked(self: Part, *values: object, **fields: object) -> None:
        try:
            build(self, *values, **fields)
        except ValidationError as error:
            found = list(problems(error, Built(cls.__name__, cls.names())))
            first, *others = found
            if others:
                together = "; ".join(str(one).rstrip(".") for one in found)
                of_call = any(isinstance(one, WrongArgument) for one in found)
                kind = WrongArgument if of_call else cls.refused_as
                raise kind(f"{together}.") from None
            plain = type(first) is EdgewiseError
            raise (cls.refused_as(str(first)) if plain else first) from None

    made.__init__ = checked  # type: ignore[assignment]
    return cast("P", made)


def split(what: str, fields: Mapping[str, object], *parts: type[Part]) -> list[dict[str, object]]:
    """Sort a function's keyword arguments by the parts whose fields they are; leave out None."""
    known = [name for one in parts for name in one.names()]
    for name in fields:
        if name not in known:
            raise unknown_argument(what, name, known)
    given = {name: value for name, value in fields.items() if value is not None}
    return [{name: value for name, value in given.items() if name in one.names()} for one in parts]


# -- marks --------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Mark:
    """What is so of a field, and why."""

    why: str


class Uncounted(Mark):
    """A field without influence on any number, or one whose influence is counted elsewhere."""


class Undeclared(Mark):
    """A field that is not written in, nor read from, an experiment's file."""


# -- what fields accept -------------------------------------------------------------------------


def refused(*problems: str | EdgewiseError, at: str = "") -> PydanticCustomError:
    """Build the error for values that contradict each other; `at`: the field at fault."""
    return PydanticCustomError("refused", "refused", {"problems": problems, "at": at})


def not_accepted(accepted: str) -> PydanticCustomError:
    """Build the error for a value that is not what a field accepts."""
    return PydanticCustomError("accepted", "accepted", {"accepted": accepted})


def not_known(choices: Iterable[str], **context: str) -> PydanticCustomError:
    """Build the error for a name that is none of these; by default it is the value `found`."""
    return PydanticCustomError("unknown", "unknown", {"choices": list(choices), **context})


def accepts(text: str) -> WrapValidator:
    """Have a text stand for every error of a field: what it accepts."""

    def check(value: object, handler: Callable[[object], object]) -> object:
        try:
            return handler(value)
        except ValidationError:
            raise not_accepted(text) from None

    return WrapValidator(check)


def one_of(names: Callable[[], Iterable[str]]) -> AfterValidator:
    """Accept the names of a registry or a closed list, read when the first value is checked."""

    def check(value: str) -> str:
        known = list(names())
        if value not in known:
            raise not_known(known)
        return value

    return AfterValidator(check)


def _not_blank(value: str) -> str:
    if not value.strip():
        raise not_accepted("a text that is not blank")
    return value


def each(
    options: object, check: Callable[[str, object], Mapping[str, object]]
) -> dict[str, object]:
    """Check options, given by their names or not at all, and refuse all that are wrong together."""
    given = {} if options is None else options
    if not isinstance(given, Mapping) or not all(isinstance(key, str) for key in given):
        raise not_accepted("options by their names")
    values, problems = dict[str, object](), []
    for key, value in given.items():
        try:
            values |= check(key, value)
        except EdgewiseError as error:
            problems.append(error)
    if problems:
        raise refused(*problems)
    return values


Word = Annotated[str, Strict(), accepts("a text")]
Text = Annotated[str, Strict(), accepts("a text"), AfterValidator(_not_blank)]
Flag = Annotated[bool, Strict(), accepts("true or false")]
Count = Annotated[int, Strict(), Field(ge=1), accepts("a whole number from 1 up")]
Whole = Annotated[int, Strict(), Field(ge=0), accepts("a whole number from 0 up")]
