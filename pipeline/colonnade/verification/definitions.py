"""Textbook definitions of σ, and the range of σ′ on an interval, for verification.

This module shares no code with `formulas`. σ is evaluated on dual numbers x + εx′ with ε² = 0
(`Dual`), so σ′ follows from σ by the rules of differentiation: without truncation or cancellation,
and as accurate as the parts of σ. Where σ is piecewise, the value of x selects the piece.

σ′ is monotone between its `bends`: the kinks of σ and the extrema of σ′. On an interval it
therefore lies between its values at the ends and at either side of each bend inside.

The bends of an imported σ are unknown. Its slopes are sampled at points spread over the interval,
and the range of the samples is doubled, by half of its width on either side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias, cast

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin
from numpy.typing import NDArray
from scipy.special import erfc

from colonnade.network.activations.imported import derivative, imported

__all__ = ["DEFINITIONS", "LEAST", "Definition", "Dual", "sigma", "slope_range"]

# float64, or a `Dual`, which NumPy's functions accept like an array
Array: TypeAlias = NDArray[Any]

LEAST = 1e-200
"""Absolute error of a slope: products of much smaller parts underflow."""
# Numbers processed at a time: they and their temporaries stay in cache
_PIECE = 2**13
# exp(−|x|) is 0 for larger |x|
_FAR = 800.0


class Definition(NamedTuple):
    """The definition of one activation.

    Attributes
    ----------
    value
        σ as a function of an array or a `Dual`, and of the parameters.
    bends
        The points between which σ′ is monotone, as numbers or as names of parameters.
    period
        Period of σ and of its bends; None if it has none.
    """

    value: Callable[..., Array]
    bends: tuple[float | str, ...] = (0.0,)
    period: float | None = None


def sigma(name: str, parameters: Mapping[str, float], z: Array) -> NDArray[np.float64]:
    """Return σ(z), elementwise, in float64."""
    with np.errstate(all="ignore"):
        if name not in DEFINITIONS:
            return imported(name).value(np.asarray(z, np.float64))
        return DEFINITIONS[name].value(np.asarray(z, np.float64), **parameters)


def slope_range(
    name: str, parameters: Mapping[str, float], low: Array, high: Array
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the least and the largest slope of σ on each interval from `low` to `high`.

    The slopes on both sides of a kink count, even if the kink lies at an interval's end. NaN gives
    NaN.
    """
    if name not in DEFINITIONS:
        return _spread(name, low, high)
    low, high = np.broadcast_arrays(np.asarray(low, np.float64), np.asarray(high, np.float64))
    ends = low.reshape(-1), high.reshape(-1)
    least, most = np.empty(low.size), np.empty(low.size)
    for k in range(0, low.size, _PIECE):
        piece = slice(k, k + _PIECE)
        least[piece], most[piece] = _range(name, parameters, *(end[piece] for end in ends))
    return least.reshape(low.shape), most.reshape(low.shape)


def _range(
    name: str, parameters: Mapping[str, float], low: Array, high: Array
) -> tuple[Array, Array]:
    value, bends, period = DEFINITIONS[name]
    if period is not None:
        # The interval covers a period, so every slope occurs: use the period at 0, since far from
        # 0 floats cannot separate the bends
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
    z = np.asarray(z, np.float64)
    slope: Array = value(Dual(z, np.ones_like(z)), **parameters).imag
    return slope


class Dual(NDArrayOperatorsMixin):
    """Dual numbers x + εx′ with ε² = 0, for which f(x + εx′) = f(x) + ε f′(x) x′.

    Attributes
    ----------
    real, imag
        x and x′. The names are those of a complex number's parts, because the complex step,
        x + ix′ with tiny x′, gives the same result, but more slowly.
    """

    def __init__(self, real: Any, imag: Any) -> None:
        self.real = real
        self.imag = imag

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        """Apply the differentiation rule of a function of one or two numbers."""
        if method != "__call__" or options or ufunc not in _RULES:
            return NotImplemented
        return Dual(*_RULES[ufunc](*(part for given in inputs for part in _parts(given))))

    def __array_function__(
        self, function: Any, types: Any, given: tuple[Any, ...], options: Mapping[str, Any]
    ) -> Any:
        """Apply `numpy.where` to values and derivatives alike."""
        if function is not np.where or options:
            return NotImplemented
        condition, one, other = given
        (x, dx), (y, dy) = _parts(one), _parts(other)
        return Dual(
            np.where(condition, x, y),
            np.where(condition, 0.0 if dx is None else dx, 0.0 if dy is None else dy),
        )


def _parts(given: Any) -> tuple[Any, Any]:
    return (given.real, given.imag) if isinstance(given, Dual) else (given, None)


def _times(factor: Array | float, d: Array | None) -> Any:
    # None marks a constant: with a derivative of 0, an infinite factor would give NaN
    return 0.0 if d is None else factor * d


def _tanh_rule(x: Array, dx: Array) -> tuple[Array, Array]:
    return np.tanh(x), dx / np.cosh(x) ** 2


def _exp_rule(x: Array, dx: Array) -> tuple[Array, Array]:
    e = np.exp(x)
    return e, e * dx


def _divide_rule(x: Array, dx: Array | None, y: Array, dy: Array | None) -> tuple[Array, Array]:
    quotient = x / y
    return quotient, _times(1 / y, dx) - _times(quotient / y, dy)


_RULES: Mapping[np.ufunc, Callable[..., tuple[Array, Array]]] = {
    np.add: lambda x, dx, y, dy: (x + y, _times(1.0, dx) + _times(1.0, dy)),
    np.subtract: lambda x, dx, y, dy: (x - y, _times(1.0, dx) - _times(1.0, dy)),
    np.multiply: lambda x, dx, y, dy: (x * y, _times(y, dx) + _times(x, dy)),
    np.divide: _divide_rule,
    np.negative: lambda x, dx: (-x, -dx),
    np.exp: _exp_rule,
    np.tanh: _tanh_rule,
    np.cosh: lambda x, dx: (np.cosh(x), np.sinh(x) * dx),
    np.sin: lambda x, dx: (np.sin(x), np.cos(x) * dx),
}


# Parts of σ whose rules are not in the table


def _lifted(z: Any, value: Array, slope: Array) -> Array:
    lifted: Any = Dual(value, z.imag * slope) if isinstance(z, Dual) else value
    return cast("Array", lifted)


def _log1p(z: Array) -> Array:
    return _lifted(z, np.log1p(z.real), 1 / (1 + z.real))


def _expm1(z: Array) -> Array:
    return _lifted(z, np.expm1(z.real), np.exp(z.real))


def _normal(z: Array) -> Array:
    # Φ, whose derivative is φ
    integral = 0.5 * erfc(-z.real / math.sqrt(2))
    return _lifted(z, integral, np.exp(-(z.real**2) / 2) / math.sqrt(2 * math.pi))


def _near(z: Array, bound: float = _FAR) -> Array:
    # Beyond the bound the functions are constant to rounding, and powers would overflow
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
    return z * _logistic(2 * math.sqrt(2 / math.pi) * (c + 0.044715 * (c * c * c)))


def _hard_swish(z: Array) -> Array:
    return np.where(z.real <= -3, 0, np.where(z.real >= 3, z, z * (z + 3) / 6))


def _softsign(z: Array) -> Array:
    # z/(1 + |z|) = ±(1 − 1/(1 + |z|)): use the first form for small z, where it is accurate, and
    # the second for large z, where its slope is
    a = -_minus_abs(z)
    far = np.where(z.real > 0, 1, -1) * (1 - 1 / (1 + a))
    return np.where(a.real < 1, z / (1 + a), far)


def _tanhshrink(z: Array) -> Array:
    # z − tanh z = (z cosh z − sinh z)/cosh z, whose numerator Σ_k 2k z^(2k+1)/(2k+1)! has no
    # cancellation
    c = _near(z, 1.0)
    square, series = c * c, 0.0 * c
    for k in range(12, 0, -1):
        series = (series + 2 * k / math.factorial(2 * k + 1)) * square
    return np.where(np.abs(z.real) < 1, series * c / np.cosh(c), z - np.tanh(z))


_SQRT2 = math.sqrt(2)
_SELU = {"alpha": 1.6732632423543772848, "scale": 1.0507009873554804934}

# fmt: off
DEFINITIONS: Mapping[str, Definition] = {
    "celu": Definition(lambda z, alpha: _elu(z, alpha, width=alpha)),
    "elu": Definition(_elu),
    "gaussian": Definition(lambda z: np.exp(-(_near(z) * _near(z))), (-1 / _SQRT2, 1 / _SQRT2)),
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
