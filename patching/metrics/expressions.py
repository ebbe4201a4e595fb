"""Metrics declared as text, such as `logit(answer) - logit(distractor)`.

1. `expression_syntax.parse` reads the text by a whitelisted grammar into a tree.
2. `_build` turns the tree into a sympy expression over real symbols. `p(x)` becomes
   exp(logprob(x)), so that sympy itself turns log(p(x)) into logprob(x): stable for any logits.
3. `Expression` evaluates the sympy expression in torch by walking it, and differentiates it.

With several answers (or distractors) `logit` is their mean, `p` their sum, and `logprob` the log
of that sum. Larger is better unless the declaration starts with `minimize:`.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import reduce
from typing import TYPE_CHECKING, Any

from .expression_syntax import Atom, Declaration, Number, Tree, parse, refuse
from .metric import Metric, Target, log_prob, mean_logit

if TYPE_CHECKING:
    from torch import Tensor

    Value = Tensor | float

MAX_EXPONENT = 64
MAX_NUMBER = 1e30


@dataclass(frozen=True)
class Expression:
    """Hold a function of the quantities `logit(…)` and `logprob(…)`.

    `tree` is a sympy expression; its symbols are the quantities' names.

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
        return torch.as_tensor(_evaluate(self.tree, values), dtype=like.dtype).expand(like.shape)

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
    """Read an expression (with or without a direction).

    Raises:
        MetricSyntaxError: it cannot be read, is constant, or is not a real number.
    """
    return _simplified(parse(text), text)


def expression_metric(text: str) -> Metric:
    """Build the metric an expression declares; its name is the declaration.

    >>> expression_metric("logit(answer) - logit(distractor)").needs_distractors
    True

    Raises:
        MetricSyntaxError: as `expression`.
    """
    declaration = parse(text)
    compiled = _simplified(declaration, text)

    def function(logits: Tensor, target: Target) -> Tensor:
        return compiled(_quantities(compiled.quantities, logits, target))

    function.__doc__ = f"The value of {declaration.text}."
    return Metric(
        name=declaration.text,
        function=function,
        larger_is_better=declaration.larger_is_better,
        needs_distractors=any("distractor" in name for name in compiled.quantities),
        tokens_only=all(name.startswith("logit(") for name in compiled.quantities),
    )


def _quantities(names: frozenset[str], logits: Tensor, target: Target) -> dict[str, Tensor]:
    """Compute the named quantities [..., B] from logits [..., B, V]."""
    sides = {"answer": target.answers, "distractor": target.distractors}
    measures = {"logit": mean_logit, "logprob": log_prob}
    return {
        f"{quantity}({side})": measure(logits, ids)
        for quantity, measure in measures.items()
        for side, ids in sides.items()
        if f"{quantity}({side})" in names
    }


# -- tree to sympy ------------------------------------------------------------------------------


def _simplified(declaration: Declaration, text: str) -> Expression:
    import sympy

    tree = sympy.expand_log(_build(declaration.tree, text), deep=True)
    tree = sympy.powsimp(tree, deep=True, combine="exp")  # exp(a)*exp(-b) could be 0 * infinity
    if not tree.free_symbols:
        start = text.find(":") + 1
        at = start + len(text[start:]) - len(text[start:].lstrip())
        refuse(text, at, f"its value is always {tree}; use logit(answer), p(answer) and the like")
    return Expression(tree)


def _build(tree: Tree, text: str) -> Any:
    """Turn a tree into sympy, operands first, refusing at each place what has no real value."""
    import sympy

    if isinstance(tree, Number):
        return _constant(lambda: _literal(tree.text), tree.at, text)
    if isinstance(tree, Atom):
        quantity = "logprob" if tree.quantity == "p" else tree.quantity
        symbol = sympy.Symbol(f"{quantity}({tree.side})", real=True)
        return sympy.exp(symbol) if tree.quantity == "p" else symbol
    operands = [_build(operand, text) for operand in tree.operands]
    if all(operand.is_number for operand in operands):
        values = [float(operand) for operand in operands]
        return _constant(lambda: float(_NUMERIC[tree.name](*values)), tree.at, text)
    if tree.name == "**" and operands[1].is_number and abs(operands[1]) > MAX_EXPONENT:
        refuse(text, tree.at, f"the exponent {operands[1]} is too large; accepted: ±{MAX_EXPONENT}")
    built = _SYMBOLIC[tree.name](sympy, *operands)
    if built.has(sympy.zoo, sympy.nan, sympy.oo, -sympy.oo):
        refuse(text, tree.at, "this is always infinite or undefined")
    if built.has(sympy.I) or built.is_real is False:
        refuse(text, tree.at, "this is never a real number")
    if any(_is_excessive(number) for number in built.atoms(sympy.Number)):
        refuse(text, tree.at, f"this makes numbers beyond {MAX_NUMBER:.0e}")
    return built


def _literal(text: str) -> float:
    number = float(text)
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


_NUMERIC: dict[str, Callable[..., Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "**": operator.pow,
    "neg": operator.neg,
    "log": math.log,
    "exp": math.exp,
    "abs": abs,
    "sqrt": math.sqrt,
    "max": max,
    "min": min,
}
_SYMBOLIC: dict[str, Callable[..., Any]] = {
    "+": lambda sympy, a, b: a + b,
    "-": lambda sympy, a, b: a - b,
    "*": lambda sympy, a, b: a * b,
    "/": lambda sympy, a, b: a / b,
    "**": lambda sympy, a, b: a**b,
    "neg": lambda sympy, a: -a,
    "log": lambda sympy, a: sympy.expand_log(sympy.log(a)),
    "exp": lambda sympy, a: sympy.exp(a),
    "abs": lambda sympy, a: sympy.Abs(a),
    "sqrt": lambda sympy, a: sympy.sqrt(a),
    "max": lambda sympy, *a: sympy.Max(*a),
    "min": lambda sympy, *a: sympy.Min(*a),
}


# -- sympy to torch -----------------------------------------------------------------------------


def _evaluate(tree: Any, values: Mapping[str, Tensor]) -> Value:
    """Walk a sympy expression; constants stay floats, everything else is a tensor."""
    if tree.is_Symbol:
        return values[tree.name]
    if not tree.free_symbols:
        return float(tree)
    name = tree.func.__name__
    if name == "Pow" or (name == "Mul" and any(factor.is_Pow for factor in tree.args)):
        # ratios of probabilities: p/(p + q) is 0/0 in floats where both underflow
        logarithm = _log_of_positive(tree, values)
        if logarithm is not None:
            return _exp(logarithm)
    if name == "log":
        logarithm = _log_of_positive(tree.args[0], values)
        if logarithm is not None:
            return logarithm
    return _TORCH[name](*(_evaluate(part, values) for part in tree.args))


def _log_of_positive(tree: Any, values: Mapping[str, Tensor]) -> Value | None:
    """Return the log of an expression made of probabilities, without ever leaving log space.

    None if it is not a positive number, an exp, or a product, power or sum of such.
    """
    if not tree.free_symbols:
        return math.log(float(tree)) if tree.is_positive else None
    name = tree.func.__name__
    if name == "exp":
        return _evaluate(tree.args[0], values)
    if name == "Pow" and tree.exp.is_number:
        inner = _log_of_positive(tree.base, values)
        return None if inner is None else inner * float(tree.exp)
    if name not in ("Mul", "Add"):
        return None
    parts = [_log_of_positive(part, values) for part in tree.args]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    return reduce(operator.add if name == "Mul" else _log_add_exp, known)


def _log_add_exp(a: Value, b: Value) -> Value:
    import torch

    if isinstance(a, float) and isinstance(b, float):
        return max(a, b) + math.log1p(math.exp(-abs(a - b)))
    return torch.logaddexp(*_tensors(a, b))


def _tensors(a: Value, b: Value) -> tuple[Tensor, Tensor]:
    """Give the float of a mixed pair the other's shape and type."""
    import torch

    like = a if isinstance(a, torch.Tensor) else b
    assert isinstance(like, torch.Tensor)
    return torch.as_tensor(a).to(like), torch.as_tensor(b).to(like)


def _exp(value: Value) -> Value:
    return math.exp(value) if isinstance(value, float) else value.exp()


def _sum(*parts: Value) -> Value:
    return reduce(operator.add, parts)


def _product(*parts: Value) -> Value:
    return reduce(operator.mul, parts)


def _power(base: Value, exponent: Value) -> Value:
    power: Value = base**exponent
    return power


def _larger(*parts: Value) -> Value:
    return reduce(lambda a, b: _tensors(a, b)[0].maximum(_tensors(a, b)[1]), parts)


def _smaller(*parts: Value) -> Value:
    return reduce(lambda a, b: _tensors(a, b)[0].minimum(_tensors(a, b)[1]), parts)


def _step(value: Tensor, *_: Value) -> Value:
    """Return Heaviside's function, one half at zero: what torch's maximum does with ties."""
    return (value.sign() + 1) / 2


_TORCH: dict[str, Callable[..., Value]] = {
    "Add": _sum,
    "Mul": _product,
    "Pow": _power,
    "exp": _exp,
    "log": lambda value: value.log(),
    "Abs": lambda value: value.abs(),
    "Max": _larger,
    "Min": _smaller,
    "sign": lambda value: value.sign(),
    "Heaviside": _step,
}
