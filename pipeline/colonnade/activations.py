"""The nonlinearities: pairs (σ, σ′), held as data in one table.

Each formula is meant to hold to a few ulp at every finite z, in float32 and float64, and has no
branch on the data, because a slope is evaluated on m × B numbers for every block:

* σ′ is written in exp(−|z|) or a bounded exp(z), never as a difference that cancels;
* where an exponent is a polynomial in z, its leading part is computed without rounding, because
  exp turns an absolute error of its argument into a relative error of the result;
* where a factor multiplies an exponential, that comes in as h·h, and h does not underflow.

NaN gives NaN; ±inf gives the limit (sin has none: NaN and NumPy's warning). At a kink σ′ is what
PyTorch takes.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from colonnade.errors import UsageError

__all__ = ["ACTIVATIONS", "Activation", "Formula", "activation"]

Array: TypeAlias = NDArray[Any]  # float32 or float64

# Elements that a formula sees at a time, so that its temporaries stay in the L2 cache.
_BLOCK = 32768


class _Format(NamedTuple):
    """What depends on the floating-point format, all of it exact there."""

    tail: float  # z exp(z) is 0 at and below it
    flat: float  # 1 + z exp(−z) is 1 at and above it
    huge: float  # with E = huge², a power of two, 1 + E and 2 + E are E
    bell: float  # exp(−a²/2) is 0 at and above it
    half: float  # (a + half) − half, for a < bell, has so few bits that its square is exact
    few: float  # (z + few) − few, for |z| < 0.75 bell, has so few that u₁ of _gelu_tanh_h is exact
    cubic: tuple[float, float, float, float]  # κ₁ + κ₂ = √(2/π), β₁ + β₂ = 0.044715 √(2/π)
    mills: tuple[float, ...]  # polynomial of _mills, lowest power first


# (a + 4) Φ(−a) exp(a²/2) in t = (a − 4)/(a + 4), interpolated at Chebyshev points of [0, bell].
_MILLS32 = (
    0.7552851385, -0.6078965716, 0.387136708, -0.1865238455, 0.06040547949, -0.007522386384,
    -0.003515919052, 0.001563369968, 0.0001790493954, -0.0001301223115,
)  # fmt: skip
_MILLS64 = (
    0.755285130415751478, -0.607896641971891764, 0.387137400742219335, -0.186521857959693392,
    0.0603965748906766544, -0.00754018896562501684, -0.00347969236180405956, 0.00163081844248058856,
    0.000133344249783584282, -0.00023109482414997104, -1.90784340592487053e-6,
    0.0000351442149682578036, 7.14930832547840089e-7, -5.91901318615404412e-6,
    -6.24990699536978521e-7, 1.02007133925684645e-6, 2.63543105606844541e-7,
    -1.54619681912219187e-7, -7.63471284344108608e-8, 1.48423900727513431e-8,
    1.39765281559508218e-8, -1.01529571764961797e-11, -9.990624160023276e-10,
)  # fmt: skip
_CUBIC32 = (26145 * 2.0**-15, 2.48072474035587989e-6, 73 * 2.0**-11, 3.28768863001243882e-5)
_CUBIC64 = (219320838056 * 2.0**-38, 1.54371526919723461e-12, 9577081 * 2.0**-28, 1.19941619799656781e-9)  # fmt: skip # noqa: E501

_FORMATS: Mapping[np.dtype[Any], _Format] = {
    np.dtype(np.float32): _Format(
        -128.0, 24.0, 2.0**13, 16.0, 1.5 * 2.0**15, 1.5 * 2.0**21, _CUBIC32, _MILLS32
    ),
    np.dtype(np.float64): _Format(
        -800.0, 54.0, 2.0**28, 40.0, 1.5 * 2.0**32, 1.5 * 2.0**47, _CUBIC64, _MILLS64
    ),
}

# Below, z is one-dimensional and is not written. np.clip passes NaN on and is several times faster
# than np.maximum with a scalar, np.sign or np.where.


def _positive(z: Array) -> Array:
    return np.clip(z, 0.0, np.inf)


def _negative(z: Array) -> Array:
    return np.clip(z, -np.inf, 0.0)


def _step(z: Array) -> Array:
    # [z > 0]: a number in (0, 1] rounds up to 1, however small
    out: Array = np.clip(z, 0.0, 1.0)
    np.ceil(out, out=out)
    return out


def _decay(z: Array, rate: float) -> Array:
    # exp(−rate |z|)
    e = np.abs(z)
    e *= -rate
    return np.exp(e, out=e)


def _leaky_relu(z: Array, negative_slope: float) -> Array:
    if negative_slope == 0:  # 0 · (−inf) is not wanted
        return _positive(z)
    return _positive(z) + negative_slope * _negative(z)


def _leaky_relu_slope(z: Array, negative_slope: float) -> Array:
    step = _step(z)
    return negative_slope * (1.0 - step) + step


def _clip(z: Array, min_val: float, max_val: float) -> Array:
    return np.clip(z, min_val, max_val)


def _between(z: Array, min_val: float, max_val: float) -> Array:
    # [min_val < z < max_val]: a difference of two floats is 0 only where they are equal
    return _step(np.minimum(z - min_val, max_val - z))


def _hard_sigmoid(z: Array) -> Array:
    return np.clip(z + 3.0, 0.0, 6.0) / 6.0


def _hard_swish_slope(z: Array) -> Array:
    # (2c + 3)/6 with c = z bounded to ±3, less the jump of ½ at either end
    c = np.clip(z, -3.0, 3.0)
    return (2.0 * c + 3.0) / 6.0 - 0.5 * np.trunc(c / 3.0)


_SELU_ALPHA = 1.6732632423543772848
_SELU_SCALE = 1.0507009873554804934


def _elu(z: Array, alpha: float, width: float = 1.0, scale: float = 1.0) -> Array:
    # scale (max(z, 0) + α (exp(min(z, 0)/width) − 1))
    return scale * _positive(z) + (scale * alpha) * np.expm1(_negative(z) / width)


def _elu_slope(z: Array, alpha: float, scale: float = 1.0) -> Array:
    e = np.exp(_negative(z))
    if alpha == scale == 1:
        return e
    step = _step(z)
    return (scale * alpha) * (1.0 - step) * e + scale * step


def _logistic(z: Array, beta: float) -> Array:
    # 1/(1 + exp(−βz)) = E/(1 + E), E = exp(βz), bounded where that is 1
    e = np.exp(beta * z)
    np.clip(e, 0.0, _FORMATS[z.dtype].huge ** 2, out=e)
    return e / (1.0 + e)


def _logistic_slope(z: Array, beta: float) -> Array:
    # s(βz) s(−βz) = e/(1 + e)²
    e = _decay(z, beta)
    return e / np.square(1.0 + e)


def _softsign(z: Array) -> Array:
    largest = float(np.finfo(z.dtype).max)
    z = np.clip(z, -largest, largest)  # inf/inf is not wanted
    return z / (1.0 + np.abs(z))


def _tanhshrink(z: Array) -> Array:
    # tanh c = c/(1 + T), T = c²/(3 + c²/(5 + c²/(7 + …))), so c − tanh c = cT/(1 + T) of positive
    # terms only. That is taken up to |c| = 1.25; beyond, (z − c) − (tanh z − tanh c) is added.
    c = np.clip(z, -1.25, 1.25)
    square = c * c
    t = np.full_like(z, 19.0)
    for odd in range(17, 2, -2):
        np.divide(square, t, out=t)
        t += odd
    np.divide(square, t, out=t)
    out: Array = c * (t / (1.0 + t)) + ((z - c) - (np.tanh(z) - np.tanh(c)))
    return out


# Gates: σ(z) = z s(w), s the logistic function and w = w(z), hence σ′ = s (1 + z w′ (1 − s))
# = E/(1 + E) · (1 + E + z w′)/(1 + E), where E = exp(w) = h·h.


def _gate(z: Array, h: Array) -> Array:
    f = _FORMATS[z.dtype]
    h = np.clip(h, 0.0, f.huge)  # at huge the gate is 1 exactly, and σ(z) is z
    return np.clip(z, f.tail, np.inf) * (h / (1.0 + h * h)) * h  # tail: −inf gives 0


def _gate_slope(zw: Array, h: Array) -> Array:
    d = 1.0 + h * h
    return (d + zw) / d * h / d * h


def _half_exp(z: Array) -> tuple[Array, Array]:
    # c = z where exp(z) is neither 0 nor all that counts, else the bound; exp(c/2)
    f = _FORMATS[z.dtype]
    c = np.clip(z, f.tail, f.flat)
    return c, np.exp(0.5 * c)


def _gelu_tanh_h(z: Array) -> tuple[Array, Array]:
    # ½(1 + tanh u) = s(2u), u = κz + βz³, h = exp(u). With r = z but for its lower bits,
    # u₁ = (κ₁ + β₁r²) r is exact and u − u₁ = (κ₂ + β₂r²) r + (κ + β(z² + zr + r²))(z − r) small.
    f = _FORMATS[z.dtype]
    k1, k2, b1, b2 = f.cubic
    z = np.clip(z, -0.75 * f.bell, 8.0)
    r = z + f.few
    r -= f.few
    square = r * r
    rest = (k2 + b2 * square) * r
    rest += ((k1 + k2) + (b1 + b2) * (z * (z + r) + square)) * (z - r)
    h = np.exp((k1 + b1 * square) * r)
    h *= np.exp(rest, out=rest)
    return z, h


def _gelu_tanh_slope(z: Array) -> Array:
    # z w′ = 2z (κ + 3βz²)
    k1, k2, b1, b2 = _FORMATS[z.dtype].cubic
    z, h = _gelu_tanh_h(z)
    return _gate_slope((2 * (k1 + k2) + 6 * (b1 + b2) * (z * z)) * z, h)


def _mish(z: Array) -> Array:
    # tanh(log(1 + E)) = E (E + 2)/(E (E + 2) + 2)
    f = _FORMATS[z.dtype]
    h = np.clip(_half_exp(z)[1], 0.0, f.huge)
    e = h * h
    m = e + 2.0
    out: Array = np.clip(z, f.tail, np.inf) * (h * m / (e * m + 2.0)) * h
    return out


def _mish_slope(z: Array) -> Array:
    # n/(n + 2) + 2zn′/(n + 2)², n = Em, m = E + 2, is E (m + 4z (E + 1)/(n + 2))/(n + 2)
    c, h = _half_exp(z)
    e = h * h
    m = e + 2.0
    n2 = e * m + 2.0
    return (m + 4.0 * c * (e + 1.0) / n2) * h / n2 * h


# The normal distribution: φ its density, Φ its integral.


def _magnitude(z: Array) -> Array:
    # |z| where exp(−z²/2) is not 0, else the bound
    a = np.abs(z)
    return np.clip(a, 0.0, _FORMATS[z.dtype].bell, out=a)


def _bell(a: Array, rate: float) -> Array:
    # exp(−rate a²) = exp(−rate r²) (1 + (exp(−rate (a − r)(a + r)) − 1)), r² exact
    f = _FORMATS[a.dtype]
    r = a + f.half
    r -= f.half
    rest = np.expm1((a - r) * (a + r) * -rate)
    r *= r
    r *= -rate
    np.exp(r, out=r)
    r += r * rest
    return r


def _mills(a: Array) -> Array:
    # Φ(−a) exp(a²/2) = ½ erfcx(a/√2) for a ≥ 0; scipy.special.erfcx takes ten times as long
    *rest, last = _FORMATS[a.dtype].mills
    t = (a - 4.0) / (a + 4.0)
    p = np.full_like(a, last)
    for coefficient in reversed(rest):
        p *= t
        p += coefficient
    return p / (a + 4.0)


def _gelu(z: Array) -> Array:
    # zΦ(z) = max(z, 0) − aΦ(−a), a = |z|
    a = _magnitude(z)
    h = _bell(a, 0.25)
    out: Array = _positive(z) - a * _mills(a) * h * h
    return out


def _gelu_slope(z: Array) -> Array:
    # y = Φ(−a) − aφ(a) for z ≤ 0, and 1 − y for z > 0
    a = _magnitude(z)
    h = _bell(a, 0.25)
    y = (_mills(a) - a * (1 / math.sqrt(2 * math.pi))) * h * h
    step = _step(z)
    out: Array = (1.0 - 2.0 * step) * y + step
    return out


def _gaussian_slope(z: Array) -> Array:
    bell = _FORMATS[z.dtype].bell
    z = np.clip(z, -bell, bell)
    h = _bell(z, 0.5)
    return -2.0 * z * h * h


class Formula(NamedTuple):
    """One row of the table."""

    sigma: str  # σ as text
    sigma_prime: str  # σ′ as text
    value: Callable[..., Array]  # σ of a one-dimensional float array and the parameters
    slope: Callable[..., Array]  # σ′ of the same
    parameters: Mapping[str, float] = MappingProxyType({})  # name -> default
    rule: tuple[str, Callable[..., bool]] | None = None  # what the parameters must satisfy


# fmt: off
ACTIVATIONS: Mapping[str, Formula] = MappingProxyType({
    "celu": Formula("max(z, 0) + min(0, alpha (exp(z/alpha) − 1))", "exp(min(z, 0)/alpha)",
        lambda z, alpha: _elu(z, alpha, alpha), lambda z, alpha: np.exp(_negative(z) / alpha),
        {"alpha": 1.0}, ("alpha > 0", lambda alpha: alpha > 0)),
    "elu": Formula("z if z > 0 else alpha (exp(z) − 1)", "1 if z > 0 else alpha exp(z)",
        _elu, _elu_slope, {"alpha": 1.0}),
    "gaussian": Formula("exp(−z²)", "−2z exp(−z²)",
        lambda z: _bell(_magnitude(z), 1.0), _gaussian_slope),
    "gelu": Formula("z Φ(z)", "Φ(z) + z φ(z)", _gelu, _gelu_slope),
    "gelu_tanh": Formula("½z (1 + tanh u), u = √(2/π) (z + 0.044715z³)",
        "½ (1 + tanh u + z u′ sech²u)", lambda z: _gate(z, _gelu_tanh_h(z)[1]), _gelu_tanh_slope),
    "hard_sigmoid": Formula("min(max(z + 3, 0), 6)/6", "1/6 if −3 < z < 3 else 0",
        _hard_sigmoid, lambda z: _between(z, -3.0, 3.0) / 6.0),
    "hard_swish": Formula("z hard_sigmoid(z)", "0 if z ≤ −3 else 1 if z ≥ 3 else (2z + 3)/6",
        lambda z: np.clip(z, -3.0, np.inf) * _hard_sigmoid(z), _hard_swish_slope),
    "hardtanh": Formula("min(max(z, min_val), max_val)", "1 if min_val < z < max_val else 0",
        _clip, _between, {"min_val": -1.0, "max_val": 1.0},
        ("min_val < max_val", lambda min_val, max_val: min_val < max_val)),
    "identity": Formula("z", "1", np.copy, lambda z: np.clip(z, 1.0, 1.0)),
    "leaky_relu": Formula("z if z > 0 else negative_slope z", "1 if z > 0 else negative_slope",
        _leaky_relu, _leaky_relu_slope, {"negative_slope": 0.01}),
    "log_sigmoid": Formula("−log(1 + exp(−z))", "1/(1 + exp(z))",
        lambda z: _negative(z) - np.log1p(_decay(z, 1.0)), lambda z: _logistic(z, -1.0)),
    "mish": Formula("z tanh y, y = log(1 + exp(z))", "tanh y + z sigmoid(z) sech²y",
        _mish, _mish_slope),
    "relu": Formula("max(z, 0)", "1 if z > 0 else 0", _positive, _step),
    "relu6": Formula("min(max(z, 0), 6)", "1 if 0 < z < 6 else 0",
        lambda z: _clip(z, 0.0, 6.0), lambda z: _between(z, 0.0, 6.0)),
    "selu": Formula("λz if z > 0 else λα (exp(z) − 1), λ = 1.05070…, α = 1.67326…",
        "λ if z > 0 else λα exp(z)",
        lambda z: _elu(z, _SELU_ALPHA, scale=_SELU_SCALE),
        lambda z: _elu_slope(z, _SELU_ALPHA, scale=_SELU_SCALE)),
    "sigmoid": Formula("1/(1 + exp(−z))", "sigmoid(z) sigmoid(−z)",
        lambda z: _logistic(z, 1.0), lambda z: _logistic_slope(z, 1.0)),
    "silu": Formula("z sigmoid(z)", "sigmoid(z) (1 + z sigmoid(−z))",
        lambda z: _gate(z, _half_exp(z)[1]), lambda z: _gate_slope(*_half_exp(z))),
    "sin": Formula("sin z", "cos z", np.sin, np.cos),
    "softplus": Formula("log(1 + exp(beta z))/beta", "sigmoid(beta z)",
        lambda z, beta: _positive(z) + np.log1p(_decay(z, beta)) / beta, _logistic,
        {"beta": 1.0}, ("beta > 0", lambda beta: beta > 0)),
    "softsign": Formula("z/(1 + |z|)", "1/(1 + |z|)²",
        _softsign, lambda z: np.square(1.0 / (1.0 + np.abs(z)))),  # (1 + |z|)² overflows
    "tanh": Formula("tanh z", "sech²z = 4 sigmoid′(2z)",
        np.tanh, lambda z: 4.0 * _logistic_slope(z, 2.0)),
    "tanhshrink": Formula("z − tanh z", "tanh²z", _tanhshrink, lambda z: np.square(np.tanh(z))),
})
# fmt: on


_LEAST, _MOST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c not in "_- ")


# Names elsewhere. _plain makes LeakyRelu, hard_tanh and logsigmoid ours already.
_ALIASES = {_plain(name): name for name in ACTIVATIONS} | {
    "expit": "sigmoid",
    "geluapproximate": "gelu_tanh",
    "gelunew": "gelu_tanh",
    "gelupytorchtanh": "gelu_tanh",
    "hardsilu": "hard_swish",
    "linear": "identity",
    "logistic": "sigmoid",
    "sine": "sin",
    "swish": "silu",
}


@dataclass(frozen=True)
class Activation:
    """An elementwise σ with its derivative; a plain value, made by `activation`.

    Attributes
    ----------
    name
        the key of `ACTIVATIONS`
    settings
        all of its parameters, as (name, value) pairs
    """

    name: str
    settings: tuple[tuple[str, float], ...] = ()

    @property
    def parameters(self) -> Mapping[str, float]:
        """The parameters, name -> value."""
        return dict(self.settings)

    def value(self, z: ArrayLike) -> Array:
        """σ(z), elementwise, in a new array of the shape of z.

        float32 and float64 are kept, other real types become float64, and what is not real
        raises TypeError.
        """
        return _evaluate(partial(ACTIVATIONS[self.name].value, **self.parameters), z)

    def slope(self, z: ArrayLike) -> Array:
        """σ′(z), elementwise; shape and type are those of `value`."""
        return _evaluate(partial(ACTIVATIONS[self.name].slope, **self.parameters), z)


def _evaluate(function: Callable[[Array], Array], z: ArrayLike) -> Array:
    z = np.asarray(z)
    if z.dtype not in _FORMATS:
        z = z.astype(np.float64, casting="same_kind")
    order: Any = "F" if z.flags.fnc else "C"
    flat = z.ravel(order=order)
    out = np.empty_like(flat)
    # What leaves the range is inf or 0, and exp(inf) is meant; invalid and divide stay loud.
    with np.errstate(over="ignore", under="ignore"):
        for start in range(0, flat.size, _BLOCK):
            out[start : start + _BLOCK] = function(flat[start : start + _BLOCK])
    return out.reshape(z.shape, order=order)


def activation(name: str, **parameters: float) -> Activation:
    """Look up an activation and set its parameters.

    Parameters
    ----------
    name
        a key of `ACTIVATIONS`, without regard to case, "_" and "-", or another common name of the
        function, as swish, logistic, linear, gelu_new; the result has ours. Note that other
        libraries give some names another meaning: jax.nn.gelu is `gelu_tanh` unless told otherwise,
        and hard_sigmoid in ONNX is 0.2z + 0.5 where `hard_sigmoid` is z/6 + 0.5.
    **parameters
        those of the activation, with PyTorch's defaults. A parameter is rounded to the type of z.

    Returns
    -------
    Activation
        equal to any other one of that name and those parameters

    Raises
    ------
    UsageError
        the name or a parameter is not known, or a parameter is out of its range
    """
    key = _ALIASES.get(_plain(name))
    if key is None:
        near = [_ALIASES[n] for n in difflib.get_close_matches(_plain(name), _ALIASES)]
        hint = f"nearest: {', '.join(dict.fromkeys(near))}; " if near else ""
        raise UsageError(f"no activation {name!r}; {hint}known: {', '.join(ACTIVATIONS)}")
    formula = ACTIVATIONS[key]
    allowed = ", ".join(f"{k}={v:g}" for k, v in formula.parameters.items()) or "none"
    for given, number in parameters.items():
        if given not in formula.parameters:
            raise UsageError(f"{key} has no parameter {given!r}; it has (with defaults): {allowed}")
        real = isinstance(number, int | float | np.number) and not isinstance(number, bool)
        # what float32 would make 0 or inf would be another function there
        if not real or not (number == 0 or _LEAST <= abs(number) <= _MOST):
            raise UsageError(
                f"{key}: {given} must be 0 or a number of magnitude 1.2e-38 to 3.4e+38 (as float32"
                f" holds), got {number!r}; parameters and defaults: {allowed}"
            )
    settings = {k: float(parameters.get(k, v)) for k, v in formula.parameters.items()}
    if formula.rule is not None and not formula.rule[1](**settings):
        given = ", ".join(f"{k}={v:g}" for k, v in settings.items())
        raise UsageError(f"{key} needs {formula.rule[0]}, got {given}; defaults: {allowed}")
    return Activation(key, tuple(settings.items()))
