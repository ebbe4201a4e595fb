"""What is wrong with a request, in this project's words; pydantic's own never reach anybody.

A problem names the value's place (`models[1].source`), what was found and what is accepted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..graphs.errors import EdgewiseError, UnknownArgument, WrongArgument, unknown

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

FOLDED = ("options", "select")
"""Fields whose own fields stand beside them: `discovery.top`, not `discovery.select.top`."""


class Built(NamedTuple):
    """What is being built, for messages: a part's name and fields; `declared`: in a file."""

    name: str
    fields: Sequence[str]
    declared: bool = False


def shown(value: object) -> str:
    """Show a value much as TOML writes it.

    >>> shown(True), shown([1, "a"]), shown(float("nan"))
    ('true', '[1, "a"]', 'nan')
    """
    if isinstance(value, float):
        return f"{value:g}"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:79] + "…"


def problems(error: ValidationError, built: Built) -> Iterator[EdgewiseError]:
    """Yield everything that is wrong; in a file each problem has the full path of its key."""
    for found in error.errors(include_url=False):
        context: Mapping[str, object] = found.get("ctx", {})
        loc = found["loc"]
        if loc and isinstance(loc[0], int):  # a value given by its position
            if loc[0] >= len(built.fields):
                continue  # said once, below
            loc = (built.fields[loc[0]], *loc[1:])
        where = _place(loc, str(context.get("at", "")))
        if found["type"] == "refused":
            for problem in context["problems"]:  # type: ignore[attr-defined]
                if isinstance(problem, str):
                    yield EdgewiseError(problem)
                else:  # of a registry or a rule, which knows no place
                    at_place = built.declared and where
                    yield EdgewiseError(f"{where}: {problem}") if at_place else problem
        else:
            yield _mismatch(found, where, built)
    places = [one["loc"][0] for one in error.errors(include_url=False) if one["loc"]]
    most = max((place + 1 for place in places if isinstance(place, int)), default=0)
    if most > len(built.fields):
        yield WrongArgument(
            f"{built.name}: {most} values are given by their places; accepted: "
            f"{len(built.fields)} ({', '.join(built.fields)})."
        )


def _mismatch(found: ErrorDetails, where: str, built: Built) -> EdgewiseError:
    kind, value, context = found["type"], found["input"], found.get("ctx", {})
    last = str(found["loc"][-1]) if found["loc"] else where
    if kind == "accepted":
        return EdgewiseError(f"{where} is {shown(value)}; accepted: {context['accepted']}.")
    if kind == "unknown":
        return unknown(where, str(context.get("found", value)), context["choices"])
    if kind == "missing":
        what = {"source": "the model to load", "name": "a built-in task's, or a file of pairs"}
        missing = what.get(str(context.get("at", last)), "it")
        kind_of = EdgewiseError if built.declared else WrongArgument
        return kind_of(f"{where} is missing; give {missing}.")
    if kind in ("unexpected_keyword_argument", "multiple_argument_values"):
        return _of_call(last, built, twice=kind.startswith("multiple"))
    if kind == "wrong":
        return EdgewiseError(f"{where} is '{value}', {context['why']}")
    accepted = context.get("class_name", f"a table, [{where}]")
    return EdgewiseError(f"{where} is {shown(value)}; accepted: {accepted}.")


def _of_call(name: str, built: Built, *, twice: bool) -> WrongArgument:
    """Say of an argument that a part has no such field, or that it was given twice."""
    if twice:
        return WrongArgument(
            f"{built.name}: `{name}` is given twice, by its place and by its name; accepted: one "
            "of these."
        )
    said = unknown(f"field of {built.name}", name, built.fields)
    return UnknownArgument(str(said), built.name, name, built.fields)


def _place(loc: Sequence[int | str], at: str) -> str:
    """Write where a value stands.

    >>> _place(("models", 0, "source"), ""), _place(("discovery", "select", "top"), "")
    ('models[1].source', 'discovery.top')
    """
    steps = [*loc[:-1], at] if at else list(loc)
    text = ""
    for step in steps:
        if isinstance(step, int):
            text += f"[{step + 1}]"
        elif step not in FOLDED or step == steps[0]:
            text += f".{step}" if text else step
    return text
