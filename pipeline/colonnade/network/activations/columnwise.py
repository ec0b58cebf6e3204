"""Activations that mix the entries of a column, but not those of different columns.

σ′ at a column is an m × m matrix. Here it is always diagonal plus low rank, and never formed:

    softmax         Diag(s) − s sᵀ
    log_softmax     I − 1 sᵀ                              s = softmax(z)
    layer_norm      (I − 1 1ᵀ/m − ẑ ẑᵀ/m)/std             ẑ = σ(z)
    l2_normalize    (I − ẑ ẑᵀ)/‖z‖

z is (m, B), one column per sample, or (m,). The largest entry is subtracted, or divided by, first,
so that nothing overflows. NaN makes its column NaN; so does an infinity at which σ has no limit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from colonnade.network.activations.formulas import Array, LowRank

__all__ = ["COLUMNWISE", "ColumnFormula"]


class ColumnFormula(NamedTuple):
    """A row of the table; `registry.Formula` is its counterpart for elementwise activations."""

    sigma: str
    sigma_prime: str
    value: Callable[..., Array]
    slope: Callable[..., LowRank]
    parameters: Mapping[str, float] = MappingProxyType({})
    rule: tuple[str, Callable[..., bool]] | None = None


def _shifted(z: Array) -> Array:
    shifted: Array = z - z.max(axis=0)
    return shifted


def _softmax(z: Array) -> Array:
    e = _shifted(z)
    np.exp(e, out=e)
    e /= e.sum(axis=0)
    return e


def _softmax_slope(z: Array) -> LowRank:
    s = _softmax(z)
    return LowRank(s, -s[None], s[None])


def _log_softmax(z: Array) -> Array:
    e = _shifted(z)
    e -= np.log(np.exp(e).sum(axis=0))
    return e


def _log_softmax_slope(z: Array) -> LowRank:
    one = np.ones_like(z)
    # Adds 0, or NaN where the column's maximum is not finite, so that d is NaN too
    return LowRank(one + 0 * z.max(axis=0), -one[None], _softmax(z)[None])


def _normalised(z: Array, eps: float) -> tuple[Array, Array]:
    """Return ẑ = (z − mean)/std and std = √(variance + eps)."""
    # Center twice: if all entries are nearly equal, c is mostly the first mean's rounding error
    c = z - (z / len(z)).sum(axis=0)
    c -= c.mean(axis=0)
    largest = np.maximum(np.abs(c).max(axis=0), z.dtype.type(eps**0.5))
    c /= largest
    root = np.sqrt(np.square(c).mean(axis=0) + eps / largest / largest)
    c /= root
    return c, root * largest


def _layer_norm_slope(z: Array, eps: float) -> LowRank:
    y, std = _normalised(z, eps)
    d = np.broadcast_to(1 / std, z.shape)
    share = d / len(z)
    return LowRank(d, -np.stack([share, share * y]), np.stack([np.ones_like(y), y]))


def _length(z: Array) -> Array:
    """Return ‖z‖, scaled so that no square overflows or underflows."""
    largest = np.maximum(np.abs(z).max(axis=0), np.finfo(z.dtype).tiny)
    length: Array = largest * np.sqrt(np.square(z / largest).sum(axis=0))
    return length


def _l2_normalize(z: Array, eps: float) -> Array:
    unit: Array = z / np.maximum(_length(z), z.dtype.type(eps))
    return unit


def _l2_normalize_slope(z: Array, eps: float) -> LowRank:
    length = _length(z)
    d = np.broadcast_to(1 / np.maximum(length, z.dtype.type(eps)), z.shape)
    y = z * d
    # For ‖z‖ ≤ eps, σ is z/eps: the slope has no low-rank part
    return LowRank(d, np.where(length > eps, -d * y, 0 * y)[None], y[None])


_POSITIVE = ("eps > 0", lambda eps: eps > 0)

# fmt: off
COLUMNWISE: Mapping[str, ColumnFormula] = MappingProxyType({
    "l2_normalize": ColumnFormula("z/max(‖z‖, eps)", "(I − ẑẑᵀ)/‖z‖ if ‖z‖ > eps else I/eps",
        _l2_normalize, _l2_normalize_slope, {"eps": 1e-12}, _POSITIVE),
    "layer_norm": ColumnFormula("ẑ = (z − mean z)/std, std = √(mean (z − mean z)² + eps)",
        "(I − 11ᵀ/m − ẑẑᵀ/m)/std", lambda z, eps: _normalised(z, eps)[0], _layer_norm_slope,
        {"eps": 1e-5}, _POSITIVE),
    "log_softmax": ColumnFormula("z − log Σ exp(z)", "I − 1sᵀ, s = softmax(z)",
        _log_softmax, _log_softmax_slope),
    "softmax": ColumnFormula("s = exp(z)/Σ exp(z)", "Diag(s) − ssᵀ", _softmax, _softmax_slope),
})
# fmt: on
