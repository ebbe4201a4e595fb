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
import importlib
import inspect
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import PurePath
from typing import Any, TypeVar, cast

from typing_extensions import is_typeddict

from ..errors import UnknownArgument, WrongArgument, unknown_argument

Thing = TypeVar("Thing", bound=Callable[..., Any])

MOST_ITEMS = 1000
"""How many items of a list are looked at."""


@dataclass(frozen=True)
class Check:
    """What an annotation takes: a test, and the words for it, which a class may add to.

    `by_class`: whether the test looks at nothing but a value's class.
    """

    takes: Callable[[Any], bool]
    plain: str
    said: Callable[[], str] | None = None
    by_class: bool = False

    @property
    def words(self) -> str:
        """Say what is taken."""
        return self.plain if self.said is None else self.said()


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
        scope = _Scope(inspect.unwrap(function))
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


def _slot(parameter: inspect.Parameter, scope: _Scope) -> _Slot | None:
    """Return what checks a parameter, None if it takes anything."""
    if parameter.annotation is parameter.empty or parameter.name in _OWNERS:
        return None
    found = _compiled(_parsed(parameter.annotation), scope)
    if found is not None and parameter.default is not parameter.empty:
        found = _or_default(found, parameter.default)
    return None if found is None else _Slot(parameter.name, found)


def _properties(annotation: object, scope: _Scope) -> Any:
    """Return the `TypedDict` of further keywords, as in `**more: Unpack[More]`, None without."""
    node = None if annotation is inspect.Parameter.empty else _parsed(annotation)
    if not isinstance(node, ast.Subscript) or _last(node.value) != "Unpack":
        return None
    return scope.real(_last(node.slice))


def _slots_of_properties(kind: Any, scope: _Scope) -> dict[str, _Slot]:
    """Return what checks the keywords that a `TypedDict` names."""
    found: dict[str, _Slot] = {}
    for key, inner in getattr(kind, "__annotations__", {}).items():
        check = _compiled(_of_property(inner), scope)
        if check is not None:
            found[key] = _Slot(key, check)
    return found


def _of_property(annotation: Any) -> ast.expr:
    """Return the expression of a `TypedDict`'s key, which may be kept as a text."""
    return _parsed(getattr(annotation, "__forward_arg__", annotation))


def _last_of(annotation: Any) -> str:
    """Return the name before the brackets of a `TypedDict`'s key, such as Required."""
    node = _of_property(annotation)
    return _last(node.value) if isinstance(node, ast.Subscript) else ""


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
        f" of shape {list(getattr(value, 'shape'))}" if _has_shape(value) else ""  # noqa: B009
    )


def _has_shape(value: object) -> bool:
    return type(value).__module__.partition(".")[0] in ("torch", "numpy") and hasattr(
        value, "shape"
    )


# -- annotations ----------------------------------------------------------------------------------


class _Scope:
    """Where the names of a function's annotations are looked up."""

    def __init__(self, function: Any) -> None:
        self.globals: Mapping[str, Any] = getattr(function, "__globals__", {})
        self.module = str(getattr(function, "__module__", ""))
        if not self.globals.get("__name__", "").startswith("edgewise"):  # a dataclass's __init__
            self.globals = vars(sys.modules.get(self.module, sys))

    def real(self, name: str) -> Any:
        """Return what a name stands for, imported now if it is for type checkers alone."""
        if name in self.globals:
            return self.globals[name]
        return _late_names(self.module).get(name)


@functools.cache
def _late_names(module: str) -> Mapping[str, Any]:
    """Import what a module imports for type checkers alone."""
    found: dict[str, Any] = {}
    source = inspect.getsource(sys.modules[module])
    for node in ast.walk(ast.parse(source)):
        late = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for line in node.body if late and isinstance(node, ast.If) else ():
            if isinstance(line, ast.ImportFrom):
                package = module.rpartition(".")[0] if line.level else None
                base = "." * line.level + (line.module or "")
                origin = importlib.import_module(base, package)
                if package is not None and not _is_package(module):
                    origin = importlib.import_module(base, package)
                for alias in line.names:
                    found[alias.asname or alias.name] = getattr(origin, alias.name, None)
            elif isinstance(line, ast.Import):
                for alias in line.names:
                    head = alias.name.partition(".")[0]
                    found[alias.asname or head] = importlib.import_module(alias.name)
    return found


def _is_package(module: str) -> bool:
    return hasattr(sys.modules[module], "__path__")


def _parsed(annotation: object) -> ast.expr:
    """Return an annotation's expression; a class stands for its name."""
    if isinstance(annotation, str):
        return ast.parse(annotation, mode="eval").body
    text = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    return ast.parse(text.replace("NoneType", "None"), mode="eval").body


def _compiled(node: ast.expr, scope: _Scope) -> Check | None:
    """Return what an expression takes, None where it takes anything."""
    if isinstance(node, ast.Constant):
        if node.value is None:
            return Check(lambda value: value is None, "None", by_class=True)
        return _compiled(_parsed(str(node.value)), scope)
    if isinstance(node, ast.BinOp):
        return _either([_compiled(one, scope) for one in _alternatives(node)])
    if isinstance(node, ast.Subscript):
        inner = node.slice
        parts = list(inner.elts) if isinstance(inner, ast.Tuple) else [inner]
        return _generic(_last(node.value), parts, scope)
    return _named(_last(node), scope)


def _alternatives(node: ast.expr) -> Iterator[ast.expr]:
    if isinstance(node, ast.BinOp):
        yield from _alternatives(node.left)
        yield from _alternatives(node.right)
    else:
        yield node


def _last(node: ast.expr) -> str:
    """Return the last part of a dotted name."""
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "object")


def _either(checks: Sequence[Check | None]) -> Check | None:
    if any(one is None for one in checks):
        return None
    known = [one for one in checks if one is not None]

    def said() -> str:
        words = list(dict.fromkeys(one.words for one in known if one.words != "None"))
        if "a path" in words and "a text" in words:
            words.remove("a text")
        return " or ".join([*words, *["None"] * any(one.words == "None" for one in known)])

    sure = all(one.by_class for one in known)
    return Check(lambda value: any(one.takes(value) for one in known), "", said, sure)


def _number(value: object) -> bool:
    real = isinstance(value, Real) and not isinstance(value, bool)
    return real and not math.isnan(cast("float", value))


def _is_array(value: Any) -> bool:
    """Tell what numpy makes an array of numbers of: arrays, lists of lists, tensors in memory."""
    import numpy as np

    if getattr(value, "requires_grad", False) or isinstance(value, str | bytes | Mapping):
        return False
    if not isinstance(value, list | tuple) and not _has_shape(value):
        return False
    try:
        found = value.numpy() if hasattr(value, "numpy") else np.asarray(value)
        return found.dtype.kind in "biuf"
    except (TypeError, ValueError, RuntimeError):  # of unequal lengths, or on another device
        return False


_PLAIN: Mapping[str, Check] = {
    "ndarray": Check(_is_array, "an array of numbers"),
    "str": Check(lambda value: isinstance(value, str), "a text", by_class=True),
    "int": Check(
        lambda value: isinstance(value, Integral) and not isinstance(value, bool),
        "a whole number",
        by_class=True,
    ),
    "float": Check(_number, "a number"),
    "bool": Check(
        lambda value: isinstance(value, bool) or type(value).__name__ == "bool",
        "True or False",
        by_class=True,
    ),
    "PathLike": Check(lambda value: isinstance(value, os.PathLike), "a path", by_class=True),
    "Callable": Check(callable, "a function"),
    "Norm": Check(callable, "a Norm, or a function in its place"),
    "Progress": Check(callable, "a function of what is done, the total and a word"),
    "PreTrainedTokenizerBase": Check(
        lambda value: callable(value) or hasattr(value, "encode"), "a tokenizer"
    ),
}
_ANYTHING = ("Any", "object", "Self", "TypeVar", "Given")
"""What is checked by who uses it; `Given` is a metric, which a function may be too."""


def _named(name: str, scope: _Scope) -> Check | None:
    """Return what a plain name takes."""
    known = scope.globals.get(name)
    if name in _ANYTHING or isinstance(known, TypeVar):
        return None
    if name == "Path" and (
        known is None or (isinstance(known, type) and issubclass(known, PurePath))
    ):
        return _PLAIN["PathLike"]
    if name in _PLAIN:
        return _PLAIN[name]
    if name in ("list", "tuple", "Sequence", "dict", "Mapping", "Iterable"):
        return _generic(name, [], scope)
    if known is not None and not isinstance(known, type):  # an alias
        return _alias(known, scope)
    words = functools.partial(_words, name, scope)
    return Check(functools.partial(_is_a, name, scope), "", words, _is_plain_class(name, scope))


def _is_plain_class(name: str, scope: _Scope) -> bool:
    """Tell a class that is there already, by which its values are told; others may be aliases."""
    known = scope.globals.get(name)
    return isinstance(known, type) and not is_typeddict(known)


_TYPING = ("types", "typing", "typing_extensions", "collections.abc", "_collections_abc")


def _alias(known: object, scope: _Scope) -> Check | None:
    """Return what an alias stands for, as a text or as Python shows it."""
    if not isinstance(known, str) and type(known).__module__ not in _TYPING:
        return None
    try:
        return _compiled(_parsed(known), scope)
    except SyntaxError:  # with values that Python cannot show, such as pydantic's marks
        return None


def _is_a(name: str, scope: _Scope, value: object) -> bool:
    """Tell an instance by the names of its classes; else by the class itself."""
    if any(one.__name__ == name for one in type(value).__mro__):
        return True
    real = scope.real(name)
    if not isinstance(real, type):
        if real is None or isinstance(real, TypeVar):
            return False
        inner = _alias(real, scope)
        return inner is None or inner.takes(value)
    if is_typeddict(real):
        return isinstance(value, Mapping)
    if getattr(real, "_is_protocol", False):
        return all(hasattr(value, name) for name in vars(real) if not name.startswith("_"))
    return isinstance(value, real)


_FROM: Mapping[str, str] = {
    "Session": "open_model",
    "PromptPairs": "open_task or read_pairs",
    "CircuitFile": "read_circuit or discover",
    "Runner": "make_runner",
    "LoadedModel": "load",
    "LiftedModel": "describe",
    "ScoresFile": "read_scores",
    "DiffFile": "compare",
    "TimelineFile": "timeline",
    "TransplantFile": "transplant",
    "RolesFile": "read_roles",
    "Foreign": "read_foreign",
}
"""Where a value of a class is from, for messages."""


def _words(name: str, scope: _Scope) -> str:
    real = scope.real(name)
    if isinstance(real, type) and is_typeddict(real):
        return "a mapping of names to values"
    inner = None if real is None or isinstance(real, type) else _alias(real, scope)
    if inner is not None:
        return inner.words
    article = "an" if name[0] in "AEIOU" else "a"
    source = f" (from {_FROM[name]})" if name in _FROM else ""
    return f"{article} {name}{source}"


def _generic(name: str, parts: list[ast.expr], scope: _Scope) -> Check | None:
    """Return what a name with parts in brackets takes."""
    found: Check | None
    if name in ("Annotated", "Final", "Required", "NotRequired"):
        found = _compiled(parts[0], scope)
    elif name in ("Union", "Optional"):
        none = [ast.Constant(None)] * (name == "Optional")
        found = _either([_compiled(one, scope) for one in [*parts, *none]])
    elif name == "type":
        found = Check(lambda value: isinstance(value, type), "a class")
    elif name == "Literal":
        values = [ast.literal_eval(one) for one in parts]
        words = " or ".join(map(repr, values))
        found = Check(lambda value: isinstance(value, str) and value in values, words)
    elif name in ("Mapping", "dict", "MutableMapping"):
        keys = _compiled(parts[0], scope) if parts else None
        found = Check(functools.partial(_is_mapping, keys), "a mapping of names to values")
    elif name in ("Sequence", "list", "tuple", "Iterable", "Collection", "set", "frozenset"):
        found = _items(name, parts, scope)
    else:
        found = _named(name, scope)
    return found


def _is_mapping(keys: Check | None, value: object) -> bool:
    return isinstance(value, Mapping) and (keys is None or all(map(keys.takes, value)))


def _items(name: str, parts: list[ast.expr], scope: _Scope) -> Check:
    """Return what a list takes; a tuple of stated parts has their number."""
    fixed = name == "tuple" and parts and not isinstance(parts[-1], ast.Constant)
    several = [one for one in parts if not (isinstance(one, ast.Constant) and one.value is ...)]
    inner = [_compiled(one, scope) for one in several]
    exact = bool(fixed) and len(several) > 0
    one_pass = name == "Iterable"

    def takes(value: Any) -> bool:
        if one_pass and not isinstance(value, str | bytes | Mapping) and hasattr(value, "__iter__"):
            if not isinstance(value, list | tuple | set | frozenset):
                return not _has_shape(value)
        elif not isinstance(value, Sequence | set | frozenset) or isinstance(value, str | bytes):
            return False
        if exact:
            return len(value) == len(inner) and all(
                check is None or check.takes(item) for check, item in zip(inner, value, strict=True)
            )
        check = inner[0] if inner else None
        return check is None or all(map(check.takes, list(value)[:MOST_ITEMS]))

    def said() -> str:
        what = " and ".join(one.words if one else "anything" for one in inner) or "anything"
        return f"{len(inner)} values: {what}" if exact else f"a list of {what}"

    return Check(takes, "", said)


# -- by hand --------------------------------------------------------------------------------------


def require(call: str, name: str, value: object, kinds: Any, words: str) -> None:
    """Refuse a value that is of none of some classes; for calls that are made very often."""
    if not isinstance(value, kinds):
        raise WrongArgument(f"{call}: `{name}` is {short_value(value)}; accepted: {words}.")
