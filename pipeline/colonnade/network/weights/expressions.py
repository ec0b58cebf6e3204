"""A normal form of elementwise functions of z, to recognise activations that exporters spell out.

Exporters write one activation in several ways, such as ½z(1 + erf(z/√2)) and z·(½ + ½erf(…)).
Expanded into a sum of products, these are the same. The text of the sum identifies the function;
it has six digits of each number, as many as the float32 constants of such files have.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from colonnade.limits import EXPRESSION_CHARACTERS, EXPRESSION_TERMS
from colonnade.network.weights.steps import Scale, Sigma, Step

__all__ = ["Expression", "Z", "apply", "clip", "constant", "recognised"]


@dataclass(frozen=True)
class _Function:
    """A function applied to an expression, identified by its text."""

    text: str
    name: str
    parameters: tuple[float, ...]
    argument: Expression


class Expression:
    """A sum of products of z and of functions: factors -> coefficient."""

    def __init__(self, terms: Mapping[tuple[str, ...], float], known: Mapping[str, Any]) -> None:
        self.terms = {factors: c for factors, c in terms.items() if c != 0}
        self.known = known  # functions by text
        self.text = "+".join(
            "*".join(([f"{c:.6g}"] if f"{c:.6g}" != "1" or not factors else []) + list(factors))
            for factors, c in sorted(self.terms.items())
        ) or "0"  # fmt: skip
        if len(self.terms) > EXPRESSION_TERMS or len(self.text) > EXPRESSION_CHARACTERS:
            raise ValueError("its formula is longer than that of any known activation")

    def __add__(self, other: Expression) -> Expression:
        terms = dict(self.terms)
        for factors, c in other.terms.items():
            terms[factors] = terms.get(factors, 0.0) + c
        return Expression(terms, {**self.known, **other.known})

    def __mul__(self, other: Expression) -> Expression:
        terms: dict[tuple[str, ...], float] = {}
        for mine, c in self.terms.items():
            for theirs, d in other.terms.items():
                factors = tuple(sorted(mine + theirs))
                terms[factors] = terms.get(factors, 0.0) + c * d
        return Expression(terms, {**self.known, **other.known})

    @property
    def affine(self) -> tuple[float, float] | None:
        """(a, d) if the expression is a z + d, else None."""
        if not set(self.terms) <= {(), ("z",)}:
            return None
        return self.terms.get(("z",), 0.0), self.terms.get((), 0.0)


Z = Expression({("z",): 1.0}, {})


def constant(number: float) -> Expression:
    """Return a number as an expression; raise ValueError if it is not finite."""
    if not math.isfinite(number):
        raise ValueError("it has a constant that is not finite")
    return Expression({(): number}, {})


def apply(name: str, argument: Expression, *parameters: float) -> Expression:
    """Apply a function, given by name and parameters, to an expression."""
    given = ";".join([argument.text, *(f"{p:.6g}" for p in parameters)])
    function = _Function(f"{name}({given})", name, parameters, argument)
    return Expression({(function.text,): 1.0}, {function.text: function})


def clip(argument: Expression, low: float, high: float) -> Expression:
    """Bound an expression; a bounded a z + d is written as a times a bounded z, plus d."""
    affine = argument.affine
    if affine is None or affine[0] <= 0 or not low < high:
        return apply("clip", argument, low, high)
    a, d = affine
    inner = apply("clip", Z, (low - d) / a, (high - d) / a)
    return constant(a) * inner + constant(d)


def _known() -> dict[str, dict[str, Any]]:
    def f(name: str, argument: Expression = Z) -> Expression:
        return apply(name, argument)

    one, half, minus = constant(1), constant(0.5), constant(-1)
    softplus = f("log", one + f("exp"))
    logistic = f("inverse", one + f("exp", minus * Z))
    kappa = constant(math.sqrt(2 / math.pi))
    cubic = kappa * (Z + constant(0.044715) * Z * Z * Z)
    gate = clip(Z, -3, 3) * constant(1 / 6) + half
    forms = [
        ("gaussian", f("exp", minus * Z * Z)),
        ("gelu", half * Z * (one + f("erf", constant(math.sqrt(0.5)) * Z))),
        ("gelu_tanh", half * Z * (one + f("tanh", cubic))),
        ("hard_sigmoid", gate),
        ("hard_swish", gate * Z),
        ("log_sigmoid", f("log", f("sigmoid"))),
        ("log_sigmoid", minus * f("softplus", minus * Z)),
        ("mish", Z * f("tanh", f("softplus"))),
        ("mish", Z * f("tanh", softplus)),
        ("relu", apply("clip", Z, 0.0, math.inf)),
        ("relu6", clip(Z, 0, 6)),
        ("sigmoid", logistic),
        ("silu", Z * f("sigmoid")),
        ("silu", Z * logistic),
        ("softplus", softplus),
        ("softsign", Z * f("inverse", one + f("abs"))),
        ("tanhshrink", Z + minus * f("tanh")),
    ]
    return {form.text: {"name": name} for name, form in forms}


_KNOWN = _known()

# Functions that are activations, with the names of their parameters
_DIRECT: dict[str, tuple[str, tuple[str, ...]]] = {
    "celu": ("celu", ("alpha",)),
    "clip": ("hardtanh", ("min_val", "max_val")),
    "elu": ("elu", ("alpha",)),
    "gelu": ("gelu", ()),
    "gelu_tanh": ("gelu_tanh", ()),
    "hard_swish": ("hard_swish", ()),
    "leaky_relu": ("leaky_relu", ("negative_slope",)),
    "mish": ("mish", ()),
    "relu": ("relu", ()),
    "selu": ("selu", ()),
    "sigmoid": ("sigmoid", ()),
    "silu": ("silu", ()),
    "sin": ("sin", ()),
    "softplus": ("softplus", ()),
    "softsign": ("softsign", ()),
    "tanh": ("tanh", ()),
}


def recognised(expression: Expression) -> list[Step]:
    """Return an expression as an activation with scalings before and after it.

    Raises
    ------
    ValueError
        The expression is not a known activation; the message shows the expression.
    """
    affine = expression.affine
    if affine is not None:
        return _scaling(*affine)
    if expression.text in _KNOWN:
        return [Sigma(_KNOWN[expression.text])]
    terms = dict(expression.terms)
    offset = terms.pop((), 0.0)
    (factors, factor), *more = terms.items()
    function = expression.known.get(factors[0]) if not more and len(factors) == 1 else None
    inner = function.argument.affine if function else None
    if (
        function is None
        or inner is None
        or function.name not in _DIRECT
        # A one-sided clip is not a hardtanh
        or not all(map(math.isfinite, function.parameters))
    ):
        raise ValueError(
            f"σ(z) = {expression.text}, which is not a known activation; save the weights alone "
            "and import this σ (network.activation: package.module:object)"
        )
    name, keys = _DIRECT[function.name]
    sigma = {"name": name} | dict(zip(keys, function.parameters, strict=True))
    rate, shift = inner
    if name == "softplus" and rate > 0 and math.isclose(rate * factor, 1, rel_tol=1e-6):
        return [*_scaling(1.0, shift / rate), Sigma(sigma | {"beta": rate}), *_scaling(1.0, offset)]
    return [*_scaling(rate, shift), Sigma(sigma), *_scaling(factor, offset)]


def _scaling(factor: float, offset: float) -> list[Step]:
    if (factor, offset) == (1.0, 0.0):
        return []
    return [Scale(factor, offset, f"{factor:.6g} z + {offset:.6g}")]
