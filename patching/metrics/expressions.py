"""Metrics declared as text, such as `logit(answer) - logit(distractor)`.

1. `expression_syntax.parse` lets only accepted words and signs pass, and has Python parse them.
2. `_build` turns Python's tree into a sympy expression over real symbols. `p(x)` becomes
   exp(logprob(x)), so that sympy itself turns log(p(x)) into logprob(x): stable for any logits.
3. `Expression` evaluates the sympy expression in torch by walking it, and differentiates it.

With several answers (or distractors) `logit` is their mean, `p` their sum, and `logprob` the log
of that sum. Larger is better unless the declaration starts with `minimize:`.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import reduce
from typing import TYPE_CHECKING, Any

from ...graphs.calls.typed import typed
from .expression_syntax import ATOMS, FUNCTIONS, MAX_DEPTH, TOO_DEEP, after, parse, refuse
from .metric import Metric, Target, log_prob, mean_logit

if TYPE_CHECKING:
    from torch import Tensor

    Value = Tensor | float

MAX_EXPONENT, MAX_NUMBER = 64, 1e30


@dataclass(frozen=True)
class Expression:
    """A function of the quantities `logit(…)` and `logprob(…)`, the symbols of a sympy `tree`.

    >>> import torch
    >>> ratio = expression("p(answer) / p(distractor)")
    >>> sorted(ratio.quantities), str(ratio)
    (['logprob(answer)', 'logprob(distractor)'], 'exp(logprob(answer) - logprob(distractor))')
    """

    tree: Any

    @property
    def quantities(self) -> frozenset[str]:
        """Name the quantities the value depends on."""
        return frozenset(symbol.name for symbol in self.tree.free_symbols)

    def __call__(self, values: Mapping[str, Tensor]) -> Tensor:
        """Compute the value from the quantities, all of one shape; differentiable."""
        import torch

        like = next(iter(values.values()))
        value = self.evaluate(values, _TORCH)
        return torch.as_tensor(value, dtype=like.dtype).expand(like.shape)

    def evaluate(
        self, values: Mapping[str, Any], functions: Mapping[str, Callable[..., Any]]
    ) -> Any:
        """Compute the value with the functions of a library, which are named as sympy's are."""
        return _evaluate(self.tree, values, functions)

    def gradient(self) -> dict[str, Expression]:
        """Differentiate symbolically with respect to every quantity.

        >>> slopes = expression("log(p(answer)) ** 2").gradient()
        >>> str(slopes["logprob(answer)"])
        '2*logprob(answer)'
        """
        symbols = sorted(self.tree.free_symbols, key=lambda symbol: symbol.name)
        return {symbol.name: Expression(self.tree.diff(symbol)) for symbol in symbols}

    def __str__(self) -> str:
        return str(self.tree)


def expression(text: str) -> Expression:
    """Read an expression, with or without a direction; MetricSyntaxError if it has no value."""
    return _simplified(parse(text).tree, text)


@typed
def expression_metric(text: str) -> Metric:
    """Build the metric an expression declares, as `expression`; its name is the declaration.

    >>> expression_metric("logit(answer) - logit(distractor)").needs_distractors
    True
    """
    declaration = parse(text)
    compiled = _simplified(declaration.tree, text)
    quantities = compiled.quantities

    def function(logits: Tensor, target: Target) -> Tensor:
        values = {
            f"{quantity}({side})": measure(logits, ids)
            for quantity, measure in (("logit", mean_logit), ("logprob", log_prob))
            for side, ids in (("answer", target.answers), ("distractor", target.distractors))
            if f"{quantity}({side})" in quantities
        }
        return compiled(values)

    function.__doc__ = f"The value of {declaration.text}."
    return Metric(
        name=declaration.text,
        function=function,
        larger_is_better=declaration.larger_is_better,
        needs_distractors=any("distractor" in name for name in quantities),
        tokens_only=all(name.startswith("logit(") for name in quantities),
        known=True,
    )


_APPLIED: dict[str, tuple[Callable[..., Any], str]] = {
    "Add": (operator.add, ""),
    "Sub": (operator.sub, ""),
    "Mult": (operator.mul, ""),
    "Div": (operator.truediv, ""),
    "Pow": (operator.pow, ""),
    "USub": (operator.neg, ""),
    "UAdd": (operator.pos, ""),
    "log": (math.log, "log"),
    "exp": (math.exp, "exp"),
    "abs": (abs, "Abs"),
    "sqrt": (math.sqrt, "sqrt"),
    "max": (max, "Max"),
    "min": (min, "Min"),
}
"""Accepted operators and functions: of floats, and their names in sympy where these differ."""


def _simplified(parsed: ast.expr, text: str) -> Expression:
    import sympy

    tree = sympy.expand_log(_build(parsed, text), deep=True)
    tree = sympy.powsimp(tree, deep=True, combine="exp")  # exp(a)*exp(-b) could be 0 * infinity
    if not tree.free_symbols:
        start = text.find(":") + 1
        at = start + len(text[start:]) - len(text[start:].lstrip())
        refuse(text, at, f"its value is always {tree}; use logit(answer), p(answer) and the like")
    return Expression(tree)


def _build(node: ast.expr, text: str, depth: int = 0) -> Any:
    """Turn a tree into sympy, operands first; refuse what has no real value, where it stands."""
    import sympy

    at, name, parts = node.col_offset - 1, "", list[ast.expr]()
    if depth > MAX_DEPTH:
        refuse(text, at, TOO_DEEP)
    match node:
        case ast.Constant(value=int() | float() as value):
            literal = text[at : (node.end_col_offset or 0) - 1]
            return _constant(lambda: _literal(value, literal), at, text)
        case ast.Call(func=ast.Name(id=name), args=[ast.Name(id=side)]) if name in ATOMS:
            symbol = sympy.Symbol(f"{'logprob' if name == 'p' else name}({side})", real=True)
            return sympy.exp(symbol) if name == "p" else symbol
        case ast.Call(func=ast.Name(id=name), args=parts) if name in FUNCTIONS:
            if len(parts) < FUNCTIONS[name] or len(parts) > FUNCTIONS[name] == 1:
                accepted = "exactly one value" if FUNCTIONS[name] == 1 else "two values or more"
                refuse(text, at, f"{name} takes {accepted}, found {len(parts)}")
        case ast.UnaryOp(op=op, operand=operand):
            name, parts = type(op).__name__, [operand]
        case ast.BinOp(left=left, op=op, right=right):
            name, parts, at = type(op).__name__, [left, right], after(text, left)
    if name not in _APPLIED:
        refuse(text, at, "this is no metric expression")
    nested = depth + (not isinstance(node, ast.BinOp))
    return _applied(name, [_build(part, text, nested) for part in parts], at, text)


def _applied(name: str, operands: list[Any], at: int, text: str) -> Any:
    """Apply a function: to numbers in floating point, to anything else in sympy."""
    import sympy

    numeric, symbolic = _APPLIED[name]
    if all(operand.is_number for operand in operands):
        return _constant(lambda: float(numeric(*map(float, operands))), at, text)
    if name == "Pow" and operands[1].is_number and abs(operands[1]) > MAX_EXPONENT:
        refuse(text, at, f"the exponent {operands[1]} is too large; accepted: ±{MAX_EXPONENT}")
    built = (getattr(sympy, symbolic) if symbolic else numeric)(*operands)
    built = sympy.expand_log(built) if name == "log" else built
    if built.has(sympy.zoo, sympy.nan, sympy.oo, -sympy.oo):
        refuse(text, at, "this is always infinite or undefined")
    if built.has(sympy.I) or built.is_real is False:
        refuse(text, at, "this is never a real number")
    if any(_is_excessive(number) for number in built.atoms(sympy.Number)):
        refuse(text, at, f"this makes numbers beyond {MAX_NUMBER:.0e}")
    return built


def _literal(value: float, text: str) -> float:
    number = float(value)
    if number == 0 and any(digit in "123456789" for digit in text.lower().partition("e")[0]):
        raise OverflowError
    return number


def _constant(compute: Callable[[], float], at: int, text: str) -> Any:
    """Compute a constant in floating point: exact arithmetic on 9**9**9 would never end."""
    import sympy

    try:
        value = compute()
    except ZeroDivisionError:
        refuse(text, at, "this divides by zero")
    except OverflowError:
        value = math.inf
    except (ValueError, TypeError):  # log(-1), (-8)**0.5
        refuse(text, at, "this is never a real number")
    if not abs(value) <= MAX_NUMBER:
        refuse(text, at, f"this number is too large or too small; accepted: up to {MAX_NUMBER:.0e}")
    exact = Fraction(value).limit_denominator(10**6)
    if float(exact) == value:
        return sympy.Rational(exact.numerator, exact.denominator)
    return sympy.Float(value)


def _is_excessive(number: Any) -> bool:
    bits = max(int(number.p).bit_length(), int(number.q).bit_length()) if number.is_Rational else 0
    return bits > 4096 or bool(abs(number) > MAX_NUMBER)


_Functions = Mapping[str, Callable[..., Any]]


def _evaluate(tree: Any, values: Mapping[str, Any], functions: _Functions) -> Any:
    """Walk a sympy expression; constants stay floats, everything else is a tensor."""
    if tree.is_Symbol:
        return values[tree.name]
    if not tree.free_symbols:
        return float(tree)
    name = tree.func.__name__
    # ratios of probabilities: p/(p + q) is 0/0 in floats where both underflow
    powers = name == "Pow" or (name == "Mul" and any(factor.is_Pow for factor in tree.args))
    if powers and (logarithm := _log_of_positive(tree, values, functions)) is not None:
        return functions["exp"](logarithm)
    if name == "log":
        logarithm = _log_of_positive(tree.args[0], values, functions)
        if logarithm is not None:
            return logarithm
    return functions[name](*(_evaluate(part, values, functions) for part in tree.args))


def _log_of_positive(tree: Any, values: Mapping[str, Any], functions: _Functions) -> Any:
    """Return the log of an expression made of probabilities, without ever leaving log space.

    None if it is not a positive number, an exp, or a product, power or sum of such.
    """
    if not tree.free_symbols:
        return math.log(float(tree)) if tree.is_positive else None
    name = tree.func.__name__
    if name == "exp":
        return _evaluate(tree.args[0], values, functions)
    if name == "Pow" and tree.exp.is_number:
        inner = _log_of_positive(tree.base, values, functions)
        return None if inner is None else inner * float(tree.exp)
    if name not in ("Mul", "Add"):
        return None
    parts = [_log_of_positive(part, values, functions) for part in tree.args]
    if any(part is None for part in parts):
        return None
    return functions["Add" if name == "Mul" else "logaddexp"](*parts)


def _of_tensors(name: str) -> Callable[..., Any]:
    """Extend a function of two tensors to two values or more, of which one at least is a tensor."""

    def apply(*parts: Value) -> Tensor:
        import torch

        like = next(part for part in parts if isinstance(part, torch.Tensor))
        tensors = (torch.as_tensor(part, dtype=like.dtype, device=like.device) for part in parts)
        return reduce(getattr(torch, name), tensors)

    return apply


_TORCH: dict[str, Callable[..., Any]] = {
    "Add": lambda *parts: reduce(operator.add, parts),
    "Mul": lambda *parts: reduce(operator.mul, parts),
    "Pow": operator.pow,
    "exp": lambda value: value.exp(),
    "log": lambda value: value.log(),
    "Abs": lambda value: value.abs(),
    "Max": _of_tensors("maximum"),
    "Min": _of_tensors("minimum"),
    "logaddexp": _of_tensors("logaddexp"),
    "sign": lambda value: value.sign(),
    "Heaviside": lambda value, *_: (value.sign() + 1) / 2,  # ½ at ties, as in torch's maximum
}
