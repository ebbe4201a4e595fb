"""Reading metric expressions: a whitelist of words and signs, then Python's own parser.

    declaration  ["maximize:" | "minimize:"] expression
    expression   numbers, atoms and functions of expressions, with + - * / ** and parentheses
    atom         ("logit" | "logprob" | "p") "(" ("answer" | "distractor") ")"
    function     log exp abs sqrt (one value), max min (two or more)

Signs bind as in Python: 2**3**2 is 2**9, and -x**2 is -(x**2). Nothing is ever evaluated, and every
error names its place with a caret.
"""

from __future__ import annotations

import ast
import re
import string
from collections.abc import Iterator
from typing import NamedTuple, NoReturn

from ...graphs.errors import MetricSyntaxError, unknown

ATOMS = ("logit", "logprob", "p")
SIDES = ("answer", "distractor")
FUNCTIONS = {"log": 1, "exp": 1, "abs": 1, "sqrt": 1, "max": 2, "min": 2}  # least values they take

MAX_LENGTH, MAX_DEPTH = 500, 40
TOO_DEEP = f"nested more than {MAX_DEPTH} deep"
BEHIND = "expected an operator or ')'"

_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)"
    r"|(?P<name>[^\W\d]\w*)"
    r"|(?P<sign>\*\*|[-+*/(),])"
    r"|(?P<end>\Z))"
)
_DIRECTION = re.compile(r"\s*(?P<word>[^\W\d]\w*)\s*:")
_DIRECTIONS = {"maximize": True, "minimize": False}


class Declaration(NamedTuple):
    """A declaration, read: its text, its direction, and Python's tree of `(text)`."""

    text: str
    larger_is_better: bool
    tree: ast.expr


class _Token(NamedTuple):
    kind: str  # number, name, sign, end
    text: str
    at: int


def parse(text: str) -> Declaration:
    """Read a declaration; a MetricSyntaxError shows it with a caret under the exact place.

    >>> parse("minimize: p(distractor)").larger_is_better
    False
    """
    if len(text) > MAX_LENGTH:
        raise MetricSyntaxError(
            f"the metric expression has {len(text)} characters; accepted: at most {MAX_LENGTH}."
        )
    larger_is_better, start = True, 0
    if match := _DIRECTION.match(text):
        if match["word"] not in _DIRECTIONS:
            refuse(text, match.start("word"), str(unknown("direction", match["word"], _DIRECTIONS)))
        larger_is_better, start = _DIRECTIONS[match["word"]], match.end()
    _check(text, list(_tokens(text, start)))
    plain = " " * start + re.sub(r"\s", " ", text[start:])
    plain = re.sub(r"(?<![\w.])0+(?=[0-9])", lambda zeros: " " * len(zeros[0]), plain)
    tree = ast.parse(f"({plain})", mode="eval").body
    return Declaration(" ".join(text.split()), larger_is_better, tree)


def refuse(text: str, at: int, problem: str) -> NoReturn:
    """Raise the error for a problem at a place of the text."""
    shown = re.sub(r"\s", " ", text)
    raise MetricSyntaxError(
        f"the metric expression cannot be read: {problem}\n    {shown}\n    {' ' * at}^"
    )


def _tokens(text: str, at: int) -> Iterator[_Token]:
    kind = ""
    while kind != "end":
        match = _TOKEN.match(text, at)
        if match is None:
            at += len(text[at:]) - len(text[at:].lstrip())
            problem = f"unexpected character '{text[at]}'"
            problem += "; a power is written **" if text[at] == "^" else ""
            refuse(text, at, f"{problem}; accepted: numbers, names and + - * / ** ( ) ,")
        kind, at = match.lastgroup or "", match.end()
        yield _Token(kind, match[kind], match.start(kind) if match[kind] else len(text.rstrip()))


def _check(text: str, tokens: list[_Token]) -> None:
    """Refuse the first token that cannot stand behind those before it."""
    opened = [(-1, "")]  # where parentheses open, and the names before them
    before = _Token("sign", "(", -1)
    for token in tokens:
        at, name = opened[-1]
        problem = _problem(before, token, name)
        if not problem and token.kind == "end" and at >= 0:
            problem = "missing ')'"
        if problem in ("missing ')'", BEHIND):
            found = f"expected an operator (+ - * / **), found '{token.text}'"
            problem = found if at < 0 else f"{problem} for the '(' at character {at + 1}"
        elif token.text == ")" and not problem:
            opened.pop()
            problem = "" if opened else "this ')' closes nothing"
        elif token.text == "(" and not problem:
            opened.append((token.at, before.text if before.kind == "name" else ""))
            problem = TOO_DEEP if len(opened) > MAX_DEPTH + 1 else ""
        if problem:
            refuse(text, token.at, problem)
        before = token


def _problem(before: _Token, token: _Token, name: str) -> str:
    """Tell why a token cannot stand behind another in parentheses of a name, if it cannot."""
    found = ", found the end" if token.kind == "end" else f", found '{token.text}'"
    if before.text in (*ATOMS, *FUNCTIONS):
        form = f"{before.text}(answer)" if before.text in ATOMS else f"{before.text}(…)"
        return "" if token.text == "(" else f"expected '(' as in {form}{found}"
    if before.kind != "sign" or before.text == ")":
        accepted = ")" if name in ATOMS else ")+-**/," if name else ")+-**/"
        return "" if token.kind == "end" or token.text in accepted else BEHIND
    accepted_names = SIDES if name in ATOMS else (*ATOMS, *FUNCTIONS)
    if token.kind == "name":
        known = token.text in accepted_names
        return "" if known else str(unknown("name", token.text, accepted_names))
    if name in ATOMS:
        return f"expected {' or '.join(SIDES)}{found}"
    begins = token.kind == "number" or token.text in ("(", "+", "-")
    return "" if begins else f"expected a number, a name or '('{found}"


def after(text: str, node: ast.expr) -> int:
    """Find what follows a node and the parentheses around it."""
    end = (node.end_col_offset or 0) - 1
    return end + len(text[end:]) - len(text[end:].lstrip(f"){string.whitespace}"))
