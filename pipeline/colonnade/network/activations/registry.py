"""Activations: pairs (σ, σ′), from a table or imported by name.

`formulas` computes the elementwise ones and states their accuracy. `columnwise` computes the ones
that mix the entries of a column, and `imported` loads the user's own.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import ArrayLike

from colonnade.buffers import PIECE_BYTES
from colonnade.errors import UsageError
from colonnade.network.activations import formulas as f
from colonnade.network.activations.columnwise import COLUMNWISE, ColumnFormula
from colonnade.network.activations.formulas import Array, Slope
from colonnade.network.activations.imported import Imported, check, imported, is_import, probes

__all__ = ["ACTIVATIONS", "Activation", "Formula", "activation"]


class Formula(NamedTuple):
    """A row of the table of elementwise activations."""

    sigma: str  # σ as text
    sigma_prime: str  # σ′ as text
    value: Callable[..., Array]  # σ of a one-dimensional float array, given the parameters
    slope: Callable[..., Array]  # σ′ with the same arguments
    parameters: Mapping[str, float] = MappingProxyType({})  # name -> default
    rule: tuple[str, Callable[..., bool]] | None = None  # condition on the parameters, as text too


# fmt: off
ACTIVATIONS: Mapping[str, Formula] = MappingProxyType({
    "celu": Formula("max(z, 0) + min(0, alpha (exp(z/alpha) − 1))", "exp(min(z, 0)/alpha)",
        lambda z, alpha: f.elu(z, alpha, alpha), lambda z, alpha: np.exp(f.negative(z) / alpha),
        {"alpha": 1.0}, ("alpha > 0", lambda alpha: alpha > 0)),
    "elu": Formula("z if z > 0 else alpha (exp(z) − 1)", "1 if z > 0 else alpha exp(z)",
        f.elu, f.elu_slope, {"alpha": 1.0}),
    "gaussian": Formula("exp(−z²)", "−2z exp(−z²)",
        lambda z: f.gauss(f.magnitude(z), 1.0), f.gaussian_slope),
    "gelu": Formula("z Φ(z)", "Φ(z) + z φ(z)", f.gelu, f.gelu_slope),
    "gelu_tanh": Formula("½z (1 + tanh u), u = √(2/π) (z + 0.044715z³)",
        "½ (1 + tanh u + z u′ sech²u)",
        lambda z: f.gate(z, f.gelu_tanh_h(z)[1]), f.gelu_tanh_slope),
    "hard_sigmoid": Formula("min(max(z + 3, 0), 6)/6", "1/6 if −3 < z < 3 else 0",
        f.hard_sigmoid, lambda z: f.between(z, -3.0, 3.0) / 6.0),
    "hard_swish": Formula("z hard_sigmoid(z)", "0 if z ≤ −3 else 1 if z ≥ 3 else (2z + 3)/6",
        lambda z: np.clip(z, -3.0, np.inf) * f.hard_sigmoid(z), f.hard_swish_slope),
    "hardtanh": Formula("min(max(z, min_val), max_val)", "1 if min_val < z < max_val else 0",
        f.clip, f.between, {"min_val": -1.0, "max_val": 1.0},
        ("min_val < max_val", lambda min_val, max_val: min_val < max_val)),
    "identity": Formula("z", "1", lambda z: z, lambda z: np.clip(z, 1.0, 1.0)),
    "leaky_relu": Formula("z if z > 0 else negative_slope z", "1 if z > 0 else negative_slope",
        f.leaky_relu, f.leaky_relu_slope, {"negative_slope": 0.01}),
    "log_sigmoid": Formula("−log(1 + exp(−z))", "1/(1 + exp(z))",
        lambda z: f.negative(z) - np.log1p(f.decay(z, 1.0)), lambda z: f.logistic(z, -1.0)),
    "mish": Formula("z tanh y, y = log(1 + exp(z))", "tanh y + z sigmoid(z) sech²y",
        f.mish, f.mish_slope),
    "relu": Formula("max(z, 0)", "1 if z > 0 else 0", f.positive, f.heaviside),
    "relu6": Formula("min(max(z, 0), 6)", "1 if 0 < z < 6 else 0",
        lambda z: f.clip(z, 0.0, 6.0), lambda z: f.between(z, 0.0, 6.0)),
    "selu": Formula("λz if z > 0 else λα (exp(z) − 1), λ = 1.05070…, α = 1.67326…",
        "λ if z > 0 else λα exp(z)",
        lambda z: f.elu(z, f.SELU_ALPHA, scale=f.SELU_SCALE),
        lambda z: f.elu_slope(z, f.SELU_ALPHA, scale=f.SELU_SCALE)),
    "sigmoid": Formula("1/(1 + exp(−z))", "sigmoid(z) sigmoid(−z)",
        lambda z: f.logistic(z, 1.0), lambda z: f.logistic_slope(z, 1.0)),
    "silu": Formula("z sigmoid(z)", "sigmoid(z) (1 + z sigmoid(−z))",
        lambda z: f.gate(z, f.half_exp(z)[1]), lambda z: f.gate_slope(*f.half_exp(z))),
    "sin": Formula("sin z", "cos z", np.sin, np.cos),
    "softplus": Formula("log(1 + exp(beta z))/beta", "sigmoid(beta z)",
        lambda z, beta: f.positive(z) + np.log1p(f.decay(z, beta)) / beta, f.logistic,
        {"beta": 1.0}, ("beta > 0", lambda beta: beta > 0)),
    "softsign": Formula("z/(1 + |z|)", "1/(1 + |z|)²",
        f.softsign, lambda z: np.square(1.0 / (1.0 + np.abs(z)))),  # (1 + |z|)² overflows
    "tanh": Formula("tanh z", "sech²z = 4 sigmoid′(2z)",
        np.tanh, f.tanh_slope),
    "tanhshrink": Formula("z − tanh z", "tanh²z", f.tanhshrink, lambda z: np.square(np.tanh(z))),
})
# fmt: on


_LEAST, _MOST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c not in "_- ")


# Names in other libraries. _plain already maps LeakyRelu, hard_tanh and logsigmoid to ours.
_ALIASES = {_plain(name): name for name in (*ACTIVATIONS, *COLUMNWISE)} | {
    "expit": "sigmoid",
    "geluapproximate": "gelu_tanh",
    "gelunew": "gelu_tanh",
    "gelupytorchtanh": "gelu_tanh",
    "hardsilu": "hard_swish",
    "l2normalization": "l2_normalize",
    "layernormalization": "layer_norm",
    "linear": "identity",
    "logistic": "sigmoid",
    "sine": "sin",
    "swish": "silu",
}


@dataclass(frozen=True)
class Activation:
    """A σ with its derivative: a plain value, made by `activation`.

    Attributes
    ----------
    name
        The key in `ACTIVATIONS` or `COLUMNWISE`, or the ``package.module:object`` to import.
    settings
        All parameters, as (name, value) pairs.
    """

    name: str
    settings: tuple[tuple[str, float], ...] = ()

    @property
    def parameters(self) -> Mapping[str, float]:
        """The parameters, name -> value."""
        return dict(self.settings)

    @property
    def columnwise(self) -> bool:
        """Whether σ mixes the entries of a column, as softmax does; imports an imported σ."""
        if self.name in ACTIVATIONS:
            return False
        return self.name in COLUMNWISE or imported(self.name).columnwise

    def value(self, z: ArrayLike) -> Array:
        """Return σ(z) in a new array of z's shape.

        An elementwise σ takes any shape, a `columnwise` one takes columns: z (m, B). float32 and
        float64 are kept, other real types become float64, and a type that is not real raises
        TypeError.
        """
        return cast("Array", self._of("value", z))

    def slope(self, z: ArrayLike) -> Slope:
        """Return σ′(z) in the shape and type of `value`; a `LowRank` if σ is `columnwise`."""
        return self._of("slope", z)

    def check(self, m: int) -> None:
        """Raise UsageError unless an imported σ can be imported and is valid for m hidden units."""
        if is_import(self.name):
            check(imported(self.name), m)

    def identity(self, m: int) -> list[Any]:
        """Return what identifies σ: its name, parameters and, if imported, values at probes."""
        parts: list[Any] = [self.name, sorted(self.settings)]
        return [*parts, probes(imported(self.name), m)] if is_import(self.name) else parts

    def _of(self, what: str, z: ArrayLike) -> Slope:
        formula: Formula | ColumnFormula | Imported
        formula = ACTIVATIONS.get(self.name) or COLUMNWISE.get(self.name) or imported(self.name)
        function = partial(getattr(formula, what), **self.parameters)
        return _evaluate(function, z, whole=self.columnwise)


def _evaluate(function: Callable[[Array], Slope], z: ArrayLike, *, whole: bool) -> Slope:
    z = np.asarray(z)
    if z.dtype not in f.FORMATS:
        z = z.astype(np.float64, casting="same_kind")
    if whole:
        with np.errstate(over="ignore", under="ignore"):
            return function(z)
    order: Any = "F" if z.flags.fnc else "C"
    flat = z.ravel(order=order)
    # The formulas rely on overflow to inf and underflow to 0; invalid and divide still warn
    with np.errstate(over="ignore", under="ignore"):
        # Elements for each call of a formula, so that its temporaries stay in cache
        width = PIECE_BYTES // flat.itemsize
        if flat.size <= width:
            out = cast("Array", function(flat))
            # identity returns its argument
            out = out.copy() if np.may_share_memory(out, z) else out
        else:
            out = np.empty_like(flat)
            for start in range(0, flat.size, width):
                out[start : start + width] = function(flat[start : start + width])
    return out.reshape(z.shape, order=order)


def activation(name: str, **parameters: float) -> Activation:
    """Look up an activation and set its parameters.

    Parameters
    ----------
    name
        A key of `ACTIVATIONS` or `COLUMNWISE`, ignoring case, "_" and "-"; or another common name
        of the function, such as swish, logistic, linear or gelu_new, which is replaced by the key.
        Some names mean another function in other libraries: jax.nn.gelu is `gelu_tanh` by default,
        and hard_sigmoid in ONNX is 0.2z + 0.5 where `hard_sigmoid` is z/6 + 0.5.
        Or ``package.module:object``, described in `imported`, which is imported on first use.
    **parameters
        Parameters of the activation, with PyTorch's defaults. They are rounded to the type of z.

    Returns
    -------
    Activation
        Equal to any other one of the same name and parameters.

    Raises
    ------
    UsageError
        The name or a parameter is unknown, or a parameter is out of range.
    """
    if is_import(name):
        if parameters:
            raise UsageError(
                f"{name} is imported and takes no parameters here, got {', '.join(parameters)}; "
                "set them in the module that defines it"
            )
        return Activation(name)
    key = _ALIASES.get(_plain(name))
    if key is None:
        near = [_ALIASES[n] for n in difflib.get_close_matches(_plain(name), _ALIASES)]
        hint = f"nearest: {', '.join(dict.fromkeys(near))}; " if near else ""
        known = ", ".join((*ACTIVATIONS, *COLUMNWISE))
        raise UsageError(
            f"no activation {name!r}; {hint}known: {known}, or package.module:object for your own"
        )
    formula: Formula | ColumnFormula = ACTIVATIONS.get(key) or COLUMNWISE[key]
    allowed = ", ".join(f"{k}={v:g}" for k, v in formula.parameters.items()) or "none"
    for given, number in parameters.items():
        if given not in formula.parameters:
            raise UsageError(f"{key} has no parameter {given!r}; it has (with defaults): {allowed}")
        real = isinstance(number, int | float | np.number) and not isinstance(number, bool)
        # A parameter that rounds to 0 or inf in float32 would give another function there
        if not real or not (number == 0 or _LEAST <= abs(number) <= _MOST):
            raise UsageError(
                f"{key}: {given} must be 0 or a number of magnitude 1.2e-38 to 3.4e+38 (the range "
                f"of float32), got {number!r}; parameters and defaults: {allowed}"
            )
    settings = {k: float(parameters.get(k, v)) for k, v in formula.parameters.items()}
    if formula.rule is not None and not formula.rule[1](**settings):
        given = ", ".join(f"{k}={v:g}" for k, v in settings.items())
        raise UsageError(f"{key} needs {formula.rule[0]}, got {given}; defaults: {allowed}")
    return Activation(key, tuple(settings.items()))
