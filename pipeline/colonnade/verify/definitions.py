"""σ as a textbook has it, and where σ′ lies on an interval: what results are verified against.

Nothing here is shared with `formulas`. σ is written on complex numbers, and σ′(x) is the imaginary
part of σ(x + ih) divided by h (the complex step: W. Squire and G. Trapp, SIAM Review 40, 1998).
With h = 1e-100 no square of it is left, so that nothing is truncated and no difference cancels: σ′
comes out as exactly as the parts of σ do, down to `LEAST`. Where σ has pieces, the real part
chooses.

Between its `bends` (the kinks of σ, and the extrema of σ′) σ′ is monotone. Its values on an
interval therefore lie between those at the ends and at either side of each bend within.

Of an imported σ no bends are known: its slopes on an interval are those at points spread over it,
with as much again on either side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from colonnade.activations.imported import derivative, imported

__all__ = ["DEFINITIONS", "LEAST", "Definition", "sigma", "slope_range"]

Array: TypeAlias = NDArray[Any]  # float64, or complex128 near the real axis

_STEP = 1e-100
LEAST = 1e-200
"""A slope's absolute error: h times a smaller one leaves the range, and h² counts beside it."""
# Beyond, exp(−|x|) is 0
_FAR = 800.0


class Definition(NamedTuple):
    """One activation.

    Attributes
    ----------
    value
        σ of an array, real or complex, and the parameters.
    bends
        The points between which σ′ is monotone, or the names of the parameters that they are.
    period
        Of σ, and with it of the bends.
    """

    value: Callable[..., Array]
    bends: tuple[float | str, ...] = (0.0,)
    period: float | None = None


def sigma(name: str, parameters: Mapping[str, float], z: Array) -> NDArray[np.float64]:
    """σ(z), elementwise, in float64."""
    with np.errstate(all="ignore"):
        if name not in DEFINITIONS:
            return imported(name).value(np.asarray(z, np.float64))
        return DEFINITIONS[name].value(np.asarray(z, np.float64), **parameters)


def slope_range(
    name: str, parameters: Mapping[str, float], low: Array, high: Array
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Find the least and the largest slope that σ has in each interval from `low` to `high`.

    Both sides of a kink count, and so does one that lies at an interval's end. NaN gives NaN.
    """
    if name not in DEFINITIONS:
        return _spread(name, low, high)
    value, bends, period = DEFINITIONS[name]
    if period is not None:
        # All slopes there are; far out, floats do not tell one bend from the next
        whole = high - low >= period
        low, high = np.where(whole, 0.0, low), np.where(whole, period, high)
    with np.errstate(all="ignore"):
        ends = _slope(value, parameters, low), _slope(value, parameters, high)
        least, most = np.minimum(*ends), np.maximum(*ends)
        for given in bends:
            bend = parameters[given] if isinstance(given, str) else given
            place = bend if period is None else bend + np.ceil((low - bend) / period) * period
            inside = (low <= place) & (place <= high)
            for side in (-np.inf, np.inf):
                slope = _slope(value, parameters, np.nextafter(bend, side))
                least = np.where(inside, np.minimum(least, slope), least)
                most = np.where(inside, np.maximum(most, slope), most)
    return least, most


def _spread(name: str, low: Array, high: Array) -> tuple[Array, Array]:
    found = imported(name)
    with np.errstate(all="ignore"):
        points = [low + (high - low) * part for part in (0, 0.25, 0.5, 0.75, 1)]
        slopes = [derivative(found, point) for point in points]
        least = np.min([slope - error for slope, error in slopes], axis=0)
        most = np.max([slope + error for slope, error in slopes], axis=0)
        return 1.5 * least - 0.5 * most, 1.5 * most - 0.5 * least


def _slope(value: Callable[..., Array], parameters: Mapping[str, float], z: Any) -> Array:
    slope: Array = value(np.asarray(z) + 1j * _STEP, **parameters).imag / _STEP
    return slope


# The parts of σ. Each is accurate relative to itself, in its imaginary part too, as NumPy's log1p
# and expm1 of complex numbers are not: to first order, f(x + iy) = f(x) + iy f′(x).


def _lifted(z: Array, value: Array, slope: Array) -> Array:
    return value + 1j * (z.imag * slope) if np.iscomplexobj(z) else value


def _log1p(z: Array) -> Array:
    return _lifted(z, np.log1p(z.real), 1 / (1 + z.real))


def _expm1(z: Array) -> Array:
    return _lifted(z, np.expm1(z.real), np.exp(z.real))


def _normal(z: Array) -> Array:
    # Φ, and its derivative φ
    integral = np.vectorize(lambda x: 0.5 * math.erfc(-x / math.sqrt(2)), otypes=[np.float64])
    return _lifted(z, integral(z.real), np.exp(-(z.real**2) / 2) / math.sqrt(2 * math.pi))


def _near(z: Array, bound: float = _FAR) -> Array:
    # Where nothing changes any more, and powers would overflow
    return _lifted(z, np.clip(z.real, -bound, bound), np.ones_like(z.real))


def _minus_abs(z: Array) -> Array:
    return np.where(z.real > 0, -z, z)


def _below(z: Array) -> Array:
    return np.where(z.real > 0, 0, z)


def _logistic(z: Array) -> Array:
    e = np.exp(_minus_abs(_near(z)))
    return np.where(z.real > 0, 1 / (1 + e), e / (1 + e))


def _softplus(z: Array, beta: float = 1.0) -> Array:
    return np.where(z.real > 0, z, 0) + _log1p(np.exp(_minus_abs(_near(beta * z)))) / beta


def _clip(z: Array, min_val: float, max_val: float) -> Array:
    return np.where(z.real <= min_val, min_val, np.where(z.real >= max_val, max_val, z))


def _elu(z: Array, alpha: float, width: float = 1.0, scale: float = 1.0) -> Array:
    return scale * np.where(z.real > 0, z, alpha * _expm1(_below(z) / width))


def _gelu_tanh(z: Array) -> Array:
    c = _near(z)
    # ½ (1 + tanh u) = 1/(1 + exp(−2u)), which does not cancel
    return z * _logistic(2 * math.sqrt(2 / math.pi) * (c + 0.044715 * c**3))


def _hard_swish(z: Array) -> Array:
    return np.where(z.real <= -3, 0, np.where(z.real >= 3, z, z * (z + 3) / 6))


def _softsign(z: Array) -> Array:
    # z/(1 + |z|) = ±(1 − 1/(1 + |z|)): the one is exact for small z, the other's slope for large
    a = -_minus_abs(z)
    far = np.where(z.real > 0, 1, -1) * (1 - 1 / (1 + a))
    return np.where(a.real < 1, z / (1 + a), far)


def _tanhshrink(z: Array) -> Array:
    # z − tanh z = (z cosh z − sinh z)/cosh z, in which Σ_k 2k z^(2k+1)/(2k+1)! does not cancel
    c = _near(z, 1.0)
    series = sum(2 * k / math.factorial(2 * k + 1) * c ** (2 * k + 1) for k in range(12, 0, -1))
    return np.where(np.abs(z.real) < 1, series / np.cosh(c), z - np.tanh(z))


_SQRT2 = math.sqrt(2)
_SELU = {"alpha": 1.6732632423543772848, "scale": 1.0507009873554804934}

# fmt: off
DEFINITIONS: Mapping[str, Definition] = {
    "celu": Definition(lambda z, alpha: _elu(z, alpha, width=alpha)),
    "elu": Definition(_elu),
    "gaussian": Definition(lambda z: np.exp(-_near(z)**2), (-1 / _SQRT2, 1 / _SQRT2)),
    "gelu": Definition(lambda z: z * _normal(z), (-_SQRT2, _SQRT2)),
    "gelu_tanh": Definition(_gelu_tanh, (-1.41850400879082836, 1.41850400879082836)),
    "hard_sigmoid": Definition(lambda z: _clip(z + 3, 0, 6) / 6, (-3.0, 3.0)),
    "hard_swish": Definition(_hard_swish, (-3.0, 3.0)),
    "hardtanh": Definition(_clip, ("min_val", "max_val")),
    "identity": Definition(lambda z: z, ()),
    "leaky_relu": Definition(lambda z, negative_slope: np.where(z.real > 0, z, negative_slope * z)),
    "log_sigmoid": Definition(lambda z: -_softplus(-z), ()),
    "mish": Definition(lambda z: z * np.tanh(_softplus(z)),
        (-2.25637639639079312, 1.49057117945548543)),
    "relu": Definition(lambda z: np.where(z.real > 0, z, 0)),
    "relu6": Definition(lambda z: _clip(z, 0, 6), (0.0, 6.0)),
    "selu": Definition(lambda z: _elu(z, **_SELU)),
    "sigmoid": Definition(_logistic),
    "silu": Definition(lambda z: z * _logistic(z), (-2.39935728051546768, 2.39935728051546768)),
    "sin": Definition(np.sin, (0.0, math.pi), 2 * math.pi),
    "softplus": Definition(_softplus, ()),
    "softsign": Definition(_softsign),
    "tanh": Definition(np.tanh),
    "tanhshrink": Definition(_tanhshrink),
}
# fmt: on
