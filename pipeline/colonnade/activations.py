"""The nonlinearities: pairs (σ, σ′), held as data in one table.

Every formula is meant to hold to a few ulp at every finite z, in float32 and in float64, and without
a branch on the data, because a slope is evaluated on m × B numbers for every block:

* σ′ is written in exp(−|z|) or in a clipped exp(z), never as a difference that cancels;
* where an exponent is a polynomial in z, its leading part is computed without rounding, because
  exp turns an absolute error of its argument into a relative error of the result;
* where a factor multiplies an exponential, the exponential comes in as h·h: h never underflows.

NaN gives NaN, ±inf gives the limit; sin has none there, hence NaN and NumPy's own warning. At a kink
σ′ is what PyTorch takes.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from numbers import Real
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from colonnade.errors import UsageError

__all__ = ["ACTIVATIONS", "Activation", "Formula", "activation"]

Array: TypeAlias = NDArray[np.floating[Any]]

# Elements that one formula sees at a time: its temporaries stay in the L2 cache.
_BLOCK = 16384


class _Format(NamedTuple):
    """What depends on the floating-point format, all of it exact in that format."""

    tail: float  # z exp(z) is 0 at and below it
    flat: float  # 1 + z exp(−z) is 1 at and above it
    huge: float  # E = huge², a power of two, is so large that 1 + E = 2 + E = E
    bell: float  # exp(−a²/2) is 0 at and above it
    half: float  # (a + half) − half keeps so few bits of a < bell that its square is exact
    few: float  # (z + few) − few keeps so few bits of |z| < 24 (12) that _gelu_tanh's u₁ is exact
    cubic: tuple[float, float, float, float]  # κ₁ + κ₂ = √(2/π) and β₁ + β₂ = 0.044715 √(2/π)
    mills: tuple[float, ...]  # polynomial of _mills, lowest power first


# The polynomials interpolate (a + 4) Φ(−a) exp(a²/2) at Chebyshev points of [0, bell].
_FORMATS: Mapping[np.dtype[Any], _Format] = {
    np.dtype(np.float32): _Format(
        tail=-128.0,
        flat=24.0,
        huge=2.0**13,
        bell=16.0,
        half=1.5 * 2.0**15,
        few=1.5 * 2.0**21,
        cubic=(26145 * 2.0**-15, 2.48072474035587989e-6, 73 * 2.0**-11, 3.28768863001243882e-5),
        # fmt: off
        mills=(
            0.7552851385,
            -0.6078965716,
            0.387136708,
            -0.1865238455,
            0.06040547949,
            -0.007522386384,
            -0.003515919052,
            0.001563369968,
            0.0001790493954,
            -0.0001301223115,
        ),
        # fmt: on
    ),
    np.dtype(np.float64): _Format(
        tail=-800.0,
        flat=54.0,
        huge=2.0**28,
        bell=40.0,
        half=1.5 * 2.0**32,
        few=1.5 * 2.0**47,
        cubic=(
            219320838056 * 2.0**-38,
            1.54371526919723461e-12,
            9577081 * 2.0**-28,
            1.19941619799656781e-9,
        ),
        # fmt: off
        mills=(
            0.755285130415751478,
            -0.607896641971891764,
            0.387137400742219335,
            -0.186521857959693392,
            0.0603965748906766544,
            -0.00754018896562501684,
            -0.00347969236180405956,
            0.00163081844248058856,
            0.000133344249783584282,
            -0.00023109482414997104,
            -1.90784340592487053e-6,
            0.0000351442149682578036,
            7.14930832547840089e-7,
            -5.91901318615404412e-6,
            -6.24990699536978521e-7,
            1.02007133925684645e-6,
            2.63543105606844541e-7,
            -1.54619681912219187e-7,
            -7.63471284344108608e-8,
            1.48423900727513431e-8,
            1.39765281559508218e-8,
            -1.01529571764961797e-11,
            -9.990624160023276e-10,
        ),
        # fmt: on
    ),
}

_INV_SQRT_2PI = 1 / math.sqrt(2 * math.pi)
_SELU_ALPHA = 1.6732632423543772848
_SELU_SCALE = 1.0507009873554804934


# Every function below takes (z, out, **parameters), one-dimensional, and fills out; z is not written.
# np.clip bounds and passes NaN on, faster than np.maximum or np.where with a scalar.


def _positive(z: Array, out: Array | None = None) -> Array:
    return np.clip(z, 0.0, np.inf, out=out)


def _negative(z: Array, out: Array | None = None) -> Array:
    return np.clip(z, -np.inf, 0.0, out=out)


def _step(z: Array, out: Array | None = None) -> Array:
    # [z > 0], and NaN for NaN: a number in (0, 1] rounds up to 1, however small
    out = np.clip(z, 0.0, 1.0, out=out)
    return np.ceil(out, out=out)


def _decay(z: Array, rate: float = 1.0) -> Array:
    # exp(−rate |z|)
    e = np.abs(z)
    e *= -rate
    return np.exp(e, out=e)


def _odds(z: Array, sign: float = 1.0) -> Array:
    # E = exp(±z), bounded where E / (1 + E) is 1
    e = z * sign
    np.exp(e, out=e)
    return np.clip(e, 0.0, _FORMATS[z.dtype].huge ** 2, out=e)


def _identity(z: Array, out: Array) -> None:
    np.copyto(out, z)


def _one(z: Array, out: Array) -> None:
    np.clip(z, 1.0, 1.0, out=out)


def _relu(z: Array, out: Array) -> None:
    _positive(z, out)


def _relu_slope(z: Array, out: Array) -> None:
    _step(z, out)


def _leaky_relu(z: Array, out: Array, *, negative_slope: float) -> None:
    _positive(z, out)
    if negative_slope:  # 0 · (−inf) is not wanted
        low = _negative(z)
        low *= negative_slope
        out += low


def _leaky_relu_slope(z: Array, out: Array, *, negative_slope: float) -> None:
    # [z > 0] + negative_slope (1 − [z > 0])
    step = _step(z)
    np.subtract(1.0, step, out=out)
    out *= negative_slope
    out += step


def _hardtanh(z: Array, out: Array, *, min_val: float, max_val: float) -> None:
    np.clip(z, min_val, max_val, out=out)


def _hardtanh_slope(z: Array, out: Array, *, min_val: float, max_val: float) -> None:
    # [min(z − min_val, max_val − z) > 0]; a difference of two floats is 0 only where they are equal
    np.subtract(z, min_val, out=out)
    np.minimum(out, max_val - z, out=out)
    _step(out, out)


def _relu6(z: Array, out: Array) -> None:
    np.clip(z, 0.0, 6.0, out=out)


def _relu6_slope(z: Array, out: Array) -> None:
    _hardtanh_slope(z, out, min_val=0.0, max_val=6.0)


def _hard_sigmoid(z: Array, out: Array) -> None:
    np.add(z, 3.0, out=out)
    np.clip(out, 0.0, 6.0, out=out)
    out /= 6.0


def _hard_sigmoid_slope(z: Array, out: Array) -> None:
    _hardtanh_slope(z, out, min_val=-3.0, max_val=3.0)
    out /= 6.0


def _hard_swish(z: Array, out: Array) -> None:
    _hard_sigmoid(z, out)
    out *= np.clip(z, -3.0, np.inf)  # so that −inf gives 0


def _hard_swish_slope(z: Array, out: Array) -> None:
    # (2c + 3)/6 with c = z bounded to ±3, less the jump of ½ at either end
    c = np.clip(z, -3.0, 3.0)
    np.add(c, c, out=out)
    out += 3.0
    out /= 6.0
    c /= 3.0
    np.trunc(c, out=c)
    c *= 0.5
    out -= c


def _elu(z: Array, out: Array, *, alpha: float) -> None:
    # max(z, 0) + α (exp(min(z, 0)) − 1)
    _negative(z, out)
    np.expm1(out, out=out)
    out *= alpha
    out += _positive(z)


def _elu_slope(z: Array, out: Array, *, alpha: float) -> None:
    # α exp(min(z, 0)) (1 − [z > 0]) + [z > 0]
    _negative(z, out)
    np.exp(out, out=out)
    if alpha == 1.0:
        return
    out *= alpha
    step = _step(z)
    out *= 1.0 - step
    out += step


def _selu(z: Array, out: Array) -> None:
    _elu(z, out, alpha=_SELU_ALPHA)
    out *= _SELU_SCALE


def _selu_slope(z: Array, out: Array) -> None:
    _elu_slope(z, out, alpha=_SELU_ALPHA)
    out *= _SELU_SCALE


def _celu(z: Array, out: Array, *, alpha: float) -> None:
    # max(z, 0) + α (exp(min(z, 0)/α) − 1)
    _negative(z, out)
    out /= alpha
    np.expm1(out, out=out)
    out *= alpha
    out += _positive(z)


def _celu_slope(z: Array, out: Array, *, alpha: float) -> None:
    # exp(min(z, 0)/α)
    _negative(z, out)
    out /= alpha
    np.exp(out, out=out)


def _sigmoid(z: Array, out: Array) -> None:
    # E / (1 + E)
    e = _odds(z)
    np.add(e, 1.0, out=out)
    np.divide(e, out, out=out)


def _sigmoid_slope(z: Array, out: Array) -> None:
    # e / (1 + e)², the same for z and −z
    e = _decay(z)
    np.add(e, 1.0, out=out)
    out *= out
    np.divide(e, out, out=out)


def _log_sigmoid(z: Array, out: Array) -> None:
    # min(z, 0) − log(1 + e)
    e = _decay(z)
    np.log1p(e, out=e)
    _negative(z, out)
    out -= e


def _log_sigmoid_slope(z: Array, out: Array) -> None:
    # 1 − sigmoid(z) = sigmoid(−z)
    e = _odds(z, -1.0)
    np.add(e, 1.0, out=out)
    np.divide(e, out, out=out)


def _softplus(z: Array, out: Array, *, beta: float) -> None:
    # max(z, 0) + log(1 + exp(−β|z|))/β
    e = _decay(z, beta)
    np.log1p(e, out=e)
    e /= beta
    _positive(z, out)
    out += e


def _softplus_slope(z: Array, out: Array, *, beta: float) -> None:
    # sigmoid(βz)
    e = _odds(z, beta)
    np.add(e, 1.0, out=out)
    np.divide(e, out, out=out)


def _softsign(z: Array, out: Array) -> None:
    largest = float(np.finfo(z.dtype).max)
    np.abs(z, out=out)
    out += 1.0
    np.clip(out, 1.0, largest, out=out)
    np.divide(np.clip(z, -largest, largest), out, out=out)


def _softsign_slope(z: Array, out: Array) -> None:
    # the reciprocal is squared, since (1 + |z|)² overflows
    np.abs(z, out=out)
    out += 1.0
    np.divide(1.0, out, out=out)
    out *= out


def _tanh(z: Array, out: Array) -> None:
    np.tanh(z, out=out)


def _tanh_slope(z: Array, out: Array) -> None:
    # 1 − tanh²z = sech²z = 4e / (1 + e)², e = exp(−2|z|)
    e = _decay(z, 2.0)
    np.add(e, 1.0, out=out)
    out *= out
    e *= 4.0
    np.divide(e, out, out=out)


def _tanhshrink(z: Array, out: Array) -> None:
    # z − tanh z cancels for small z. There tanh z = z/(1 + T), T = z²/(3 + z²/(5 + z²/(7 + …))), hence
    # z − tanh z = zT/(1 + T), of positive terms only. Beyond c = ±1.25 follows (z − c) − (tanh z − tanh c).
    c = np.clip(z, -1.25, 1.25)
    square = c * c
    t = np.full_like(z, 19.0)
    for odd in range(17, 2, -2):
        np.divide(square, t, out=t)
        t += odd
    np.divide(square, t, out=t)
    np.add(t, 1.0, out=out)
    t /= out
    t *= c
    np.tanh(z, out=out)
    out -= np.tanh(c)
    np.subtract(z - c, out, out=out)
    out += t


def _tanhshrink_slope(z: Array, out: Array) -> None:
    np.tanh(z, out=out)
    out *= out


def _sin(z: Array, out: Array) -> None:
    np.sin(z, out=out)


def _cos(z: Array, out: Array) -> None:
    np.cos(z, out=out)


# Gates: σ(z) = z s(w), s the logistic function, and hence
# σ′ = s (1 + z w′ (1 − s)) = E/(1 + E) · (1 + E + z w′)/(1 + E), where E = exp(w) = h·h.


def _gated(z: Array, h: Array, out: Array) -> None:
    f = _FORMATS[z.dtype]
    np.clip(h, 0.0, f.huge, out=h)  # at huge the gate is 1 exactly, and σ(z) is z
    np.multiply(h, h, out=out)
    out += 1.0
    np.divide(h, out, out=out)
    out *= np.clip(z, f.tail, np.inf)  # so that −inf gives 0
    out *= h


def _gated_slope(zw: Array, h: Array, out: Array) -> None:
    d = h * h
    d += 1.0
    np.add(d, zw, out=out)
    out /= d
    out *= h
    out /= d
    out *= h


def _half_exp(z: Array) -> tuple[Array, Array]:
    # z, bounded to where exp(z) is neither 0 nor all that counts; exp(z/2)
    f = _FORMATS[z.dtype]
    c = np.clip(z, f.tail, f.flat)
    h = c * 0.5
    return c, np.exp(h, out=h)


def _silu(z: Array, out: Array) -> None:
    # w = z
    _gated(z, _half_exp(z)[1], out)


def _silu_slope(z: Array, out: Array) -> None:
    zw, h = _half_exp(z)
    _gated_slope(zw, h, out)


def _gelu_tanh_half(c: Array) -> Array:
    # h = exp(u), u = κc + βc³ = w/2. With c = r + l, r of few bits:
    # u₁ = (κ₁ + β₁r²) r is exact, u₂ = u − u₁ = (κ₂ + β₂r²) r + (κ + β(c² + cr + r²)) l is small.
    f = _FORMATS[c.dtype]
    k1, k2, b1, b2 = f.cubic
    r = c + f.few
    r -= f.few
    square = r * r
    u2 = c + r
    u2 *= c
    u2 += square
    u2 *= b1 + b2
    u2 += k1 + k2
    u2 *= c - r
    u1 = square * b1
    u1 += k1
    u1 *= r
    square *= b2
    square += k2
    square *= r
    u2 += square
    np.exp(u1, out=u1)
    u1 *= np.exp(u2, out=u2)
    return u1


def _gelu_tanh(z: Array, out: Array) -> None:
    # ½(1 + tanh u) = sigmoid(2u)
    _gated(z, _gelu_tanh_half(np.clip(z, _FORMATS[z.dtype].bell * -0.6, 8.0)), out)


def _gelu_tanh_slope(z: Array, out: Array) -> None:
    # z w′ = 2κz + 6βz³
    f = _FORMATS[z.dtype]
    k1, k2, b1, b2 = f.cubic
    c = np.clip(z, f.bell * -0.6, 8.0)
    h = _gelu_tanh_half(c)
    zw = c * c
    zw *= 6 * (b1 + b2)
    zw += 2 * (k1 + k2)
    zw *= c
    _gated_slope(zw, h, out)


def _mish(z: Array, out: Array) -> None:
    # tanh(log(1 + E)) = n/(n + 2), n = (1 + E)² − 1 = E(E + 2)
    f = _FORMATS[z.dtype]
    h = _half_exp(z)[1]
    np.clip(h, 0.0, f.huge, out=h)
    e = h * h
    np.add(e, 2.0, out=out)
    e *= out
    e += 2.0
    out *= h
    out /= e
    out *= np.clip(z, f.tail, np.inf)
    out *= h


def _mish_slope(z: Array, out: Array) -> None:
    # n/(n + 2) + 2zn′z/(n + 2)², n′ = 2E(E + 1), is E (E + 2 + 4z(E + 1)/(n + 2)) / (n + 2)
    c, h = _half_exp(z)
    e = h * h
    m = e + 2.0
    np.add(e, 1.0, out=out)
    out *= c
    out *= 4.0
    e *= m
    e += 2.0
    out /= e
    out += m
    out *= h
    out /= e
    out *= h


# The normal distribution, φ its density and Φ its integral.


def _bell(a: Array, rate: float) -> Array:
    # exp(−rate a²) = exp(−rate r²) exp(−rate (a − r)(a + r)), r of half the bits: r² is exact
    f = _FORMATS[a.dtype]
    r = a + f.half
    r -= f.half
    rest = a + r
    rest *= a - r
    rest *= -rate
    np.exp(rest, out=rest)
    r *= r
    r *= -rate
    np.exp(r, out=r)
    r *= rest
    return r


def _mills(a: Array, out: Array) -> None:
    # Φ(−a) exp(a²/2) = ½ erfcx(a/√2) = P(t)/(a + 4), t = (a − 4)/(a + 4); scipy's takes ten times as long
    *high, last = _FORMATS[a.dtype].mills
    shifted = a + 4.0
    t = a - 4.0
    t /= shifted
    np.multiply(t, last, out=out)
    for coefficient in reversed(high[1:]):
        out += coefficient
        out *= t
    out += high[0]
    out /= shifted


def _gelu(z: Array, out: Array) -> None:
    # zΦ(z) = max(z, 0) − aΦ(−a), a = |z|
    a = np.abs(z)
    np.clip(a, 0.0, _FORMATS[z.dtype].bell, out=a)
    h = _bell(a, 0.25)
    _mills(a, out)
    out *= a
    out *= h
    out *= h
    np.subtract(_positive(z, a), out, out=out)


def _gelu_slope(z: Array, out: Array) -> None:
    # Φ(z) + zφ(z) is y = Φ(−a) − aφ(a) for z ≤ 0, and 1 − y for z > 0
    a = np.abs(z)
    np.clip(a, 0.0, _FORMATS[z.dtype].bell, out=a)
    h = _bell(a, 0.25)
    _mills(a, out)
    a *= _INV_SQRT_2PI
    out -= a
    out *= h
    out *= h
    step = _step(z, a)
    np.multiply(step, -2.0, out=h)
    h += 1.0
    out *= h
    out += step


def _gaussian(z: Array, out: Array) -> None:
    bell = _FORMATS[z.dtype].bell
    np.copyto(out, _bell(np.clip(z, -bell, bell), 1.0))


def _gaussian_slope(z: Array, out: Array) -> None:
    # −2z exp(−z²)
    bell = _FORMATS[z.dtype].bell
    np.clip(z, -bell, bell, out=out)
    h = _bell(out, 0.5)
    out *= -2.0
    out *= h
    out *= h


@dataclass(frozen=True)
class Formula:
    """One row of the table: what an activation is, in words and in code.

    Attributes
    ----------
    sigma, sigma_prime
        σ and σ′, as text
    value, slope
        the functions: (z, out, **parameters) fills `out`, both one-dimensional
    parameters
        name -> default
    rule
        what the parameters must satisfy: as text, and as a function of them
    """

    sigma: str
    sigma_prime: str
    value: Callable[..., None]
    slope: Callable[..., None]
    parameters: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    rule: tuple[str, Callable[..., bool]] | None = None


ACTIVATIONS: Mapping[str, Formula] = MappingProxyType(
    {
        "celu": Formula(
            "max(z, 0) + min(0, alpha (exp(z/alpha) − 1))",
            "exp(min(z, 0)/alpha)",
            _celu,
            _celu_slope,
            {"alpha": 1.0},
            ("alpha > 0", lambda alpha: alpha > 0),
        ),
        "elu": Formula(
            "z if z > 0 else alpha (exp(z) − 1)",
            "1 if z > 0 else alpha exp(z)",
            _elu,
            _elu_slope,
            {"alpha": 1.0},
        ),
        "gaussian": Formula("exp(−z²)", "−2z exp(−z²)", _gaussian, _gaussian_slope),
        "gelu": Formula("z Φ(z)", "Φ(z) + z φ(z)", _gelu, _gelu_slope),
        "gelu_tanh": Formula(
            "½z (1 + tanh u), u = √(2/π) (z + 0.044715z³)",
            "½(1 + tanh u) + ½z u′ sech²u",
            _gelu_tanh,
            _gelu_tanh_slope,
        ),
        "hard_sigmoid": Formula(
            "min(max(z + 3, 0), 6)/6",
            "1/6 if −3 < z < 3 else 0",
            _hard_sigmoid,
            _hard_sigmoid_slope,
        ),
        "hard_swish": Formula(
            "z min(max(z + 3, 0), 6)/6",
            "0 if z ≤ −3, 1 if z ≥ 3, else (2z + 3)/6",
            _hard_swish,
            _hard_swish_slope,
        ),
        "hardtanh": Formula(
            "min(max(z, min_val), max_val)",
            "1 if min_val < z < max_val else 0",
            _hardtanh,
            _hardtanh_slope,
            {"min_val": -1.0, "max_val": 1.0},
            ("min_val < max_val", lambda min_val, max_val: min_val < max_val),
        ),
        "identity": Formula("z", "1", _identity, _one),
        "leaky_relu": Formula(
            "z if z > 0 else negative_slope z",
            "1 if z > 0 else negative_slope",
            _leaky_relu,
            _leaky_relu_slope,
            {"negative_slope": 0.01},
        ),
        "log_sigmoid": Formula(
            "−log(1 + exp(−z))", "1/(1 + exp(z))", _log_sigmoid, _log_sigmoid_slope
        ),
        "mish": Formula(
            "z tanh(softplus(z))",
            "tanh(softplus(z)) + z sech²(softplus(z)) sigmoid(z)",
            _mish,
            _mish_slope,
        ),
        "relu": Formula("max(z, 0)", "1 if z > 0 else 0", _relu, _relu_slope),
        "relu6": Formula("min(max(z, 0), 6)", "1 if 0 < z < 6 else 0", _relu6, _relu6_slope),
        "selu": Formula(
            "λz if z > 0 else λα (exp(z) − 1), λ = 1.0507…, α = 1.6732…",
            "λ if z > 0 else λα exp(z)",
            _selu,
            _selu_slope,
        ),
        "sigmoid": Formula("1/(1 + exp(−z))", "sigmoid(z) sigmoid(−z)", _sigmoid, _sigmoid_slope),
        "silu": Formula("z sigmoid(z)", "sigmoid(z) (1 + z sigmoid(−z))", _silu, _silu_slope),
        "sin": Formula("sin z", "cos z", _sin, _cos),
        "softplus": Formula(
            "log(1 + exp(beta z))/beta",
            "sigmoid(beta z)",
            _softplus,
            _softplus_slope,
            {"beta": 1.0},
            ("beta > 0", lambda beta: beta > 0),
        ),
        "softsign": Formula("z/(1 + |z|)", "1/(1 + |z|)²", _softsign, _softsign_slope),
        "tanh": Formula("tanh z", "sech²z", _tanh, _tanh_slope),
        "tanhshrink": Formula("z − tanh z", "tanh²z", _tanhshrink, _tanhshrink_slope),
    }
)


def _plain(name: str) -> str:
    return "".join(name.lower().replace("_", " ").replace("-", " ").split())


# What others call them, without case, "_" and "-": LeakyRelu and log-sigmoid are found as they are.
_ALIASES: Mapping[str, str] = {
    **{_plain(name): name for name in ACTIVATIONS},
    "expit": "sigmoid",
    "geluapproximate": "gelu_tanh",
    "gelufast": "gelu_tanh",
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
    """An elementwise nonlinearity σ with its derivative; made by `activation`.

    A plain value: it can be compared, hashed, pickled. Whoever uses it calls `value` and `slope` only.

    Attributes
    ----------
    name
        the key of `ACTIVATIONS`
    settings
        the parameters as (name, value) pairs, all of them
    """

    name: str
    settings: tuple[tuple[str, float], ...] = ()

    @property
    def parameters(self) -> Mapping[str, float]:
        """The parameters, name -> value."""
        return MappingProxyType(dict(self.settings))

    def value(self, z: ArrayLike) -> Array:
        """σ(z), elementwise.

        Parameters
        ----------
        z
            any shape; float32 and float64 are kept, other real numbers become float64

        Returns
        -------
        ndarray
            of the shape of z, newly allocated; z is not changed

        Raises
        ------
        TypeError
            z does not hold real numbers
        """
        return _evaluate(ACTIVATIONS[self.name].value, z, dict(self.settings))

    def slope(self, z: ArrayLike) -> Array:
        """σ′(z), elementwise; shapes, types and errors as in `value`."""
        return _evaluate(ACTIVATIONS[self.name].slope, z, dict(self.settings))


def _evaluate(
    function: Callable[..., None], z: ArrayLike, parameters: Mapping[str, float]
) -> Array:
    z = np.asarray(z)
    if z.dtype not in _FORMATS:
        z = z.astype(np.float64, casting="same_kind")
    order: Any = "F" if z.flags.fnc else "C"
    flat = z.ravel(order=order)
    out = np.empty_like(flat)
    # What leaves the range is inf or 0, and exp(inf) is meant; invalid and divide stay loud.
    with np.errstate(over="ignore", under="ignore"):
        for start in range(0, flat.size, _BLOCK):
            part = slice(start, start + _BLOCK)
            function(flat[part], out[part], **parameters)
    return out.reshape(z.shape, order=order)


def activation(name: str, **parameters: float) -> Activation:
    """Look up an activation and set its parameters.

    Parameters
    ----------
    name
        a key of `ACTIVATIONS`, or a name that another library uses for the same function: case, "_" and
        "-" do not count, and "swish", "logistic", "linear", "gelu_new" and a few more are known. The
        result carries our name. A name does not tell which formula a library means by it: `gelu` is the
        exact one (jax.nn.gelu approximates unless told not to), `hard_sigmoid` is relu6(z + 3)/6 (ONNX
        and Keras 2 have 0.2z + 0.5), and the defaults of parameters are PyTorch's.
    **parameters
        those of the activation; left out, they have their defaults. One that is no power of two is
        rounded to the type of z, and so is its product with z.

    Returns
    -------
    Activation
        equal to every other one of the same name and parameters

    Raises
    ------
    UsageError
        the name or a parameter is not known, or a parameter is out of its range
    """
    key = _ALIASES.get(_plain(name))
    if key is None:
        near = difflib.get_close_matches(_plain(name), _ALIASES, n=3)
        hint = f"nearest: {', '.join(dict.fromkeys(_ALIASES[n] for n in near))}; " if near else ""
        raise UsageError(f"no activation {name!r}; {hint}known: {', '.join(ACTIVATIONS)}")
    formula = ACTIVATIONS[key]
    allowed = ", ".join(f"{k}={v:g}" for k, v in formula.parameters.items()) or "none"
    for given, number in parameters.items():
        if given not in formula.parameters:
            raise UsageError(f"activation {key} has no parameter {given!r}; it has: {allowed}")
        if not _usable(number):
            raise UsageError(
                f"activation {key}: {given}={number!r} is not 0 or a number of float32's range, "
                f"1.2e-38 to 3.4e+38; parameters and defaults: {allowed}"
            )
    settings = {k: float(parameters.get(k, v)) for k, v in formula.parameters.items()}
    if formula.rule is not None and not formula.rule[1](**settings):
        given = ", ".join(f"{k}={v:g}" for k, v in settings.items())
        raise UsageError(
            f"activation {key} needs {formula.rule[0]}, got {given}; parameters and defaults: {allowed}"
        )
    return Activation(key, tuple(settings.items()))


def _usable(number: object) -> bool:
    # A number that float32 would make 0 or inf would mean another function there.
    if not isinstance(number, Real) or isinstance(number, bool):
        return False
    f = np.finfo(np.float32)
    return number == 0 or bool(f.tiny <= abs(float(number)) <= f.max)
