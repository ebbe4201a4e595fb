"""Check the arguments of public calls against their annotations, and say what is taken.

`@typed` on a function, or on a class for what builds it, refuses a value of a wrong type before
anything is done with it:

>>> @typed
... def double(number: int) -> int:
...     return 2 * number
>>> double("3")
Traceback (most recent call last):
edgewise.graphs.errors.WrongArgument: double: `number` is '3'; accepted: a whole number.

The annotation is the only place where it stands what is taken. It is read as text at the first
call, and a class is told by its name, so that nothing is imported for a check; only a value that
seems wrong makes sure with the class itself. What is `Any` or `object` is checked by who uses it.
A class that is no dataclass is left as it is.
"""

from __future__ import annotations

import ast
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from ..errors import UnknownArgument, WrongArgument, unknown_argument
from .annotations import Check, Scope, check_of, expression_of, has_shape, last_name

Thing = TypeVar("Thing", bound=Callable[..., Any])


def typed(thing: Thing) -> Thing:
    """Check the arguments of a function, or of what builds a dataclass; see the module."""
    if isinstance(thing, type):
        build = cast("Any", thing).__init__
        cast("Any", thing).__init__ = _checking(build, thing.__name__)
        return thing
    return cast("Thing", _checking(thing, getattr(thing, "__name__", "call")))


def typed_late(thing: Thing) -> Thing:
    """Have a call that failed say which arguments it lacks, or has not; for what is very frequent.

    Nothing is looked at before: what is called checks by hand, with `require`.
    """
    if isinstance(thing, type):
        build = cast("Any", thing).__init__
        cast("Any", thing).__init__ = _checking(build, thing.__name__, late=True)
        return thing
    return cast("Thing", _checking(thing, getattr(thing, "__name__", "call"), late=True))


def _checking(function: Callable[..., Any], name: str, *, late: bool = False) -> Callable[..., Any]:
    """Wrap a function so that its arguments are checked first, or when the call has failed."""
    ready: _Arguments | None = None

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal ready
        if not late:
            if ready is None:
                ready = _Arguments.of(function, name)
            ready.check(args, kwargs)
        try:
            return function(*args, **kwargs)
        except TypeError as error:  # what Python says of arguments that a function has not
            ready = ready or _Arguments.of(function, name)
            better = ready.better(error, args, kwargs)
            if better is error:
                raise
            raise better from None

    return call


_Given = tuple[tuple[Any, ...], Mapping[str, Any]]


class _Slot:
    """A parameter: its name, what it takes, and classes whose values are known to be taken."""

    __slots__ = ("check", "key", "known")

    def __init__(self, key: str, check: Check) -> None:
        self.key, self.check = key, check
        self.known: set[type] = set()


@dataclass(frozen=True)
class _Arguments:
    """The checks of a function's arguments: by place, by name, and of what may be repeated."""

    name: str
    signature: inspect.Signature
    by_place: tuple[_Slot | None, ...]
    by_name: Mapping[str, _Slot]
    repeated: _Slot | None = None
    others: _Slot | None = None
    properties: Any = None

    @staticmethod
    def of(function: Callable[..., Any], name: str) -> _Arguments:
        signature = inspect.signature(function)
        scope = Scope(inspect.unwrap(function))
        by_place, by_name = list[_Slot | None](), dict[str, _Slot]()
        several: dict[Any, _Slot | None] = {}
        properties: Any = None
        for one in signature.parameters.values():
            if one.kind is one.VAR_KEYWORD:
                properties = _properties(one.annotation, scope)
                by_name |= _slots_of_properties(properties, scope)
                if properties is not None:
                    continue
            slot = _slot(one, scope)
            if one.kind in (one.VAR_KEYWORD, one.VAR_POSITIONAL):
                several[one.kind] = slot
                continue
            if one.kind is not one.KEYWORD_ONLY:
                by_place.append(slot)
            if slot is not None and one.kind is not one.POSITIONAL_ONLY:
                by_name[one.name] = slot
        kinds = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
        repeated, others = (several.get(kind) for kind in kinds)
        several_of = (repeated, others, properties)
        return _Arguments(name, signature, tuple(by_place), by_name, *several_of)

    @property
    def checks(self) -> Mapping[str, Check]:
        """Map the parameters that are checked to what they take."""
        slots = [*self.by_place, *self.by_name.values(), self.repeated]
        return {one.key: one.check for one in slots if one is not None}

    def check(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Refuse the first value that its parameter does not take."""
        for slot, value in zip(self.by_place, args, strict=False):
            if slot is not None and type(value) not in slot.known:
                self.check_one(slot, slot.key, value, (args, kwargs))
        if self.repeated is not None:
            for value in args[len(self.by_place) :]:
                self.check_one(self.repeated, self.repeated.key, value, (args, kwargs))
        for key, value in kwargs.items():
            slot = self.by_name.get(key, self.others)
            if slot is not None and type(value) not in slot.known:
                self.check_one(slot, key, value, (args, kwargs))
        if self.properties is not None:
            self.check_properties(args, kwargs)

    def check_properties(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Refuse a keyword that the call's `TypedDict` has not, and the lack of one it requires."""
        known = [*self.names, *self.properties.__annotations__]
        for key in kwargs:
            if key not in known:
                raise unknown_argument(self.name, key, known)
        lacking = [
            key
            for key, inner in self.properties.__annotations__.items()
            if key not in kwargs and _last_of(inner) == "Required"
        ]
        if lacking:
            raise self.bound(args, kwargs) or self.lacking(lacking)

    def check_one(self, slot: _Slot, key: str, value: object, given: _Given) -> None:
        """Refuse a value of a wrong type; before it, arguments that are missing or unknown."""
        check = slot.check
        if not check.takes(value):
            wrong = WrongArgument(
                f"{self.name}: `{key}` is {short_value(value)}; accepted: {check.words}."
                + _instead(value, check)
            )
            raise self.bound(*given) or wrong
        if check.by_class:
            slot.known.add(type(value))

    # -- arguments that are missing, or that there are not ---------------------------------------

    def better(
        self, error: TypeError, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> TypeError:
        """Return what to say in place of a TypeError that a call ended in, or that error."""
        if isinstance(error, UnknownArgument) and error.call == self.name:
            own = [name for name in self.names if name not in error.accepted]
            return unknown_argument(self.name, error.found, [*own, *error.accepted])
        if isinstance(error, WrongArgument):
            return error
        return self.bound(args, kwargs) or error

    def bound(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> WrongArgument | None:
        """Return what is wrong with which arguments are given, None if nothing is."""
        try:
            self.signature.bind(*args, **kwargs)
        except TypeError:
            return self.unbound(args, kwargs)
        return None

    @functools.cached_property
    def parameters(self) -> list[inspect.Parameter]:
        """List the parameters that a caller gives, without the value that a method is of."""
        found = self.signature.parameters.values()
        variable = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        return [one for one in found if one.name not in _OWNERS and one.kind not in variable]

    @property
    def names(self) -> list[str]:
        """List the names of what a caller gives."""
        return [one.name for one in self.parameters]

    def unbound(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> WrongArgument:
        """Say which arguments are unknown, missing, given twice or one too many."""
        first = next(iter(self.signature.parameters), "")
        given = list(args)[first in _OWNERS :]
        places = [one.name for one in self.parameters if one.kind is not one.KEYWORD_ONLY]
        every = self.signature.parameters.values()
        more_fields = any(one.kind is one.VAR_KEYWORD for one in every)  # it sorts them itself
        for key in kwargs:
            if key not in self.names and not more_fields:
                return unknown_argument(self.name, key, self.names)
            if key in places[: len(given)]:
                return WrongArgument(
                    f"{self.name}: `{key}` is given twice, by its place ("
                    f"{short_value(given[places.index(key)])}) and by its name "
                    f"({short_value(kwargs[key])}); accepted: one of these."
                )
        if len(given) > len(places):
            taken = f"{len(places)} ({', '.join(places)})" if places else "none"
            named = [name for name in self.names if name not in places]
            more = f"; by their names: {', '.join(named)}" if named else ""
            return WrongArgument(
                f"{self.name}: {len(given)} values are given by their places, the last "
                f"{short_value(given[-1])}; accepted: {taken}{more}."
            )
        have = {*places[: len(given)], *kwargs}
        missing = [
            one.name for one in self.parameters if one.default is one.empty and one.name not in have
        ]
        return self.lacking(missing)

    def lacking(self, missing: Sequence[str]) -> WrongArgument:
        """Say which arguments are missing, and what each is."""
        words = [
            f"`{name}`, {self.by_name[name].check.words}" if name in self.by_name else f"`{name}`"
            for name in missing
        ]
        verb = "is" if len(missing) == 1 else "are"
        return WrongArgument(
            f"{self.name}: {' and '.join(f'`{name}`' for name in missing)} {verb} missing; "
            f"accepted: {'; '.join(words)}."
        )


_OWNERS = ("self", "cls")


def _slot(parameter: inspect.Parameter, scope: Scope) -> _Slot | None:
    """Return what checks a parameter, None if it takes anything."""
    if parameter.annotation is parameter.empty or parameter.name in _OWNERS:
        return None
    found = check_of(expression_of(parameter.annotation), scope)
    if found is not None and parameter.default is not parameter.empty:
        found = _or_default(found, parameter.default)
    return None if found is None else _Slot(parameter.name, found)


def _properties(annotation: object, scope: Scope) -> Any:
    """Return the `TypedDict` of further keywords, as in `**more: Unpack[More]`, None without."""
    node = None if annotation is inspect.Parameter.empty else expression_of(annotation)
    if not isinstance(node, ast.Subscript) or last_name(node.value) != "Unpack":
        return None
    return scope.real(last_name(node.slice))


def _slots_of_properties(kind: Any, scope: Scope) -> dict[str, _Slot]:
    """Return what checks the keywords that a `TypedDict` names."""
    found: dict[str, _Slot] = {}
    for key, inner in getattr(kind, "__annotations__", {}).items():
        check = check_of(_of_property(inner), scope)
        if check is not None:
            found[key] = _Slot(key, check)
    return found


def _of_property(annotation: Any) -> ast.expr:
    """Return the expression of a `TypedDict`'s key, which may be kept as a text."""
    return expression_of(getattr(annotation, "__forward_arg__", annotation))


def _last_of(annotation: Any) -> str:
    """Return the name before the brackets of a `TypedDict`'s key, such as Required."""
    node = _of_property(annotation)
    return last_name(node.value) if isinstance(node, ast.Subscript) else ""


def _instead(value: object, check: Check) -> str:
    """Say which part of a value would be taken, such as a file's circuit."""
    if not type(value).__module__.startswith("edgewise"):
        return ""
    for name in getattr(type(value), "__dataclass_fields__", {}):
        if check.takes(part := getattr(value, name, None)) and part is not None:
            return f" Its `{name}` is taken."
    if type(value).__name__ == "Foreign":
        return " `import_circuit` makes a circuit file of it, and `on` puts it on a graph."
    return ""


def _or_default(check: Check, default: object) -> Check:
    """Take what a parameter has by default too, such as a dataclass's mark for a factory."""
    plain = isinstance(default, bool | int | float | str | tuple)
    sure = check.by_class and (default is None or (plain and check.takes(default)))
    return Check(
        lambda value: value is default or check.takes(value), "", lambda: check.words, sure
    )


def short_value(value: object) -> str:
    """Show a value as Python writes it, in one short line; a large one by its type."""
    if value is None or isinstance(value, bool | int | float | str | bytes | list | tuple | dict):
        text = " ".join(repr(value).split())
        if len(text) <= 60:
            return text
        return f"{text[:57]}…"
    kind = type(value)
    article = "an" if kind.__name__[:1].lower() in "aeiou" else "a"
    return f"{article} {kind.__name__}" + (
        f" of shape {list(getattr(value, 'shape'))}" if has_shape(value) else ""  # noqa: B009
    )


# -- by hand --------------------------------------------------------------------------------------


def require(call: str, name: str, value: object, kinds: Any, words: str) -> None:
    """Refuse a value that is of none of some classes; for calls that are made very often."""
    if not isinstance(value, kinds):
        raise WrongArgument(f"{call}: `{name}` is {short_value(value)}; accepted: {words}.")
