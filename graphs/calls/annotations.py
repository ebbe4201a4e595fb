"""What an annotation takes: a test of values, and the words for it.

An annotation is read as text, and a class is told by its name, so that nothing is imported for a
check; only a value that seems wrong makes sure with the class itself.
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


class Scope:
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


def expression_of(annotation: object) -> ast.expr:
    """Return an annotation's expression; a class stands for its name."""
    if isinstance(annotation, str):
        return ast.parse(annotation, mode="eval").body
    text = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    return ast.parse(text.replace("NoneType", "None"), mode="eval").body


def check_of(node: ast.expr, scope: Scope) -> Check | None:
    """Return what an expression takes, None where it takes anything."""
    if isinstance(node, ast.Constant):
        if node.value is None:
            return Check(lambda value: value is None, "None", by_class=True)
        return check_of(expression_of(str(node.value)), scope)
    if isinstance(node, ast.BinOp):
        return _either([check_of(one, scope) for one in _alternatives(node)])
    if isinstance(node, ast.Subscript):
        inner = node.slice
        parts = list(inner.elts) if isinstance(inner, ast.Tuple) else [inner]
        return _generic(last_name(node.value), parts, scope)
    return _named(last_name(node), scope)


def _alternatives(node: ast.expr) -> Iterator[ast.expr]:
    if isinstance(node, ast.BinOp):
        yield from _alternatives(node.left)
        yield from _alternatives(node.right)
    else:
        yield node


def last_name(node: ast.expr) -> str:
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
    if not isinstance(value, list | tuple) and not has_shape(value):
        return False
    try:
        found = value.numpy() if hasattr(value, "numpy") else np.asarray(value)
        return found.dtype.kind in "biuf"
    except (TypeError, ValueError, RuntimeError):  # of unequal lengths, or on another device
        return False


def has_shape(value: object) -> bool:
    """Tell an array of numpy or torch."""
    return type(value).__module__.partition(".")[0] in ("torch", "numpy") and hasattr(
        value, "shape"
    )


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


def _named(name: str, scope: Scope) -> Check | None:
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


def _is_plain_class(name: str, scope: Scope) -> bool:
    """Tell a class that is there already, by which its values are told; others may be aliases."""
    known = scope.globals.get(name)
    return isinstance(known, type) and not is_typeddict(known)


_TYPING = ("types", "typing", "typing_extensions", "collections.abc", "_collections_abc")


def _alias(known: object, scope: Scope) -> Check | None:
    """Return what an alias stands for, as a text or as Python shows it."""
    if not isinstance(known, str) and type(known).__module__ not in _TYPING:
        return None
    try:
        return check_of(expression_of(known), scope)
    except SyntaxError:  # with values that Python cannot show, such as pydantic's marks
        return None


def _is_a(name: str, scope: Scope, value: object) -> bool:
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


def _words(name: str, scope: Scope) -> str:
    real = scope.real(name)
    if isinstance(real, type) and is_typeddict(real):
        return "a mapping of names to values"
    inner = None if real is None or isinstance(real, type) else _alias(real, scope)
    if inner is not None:
        return inner.words
    article = "an" if name[0] in "AEIOU" else "a"
    source = f" (from {_FROM[name]})" if name in _FROM else ""
    return f"{article} {name}{source}"


def _generic(name: str, parts: list[ast.expr], scope: Scope) -> Check | None:
    """Return what a name with parts in brackets takes."""
    found: Check | None
    if name in ("Annotated", "Final", "Required", "NotRequired"):
        found = check_of(parts[0], scope)
    elif name in ("Union", "Optional"):
        none = [ast.Constant(None)] * (name == "Optional")
        found = _either([check_of(one, scope) for one in [*parts, *none]])
    elif name == "type":
        found = Check(lambda value: isinstance(value, type), "a class")
    elif name == "Literal":
        values = [ast.literal_eval(one) for one in parts]
        words = " or ".join(map(repr, values))
        found = Check(lambda value: isinstance(value, str) and value in values, words)
    elif name in ("Mapping", "dict", "MutableMapping"):
        keys = check_of(parts[0], scope) if parts else None
        found = Check(functools.partial(_is_mapping, keys), "a mapping of names to values")
    elif name in ("Sequence", "list", "tuple", "Iterable", "Collection", "set", "frozenset"):
        found = _items(name, parts, scope)
    else:
        found = _named(name, scope)
    return found


def _is_mapping(keys: Check | None, value: object) -> bool:
    return isinstance(value, Mapping) and (keys is None or all(map(keys.takes, value)))


def _items(name: str, parts: list[ast.expr], scope: Scope) -> Check:
    """Return what a list takes; a tuple of stated parts has their number."""
    fixed = name == "tuple" and parts and not isinstance(parts[-1], ast.Constant)
    several = [one for one in parts if not (isinstance(one, ast.Constant) and one.value is ...)]
    inner = [check_of(one, scope) for one in several]
    exact = bool(fixed) and len(several) > 0
    one_pass = name == "Iterable"

    def takes(value: Any) -> bool:
        if one_pass and not isinstance(value, str | bytes | Mapping) and hasattr(value, "__iter__"):
            if not isinstance(value, list | tuple | set | frozenset):
                return not has_shape(value)
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
