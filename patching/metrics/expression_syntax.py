"""The grammar of metric expressions: text to tree, by a whitelist; nothing is ever evaluated.

    declaration  ["maximize:" | "minimize:"] sum
    sum          product (("+" | "-") product)*
    product      signed (("*" | "/") signed)*
    signed       ("-" | "+") signed | power
    power        value ["**" signed]              (right to left: 2**3**2 is 2**9; -x**2 is -(x**2))
    value        number | atom | function "(" sum ("," sum)* ")" | "(" sum ")"
    atom         ("logit" | "logprob" | "p") "(" ("answer" | "distractor") ")"
    function     log exp abs sqrt (one value), max min (two or more)

Every error names its place with a caret.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, NoReturn

from ...graphs.errors import MetricSyntaxError

ATOMS = ("logit", "logprob", "p")
SIDES = ("answer", "distractor")
FUNCTIONS = {"log": 1, "exp": 1, "abs": 1, "sqrt": 1, "max": 2, "min": 2}
"""Accepted functions, with the least number of values they take."""

MAX_LENGTH = 500
MAX_DEPTH = 40

_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)"
    r"|(?P<name>[^\W\d]\w*)"
    r"|(?P<sign>\*\*|[-+*/(),]))"
)
_DIRECTION = re.compile(r"\s*(?P<word>[^\W\d]\w*)\s*:")
_DIRECTIONS = {"maximize": True, "minimize": False}


@dataclass(frozen=True)
class Number:
    """A literal, as written."""

    at: int
    text: str


@dataclass(frozen=True)
class Atom:
    """A quantity of the run: logit, logprob or p of the answer or the distractor."""

    at: int
    quantity: str
    side: str


@dataclass(frozen=True)
class Operation:
    """An operator (`+ - * / **`, `neg`) or function applied to operands."""

    at: int
    name: str
    operands: tuple[Tree, ...]


Tree = Number | Atom | Operation


@dataclass(frozen=True)
class Declaration:
    """A parsed declaration: its text, its direction, its tree."""

    text: str
    larger_is_better: bool
    tree: Tree


class _Token(NamedTuple):
    kind: str  # number, name, sign, end
    text: str
    at: int


def parse(text: str) -> Declaration:
    """Read a declaration.

    >>> parse("minimize: p(distractor)").larger_is_better
    False

    Raises:
        MetricSyntaxError: shows the text with a caret under the exact place.
    """
    if len(text) > MAX_LENGTH:
        raise MetricSyntaxError(
            f"the metric expression has {len(text)} characters; accepted: at most {MAX_LENGTH}."
        )
    larger_is_better, start = _direction(text)
    parser = _Parser(text, _tokens(text, start))
    tree = parser.sum(0)
    parser.expect_end()
    return Declaration(" ".join(text.split()), larger_is_better, tree)


def refuse(text: str, at: int, problem: str) -> NoReturn:
    """Raise the error for a problem at a place of the text."""
    shown = re.sub(r"\s", " ", text)
    lines = [
        f"the metric expression cannot be read: {problem}",
        f"    {shown}",
        "    " + " " * at + "^",
    ]
    raise MetricSyntaxError("\n".join(lines))


def _direction(text: str) -> tuple[bool, int]:
    """Read the optional prefix; return the direction and where the expression starts."""
    match = _DIRECTION.match(text)
    if match is None:
        return True, 0
    if match["word"] not in _DIRECTIONS:
        problem = f"unknown direction {_near(match['word'], _DIRECTIONS)}"
        refuse(text, match.start("word"), problem)
    return _DIRECTIONS[match["word"]], match.end()


def _tokens(text: str, start: int) -> list[_Token]:
    found, at = [], start
    while text[at:].strip():
        match = _TOKEN.match(text, at)
        if match is None:
            at += len(text[at:]) - len(text[at:].lstrip())
            hint = "; a power is written **" if text[at] == "^" else ""
            problem = f"unexpected character '{text[at]}'{hint}"
            refuse(text, at, f"{problem}; accepted: numbers, names and + - * / ** ( ) ,")
        kind = match.lastgroup or ""
        found.append(_Token(kind, match[kind], match.start(kind)))
        at = match.end()
    return [*found, _Token("end", "", len(text.rstrip()))]


class _Parser:
    """Recursive descent over the tokens; one method for each rule of the grammar."""

    def __init__(self, text: str, tokens: list[_Token]) -> None:
        self._text = text
        self._tokens = tokens
        self._next = 0

    def sum(self, depth: int) -> Tree:
        """Read a chain of + and -."""
        tree = self._product(depth)
        while sign := self._accept("+", "-"):
            tree = Operation(sign.at, sign.text, (tree, self._product(depth)))
        return tree

    def expect_end(self) -> None:
        """Refuse anything that follows a whole expression."""
        token = self._peek()
        if token.kind != "end":
            if token.text == ")":
                self._refuse(token, "this ')' closes nothing")
            self._refuse(token, f"expected an operator (+ - * / **), found '{token.text}'")

    def _product(self, depth: int) -> Tree:
        tree = self._signed(depth)
        while sign := self._accept("*", "/"):
            tree = Operation(sign.at, sign.text, (tree, self._signed(depth)))
        return tree

    def _signed(self, depth: int) -> Tree:
        sign = self._accept("-", "+")
        if sign is None:
            return self._power(depth)
        operand = self._signed(self._deeper(depth, sign))
        return operand if sign.text == "+" else Operation(sign.at, "neg", (operand,))

    def _power(self, depth: int) -> Tree:
        base = self._value(depth)
        sign = self._accept("**")
        if sign is None:
            return base
        return Operation(sign.at, "**", (base, self._signed(self._deeper(depth, sign))))

    def _value(self, depth: int) -> Tree:
        token = self._take()
        if token.kind == "number":
            return Number(token.at, token.text)
        if token.kind == "name":
            return self._named(token, depth)
        if token.text != "(":
            self._refuse(token, "expected a number, a name or '('" + self._found(token))
        tree = self.sum(self._deeper(depth, token))
        self._close(token)
        return tree

    def _named(self, token: _Token, depth: int) -> Tree:
        if token.text not in (*ATOMS, *FUNCTIONS):
            problem = f"unknown name {_near(token.text, [*ATOMS, *FUNCTIONS])}"
            self._refuse(token, problem)
        opening = self._take()
        if opening.text != "(":
            form = f"{token.text}(answer)" if token.text in ATOMS else f"{token.text}(…)"
            self._refuse(opening, f"expected '(' as in {form}" + self._found(opening))
        if token.text in ATOMS:
            return self._atom(token, opening)
        operands = [self.sum(self._deeper(depth, token))]
        while self._accept(","):
            operands.append(self.sum(self._deeper(depth, token)))
        self._close(opening)
        self._check_number_of_values(token, len(operands))
        return Operation(token.at, token.text, tuple(operands))

    def _atom(self, token: _Token, opening: _Token) -> Atom:
        side = self._take()
        if side.kind != "name":
            self._refuse(side, f"expected {' or '.join(SIDES)}" + self._found(side))
        if side.text not in SIDES:
            self._refuse(side, f"unknown name {_near(side.text, SIDES)}")
        self._close(opening)
        return Atom(token.at, token.text, side.text)

    def _check_number_of_values(self, token: _Token, found: int) -> None:
        least = FUNCTIONS[token.text]
        if found < least or (least == 1 and found > 1):
            accepted = "exactly one value" if least == 1 else "two values or more"
            self._refuse(token, f"{token.text} takes {accepted}, found {found}")

    def _deeper(self, depth: int, token: _Token) -> int:
        if depth >= MAX_DEPTH:
            self._refuse(token, f"nested more than {MAX_DEPTH} deep")
        return depth + 1

    def _close(self, opening: _Token) -> None:
        token = self._take()
        if token.text != ")":
            expected = "expected an operator or ')' " if token.kind != "end" else "missing ')' "
            self._refuse(token, f"{expected}for the '(' at character {opening.at + 1}")

    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take(self) -> _Token:
        token = self._peek()
        if token.kind != "end":
            self._next += 1
        return token

    def _accept(self, *texts: str) -> _Token | None:
        return self._take() if self._peek().text in texts else None

    def _refuse(self, token: _Token, problem: str) -> NoReturn:
        refuse(self._text, token.at, problem)

    @staticmethod
    def _found(token: _Token) -> str:
        return ", found the end" if token.kind == "end" else f", found '{token.text}'"


def _near(found: str, accepted: Iterable[str]) -> str:
    """Quote a wrong word, with the nearest right one and the list of all."""
    names = list(accepted)
    near = difflib.get_close_matches(found, names, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ";"
    return f"'{found}'{hint} accepted: {', '.join(names)}"
