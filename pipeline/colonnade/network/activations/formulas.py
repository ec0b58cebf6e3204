"""Formulas that compute σ and σ′ of the elementwise activations.

Each formula aims at an error of a few ulp at every finite z, in float32 and float64. None branches
on the data, because every block evaluates the slope at m × B numbers:

* σ′ is written in exp(−|z|) or a bounded exp(z), never as a difference that cancels;
* where an exponent is a polynomial in z, its leading part is computed without rounding, because
  exp turns an absolute error of its argument into a relative error of the result;
* where an exponential has another factor, it is computed as h·h with an h that does not underflow.

NaN gives NaN; ±inf gives the limit (sin has none: NaN and NumPy's warning). At a kink, σ′ has
PyTorch's value.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]  # float32 or float64


class LowRank(NamedTuple):
    """Slopes of a σ that mixes the entries of a column: Diag(d_k) + Σ_r a_rk b_rkᵀ at column k.

    Attributes
    ----------
    d
        (m, B), the diagonals d_k.
    A, B
        (r, m, B) each, the factors a_rk and b_rk.
    """

    d: Array
    A: Array
    B: Array

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the diagonals, (m, B)."""
        return self.d.shape

    def columns(self, start: int, stop: int) -> LowRank:
        """Return the slopes at columns start to stop."""
        return LowRank(*(part[..., start:stop] for part in self))

    def astype(self, dtype: Any) -> LowRank:
        """Convert to a type, without a copy where the parts already have it."""
        return LowRank(*(part.astype(dtype, copy=False) for part in self))


Slope: TypeAlias = Array | LowRank


class Format(NamedTuple):
    """Constants of a floating-point format, all exact in that format."""

    tail: float  # z exp(z) rounds to 0 for z ≤ tail
    flat: float  # 1 + z exp(−z) rounds to 1 for z ≥ flat
    huge: float  # a power of two; with E = huge², 1 + E and 2 + E round to E
    bell: float  # exp(−a²/2) rounds to 0 for a ≥ bell
    half: float  # (a + half) − half, for a < bell, has so few bits that its square is exact
    few: float  # (z + few) − few, |z| < 0.75 bell, has so few bits that gelu_tanh_h's u₁ is exact
    cubic: tuple[float, float, float, float]  # κ₁ + κ₂ = √(2/π), β₁ + β₂ = 0.044715 √(2/π)
    mills: tuple[float, ...]  # coefficients of the polynomial in `mills`, lowest power first


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

FORMATS: Mapping[np.dtype[Any], Format] = {
    np.dtype(np.float32): Format(
        -128.0, 24.0, 2.0**13, 16.0, 1.5 * 2.0**15, 1.5 * 2.0**21, _CUBIC32, _MILLS32
    ),
    np.dtype(np.float64): Format(
        -800.0, 54.0, 2.0**28, 40.0, 1.5 * 2.0**32, 1.5 * 2.0**47, _CUBIC64, _MILLS64
    ),
}

# Below, z is one-dimensional and never written to. np.clip propagates NaN and is several times
# faster than np.maximum with a scalar, np.sign or np.where.


def positive(z: Array) -> Array:
    return np.clip(z, 0.0, np.inf)


def negative(z: Array) -> Array:
    return np.clip(z, -np.inf, 0.0)


def heaviside(z: Array) -> Array:
    # [z > 0]: a number in (0, 1] rounds up to 1, however small
    out: Array = np.clip(z, 0.0, 1.0)
    np.ceil(out, out=out)
    return out


def decay(z: Array, rate: float) -> Array:
    # exp(−rate |z|)
    e = np.abs(z)
    e *= -rate
    return np.exp(e, out=e)


def leaky_relu(z: Array, negative_slope: float) -> Array:
    if negative_slope == 0:  # avoids 0 · (−inf)
        return positive(z)
    return positive(z) + negative_slope * negative(z)


def leaky_relu_slope(z: Array, negative_slope: float) -> Array:
    step = heaviside(z)
    return negative_slope * (1.0 - step) + step


def clip(z: Array, min_val: float, max_val: float) -> Array:
    return np.clip(z, min_val, max_val)


def between(z: Array, min_val: float, max_val: float) -> Array:
    # [min_val < z < max_val]: a difference of two floats is 0 only where they are equal
    return heaviside(np.minimum(z - min_val, max_val - z))


def hard_sigmoid(z: Array) -> Array:
    return np.clip(z + 3.0, 0.0, 6.0) / 6.0


def hard_swish_slope(z: Array) -> Array:
    # (2c + 3)/6 with c = z bounded to ±3, minus the jump of ±½ at the ends
    c = np.clip(z, -3.0, 3.0)
    return (2.0 * c + 3.0) / 6.0 - 0.5 * np.trunc(c / 3.0)


SELU_ALPHA = 1.6732632423543772848
SELU_SCALE = 1.0507009873554804934


def elu(z: Array, alpha: float, width: float = 1.0, scale: float = 1.0) -> Array:
    # scale (max(z, 0) + α (exp(min(z, 0)/width) − 1))
    return scale * positive(z) + (scale * alpha) * np.expm1(negative(z) / width)


def elu_slope(z: Array, alpha: float, scale: float = 1.0) -> Array:
    e = np.exp(negative(z))
    if alpha == scale == 1:
        return e
    step = heaviside(z)
    return (scale * alpha) * (1.0 - step) * e + scale * step


def logistic(z: Array, beta: float) -> Array:
    # 1/(1 + exp(−βz)) = E/(1 + E), E = exp(βz), bounded where the quotient is 1
    e = np.exp(beta * z)
    np.clip(e, 0.0, FORMATS[z.dtype].huge ** 2, out=e)
    return e / (1.0 + e)


def logistic_slope(z: Array, beta: float, root: float = 1.0) -> Array:
    # s(βz) s(−βz)/root² = e/(root (1 + e))²; root is a power of two, so multiplying is exact
    e = decay(z, beta)
    d = e + 1.0
    if root != 1.0:
        d *= root
    d *= d
    e /= d
    return e


# Without NumPy's vector instructions, cosh takes ten times as long
try:
    from numpy.lib.introspect import opt_func_info

    _COSH = opt_func_info("^cosh$")["cosh"]
    FAST_COSH = all("baseline" not in _COSH[kind]["current"] for kind in ("ff", "dd"))
except (ImportError, KeyError):
    FAST_COSH = False


def tanh_slope(z: Array) -> Array:
    # 1/cosh²z needs half the passes over memory that sech²z = 4 s(2z) s(−2z) needs
    if not FAST_COSH:
        return logistic_slope(z, 2.0, 0.5)
    c = np.cosh(z)
    np.reciprocal(c, out=c)
    c *= c
    return c


def softsign(z: Array) -> Array:
    largest = float(np.finfo(z.dtype).max)
    z = np.clip(z, -largest, largest)  # avoids inf/inf
    return z / (1.0 + np.abs(z))


def tanhshrink(z: Array) -> Array:
    # tanh c = c/(1 + T), T = c²/(3 + c²/(5 + c²/(7 + …))), so c − tanh c = cT/(1 + T), which has
    # only positive terms. c is z bounded to ±1.25; for larger |z|, (z − c) − (tanh z − tanh c) is
    # added.
    c = np.clip(z, -1.25, 1.25)
    square = c * c
    t = np.full_like(z, 19.0)
    for odd in range(17, 2, -2):
        np.divide(square, t, out=t)
        t += odd
    np.divide(square, t, out=t)
    out: Array = c * (t / (1.0 + t)) + ((z - c) - (np.tanh(z) - np.tanh(c)))
    return out


# Gates: σ(z) = z s(w), with the logistic function s and w = w(z). Then σ′ = s (1 + z w′ (1 − s))
# = E/(1 + E) · (1 + E + z w′)/(1 + E), where E = exp(w) = h·h.


def gate(z: Array, h: Array) -> Array:
    f = FORMATS[z.dtype]
    h = np.clip(h, 0.0, f.huge)  # at huge the gate is 1 exactly, and σ(z) is z
    return np.clip(z, f.tail, np.inf) * (h / (1.0 + h * h)) * h  # tail: −inf gives 0


def gate_slope(zw: Array, h: Array) -> Array:
    d = 1.0 + h * h
    return (d + zw) / d * h / d * h


def half_exp(z: Array) -> tuple[Array, Array]:
    # c and exp(c/2), with c = z bounded to [tail, flat]: outside, exp(z) is 0 or outweighs the
    # other terms
    f = FORMATS[z.dtype]
    c = np.clip(z, f.tail, f.flat)
    return c, np.exp(0.5 * c)


def gelu_tanh_h(z: Array) -> tuple[Array, Array]:
    # ½(1 + tanh u) = s(2u), u = κz + βz³, h = exp(u). With r = z without its lower bits,
    # u₁ = (κ₁ + β₁r²) r is exact and u − u₁ = (κ₂ + β₂r²) r + (κ + β(z² + zr + r²))(z − r) small.
    f = FORMATS[z.dtype]
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


def gelu_tanh_slope(z: Array) -> Array:
    # z w′ = 2z (κ + 3βz²)
    k1, k2, b1, b2 = FORMATS[z.dtype].cubic
    z, h = gelu_tanh_h(z)
    return gate_slope((2 * (k1 + k2) + 6 * (b1 + b2) * (z * z)) * z, h)


def mish(z: Array) -> Array:
    # tanh(log(1 + E)) = E (E + 2)/(E (E + 2) + 2)
    f = FORMATS[z.dtype]
    h = np.clip(half_exp(z)[1], 0.0, f.huge)
    e = h * h
    m = e + 2.0
    out: Array = np.clip(z, f.tail, np.inf) * (h * m / (e * m + 2.0)) * h
    return out


def mish_slope(z: Array) -> Array:
    # n/(n + 2) + 2zn′/(n + 2)², n = Em, m = E + 2, is E (m + 4z (E + 1)/(n + 2))/(n + 2)
    c, h = half_exp(z)
    e = h * h
    m = e + 2.0
    n2 = e * m + 2.0
    return (m + 4.0 * c * (e + 1.0) / n2) * h / n2 * h


# The normal distribution: φ is its density, Φ its integral.


def magnitude(z: Array) -> Array:
    # |z| bounded to bell, above which exp(−z²/2) is 0
    a = np.abs(z)
    return np.clip(a, 0.0, FORMATS[z.dtype].bell, out=a)


def gauss(a: Array, rate: float) -> Array:
    # exp(−rate a²) = exp(−rate r²) (1 + (exp(−rate (a − r)(a + r)) − 1)), r² exact
    f = FORMATS[a.dtype]
    r = a + f.half
    r -= f.half
    rest = np.expm1((a - r) * (a + r) * -rate)
    r *= r
    r *= -rate
    np.exp(r, out=r)
    r += r * rest
    return r


def mills(a: Array) -> Array:
    # Φ(−a) exp(a²/2) = ½ erfcx(a/√2) for a ≥ 0; scipy.special.erfcx takes ten times as long
    *rest, last = FORMATS[a.dtype].mills
    t = (a - 4.0) / (a + 4.0)
    p = np.full_like(a, last)
    for coefficient in reversed(rest):
        p *= t
        p += coefficient
    return p / (a + 4.0)


def gelu(z: Array) -> Array:
    # zΦ(z) = max(z, 0) − aΦ(−a), a = |z|
    a = magnitude(z)
    h = gauss(a, 0.25)
    out: Array = positive(z) - a * mills(a) * h * h
    return out


def gelu_slope(z: Array) -> Array:
    # y = Φ(−a) − aφ(a) for z ≤ 0, and 1 − y for z > 0
    a = magnitude(z)
    h = gauss(a, 0.25)
    y = (mills(a) - a * (1 / math.sqrt(2 * math.pi))) * h * h
    step = heaviside(z)
    out: Array = (1.0 - 2.0 * step) * y + step
    return out


def gaussian_slope(z: Array) -> Array:
    bell = FORMATS[z.dtype].bell
    z = np.clip(z, -bell, bell)
    h = gauss(z, 0.5)
    return -2.0 * z * h * h
