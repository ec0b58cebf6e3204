"""Textbook definitions of each σ that mixes the entries of a column, for verification.

This module shares no code with `columnwise`. D = σ′(z), m × m, is computed by complex steps, the
counterpart of the dual numbers in `definitions`. If each entry of z is known to within δ, then D is
known to within a bound that is derived here for each σ. For an imported σ, the bound is twice the
largest change of D between z and some points within δ.

The kernel computes D as Diag(d) + Σ_r a_r b_rᵀ. Its rounding errors are relative to the absolute
values of these parts, not to D, because the parts may cancel. `parts` is the sum of these absolute
values.

`mixed_columns` does the same for many columns at once without forming a matrix: D t takes one
complex step, and the bounds are products with the few parts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from colonnade.network.activations.formulas import LowRank
from colonnade.network.activations.imported import Imported, derivative, imported

__all__ = ["Mixed", "MixedColumns", "mixed", "mixed_columns"]

Array = NDArray[np.float64]
_STEP = 1e-100


class Mixed(NamedTuple):
    """σ and σ′ at a column that is known to within an error."""

    value: Array  # (m,)
    value_error: Array
    D: Array  # (m, m), like the next two
    error: Array
    parts: Array


class MixedColumns(NamedTuple):
    """σ and σ′ at columns that are known to within an error: (m, B), and functions of (m, B)."""

    value: Array
    value_error: Array
    times: Callable[[Array], Array]  # D t
    # The next two require t ≥ 0
    error_times: Callable[[Array], Array]
    parts_times: Callable[[Array], Array]
    # (B,): whether D is unknown, because a kink is too near or z too uncertain
    unknown: NDArray[np.bool_]


def mixed_columns(
    name: str, parameters: Mapping[str, float], z: Array, delta: Array, relative: float
) -> MixedColumns | None:
    """Enclose σ and σ′ at the columns z ± delta, (m, B) each; return None for an imported σ."""
    if name not in _ENCLOSED:
        return None
    value = _ENCLOSED[name][0]
    with np.errstate(all="ignore"):
        y = value(z.astype(complex), **parameters).real
        y_error, error, parts, unknown = _COLUMNS[name](z, y, delta, **parameters)

    def times(t: Array) -> Array:
        product: Array = value(z + 1j * _STEP * t, **parameters).imag / _STEP
        return product

    def error_times(t: Array) -> Array:
        moved = error(t)
        product: Array = moved + relative * (parts(t) + moved)
        return product

    y_error = y_error + relative * (np.abs(y) + 1)
    return MixedColumns(y, y_error, times, error_times, parts, unknown)


_Times = Callable[[Array], Array]
_Around = tuple[Array, _Times, _Times, NDArray[np.bool_]]


def _all_known(z: Array) -> NDArray[np.bool_]:
    return np.zeros(z.shape[1], bool)


def _columns_softmax(z: Array, y: Array, delta: Array) -> _Around:
    t = np.expm1(2 * delta.max(axis=0))

    def parts(x: Array) -> Array:
        product: Array = y * x + y * (y * x).sum(axis=0)
        return product

    return t * y, lambda x: ((1 + t) ** 2 - 1) * parts(x), parts, _all_known(z)


def _columns_log_softmax(z: Array, y: Array, delta: Array) -> _Around:
    e, t = np.exp(y), np.expm1(2 * delta.max(axis=0))

    def rows(x: Array) -> Array:
        return np.broadcast_to((e * x).sum(axis=0), x.shape)

    y_error = np.broadcast_to(2 * delta.max(axis=0), z.shape)
    return y_error, lambda x: t * rows(x), lambda x: x + rows(x), _all_known(z)


def _columns_layer_norm(z: Array, y: Array, delta: Array, eps: float) -> _Around:
    m = len(z)
    std = np.sqrt(np.mean((z - z.mean(axis=0)) ** 2, axis=0) + eps)
    moved = np.linalg.norm(delta, axis=0) / m**0.5
    return _columns_unit(y, delta + delta.mean(axis=0), std, moved, 1 / m, 1 / m)


def _columns_l2_normalize(z: Array, y: Array, delta: Array, eps: float) -> _Around:
    length, moved = np.linalg.norm(z, axis=0), np.linalg.norm(delta, axis=0)
    short = length + moved < eps
    near = (length - moved < eps) & ~short
    # For short columns σ is z/eps, without a rank-one part
    y_error, error, parts, unknown = _columns_unit(
        y * ~short, delta, np.where(short, eps, length), np.where(short, 0.0, moved), 1.0, 0.0
    )
    return y_error, lambda x: ~short * error(x), parts, unknown | near


def _columns_unit(
    y: Array, delta: Array, length: Array, moved: Array, share: float, mean: float
) -> _Around:
    """Return the bounds of `_around_unit`, column by column."""
    least = length - moved
    unknown = ~(least > length / 2)
    least, moved = np.where(unknown, length, least), np.where(unknown, 0.0, moved)
    size = np.abs(y)
    turn = delta / least + size * (moved / least)

    def parts(x: Array) -> Array:
        mixed_in = mean * x.sum(axis=0) + share * size * (size * x).sum(axis=0)
        product: Array = (x + mixed_in) / length
        return product

    def error(x: Array) -> Array:
        products = (size + turn) * (turn * x).sum(axis=0) + turn * (size * x).sum(axis=0)
        product: Array = moved / least * parts(x) + share * products / least
        return product

    return turn, error, parts, unknown


_COLUMNS: Mapping[str, Callable[..., _Around]] = {
    "l2_normalize": _columns_l2_normalize,
    "layer_norm": _columns_layer_norm,
    "log_softmax": _columns_log_softmax,
    "softmax": _columns_softmax,
}


def mixed(
    name: str, parameters: Mapping[str, float], z: Array, delta: Array, relative: float
) -> Mixed:
    """Enclose σ and σ′ at z ± delta, (m,) each, computed by formulas with this relative error."""
    with np.errstate(all="ignore"):
        if name not in _ENCLOSED:
            return _imported(imported(name), z, delta, relative)
        value, enclosed = _ENCLOSED[name]
        m = len(z)
        D = value(z[:, None] + 1j * _STEP * np.eye(m), **parameters).imag / _STEP
        y = value(z[:, None].astype(complex), **parameters).real[:, 0]
        y_error, error, parts = enclosed(z, y, delta, **parameters)
        # Errors of the formulas themselves
        y_error = y_error + relative * (np.abs(y) + 1)
        return Mixed(y, y_error, D, error + relative * (parts + error), parts)


def _softmax(z: Array) -> Array:
    e = np.exp(z - z.real.max(axis=0))
    total: Array = e / e.sum(axis=0)
    return total


def _around_softmax(_: Array, y: Array, delta: Array) -> tuple[Array, Array, Array]:
    # At z + δ, s becomes s exp(δ)/Σ s exp(δ): it changes by a factor of at most exp(±2 max δ)
    t = np.expm1(2 * delta.max())
    parts = np.diag(y) + np.outer(y, y)
    return t * y, ((1 + t) ** 2 - 1) * parts, parts


def _log_softmax(z: Array) -> Array:
    shifted = z - z.real.max(axis=0)
    logarithm: Array = shifted - np.log(np.exp(shifted).sum(axis=0))
    return logarithm


def _around_log_softmax(z: Array, y: Array, delta: Array) -> tuple[Array, Array, Array]:
    rows = np.broadcast_to(np.exp(y), (len(z), len(z)))
    t = np.expm1(2 * delta.max())
    return np.full_like(z, 2 * delta.max()), t * rows, np.eye(len(z)) + rows


def _layer_norm(z: Array, eps: float) -> Array:
    c = z - z.mean(axis=0)
    normalised: Array = c / np.sqrt((c * c).mean(axis=0) + eps)
    return normalised


def _around_layer_norm(z: Array, y: Array, delta: Array, eps: float) -> tuple[Array, Array, Array]:
    m = len(z)
    std = float(np.sqrt(np.mean((z - z.mean()) ** 2) + eps))
    # Projecting δ does not lengthen it, and std changes by at most |δ|/√m
    return _around_unit(y, delta + delta.mean(), std, np.linalg.norm(delta) / m**0.5, 1 / m, 1 / m)


def _l2_normalize(z: Array, eps: float) -> Array:
    length = np.sqrt((z * z).sum(axis=0))
    unit: Array = np.where(length.real > eps, z / length, z / eps)
    return unit


def _around_l2_normalize(
    z: Array, y: Array, delta: Array, eps: float
) -> tuple[Array, Array, Array]:
    length, moved = float(np.linalg.norm(z)), float(np.linalg.norm(delta))
    if length + moved < eps:
        return delta / eps, np.zeros((len(z), len(z))), np.eye(len(z)) / eps
    # The kink lies within δ, so D may be that of either side
    moved = np.inf if length - moved < eps else moved
    return _around_unit(y, delta, length, moved, 1.0, 0.0)


def _around_unit(
    y: Array, delta: Array, length: float, moved: float, share: float, mean: float
) -> tuple[Array, Array, Array]:
    """Bound y, D and the parts of D = (I − mean 11ᵀ − share y yᵀ)/length, where y = c/length.

    `length` is known to within `moved`.
    """
    least = length - moved
    if not least > length / 2:
        anything = np.full((len(y), len(y)), np.inf)
        return np.full_like(y, np.inf), anything, anything
    turn = delta / least + np.abs(y) * (moved / least)
    parts = (np.eye(len(y)) + mean + share * np.abs(np.outer(y, y))) / length
    products = np.outer(np.abs(y), turn) + np.outer(turn, np.abs(y)) + np.outer(turn, turn)
    return turn, moved / least * parts + share * products / least, parts


_ENCLOSED: Mapping[str, tuple[Callable[..., Array], Callable[..., tuple[Array, Array, Array]]]] = {
    "l2_normalize": (_l2_normalize, _around_l2_normalize),
    "layer_norm": (_layer_norm, _around_layer_norm),
    "log_softmax": (_log_softmax, _around_log_softmax),
    "softmax": (_softmax, _around_softmax),
}


def _imported(found: Imported, z: Array, delta: Array, relative: float) -> Mixed:
    m = len(z)
    y, (D, error) = found.value(z[:, None])[:, 0], _matrix(found, z)
    rng = np.random.default_rng(0)
    y_error = np.zeros(m)
    for _ in range(4):
        there = z + delta * rng.choice((-1.0, 1.0), m)
        moved, more = _matrix(found, there)
        error = np.maximum(error, 2 * (np.abs(moved - D) + more))
        y_error = np.maximum(y_error, 2 * np.abs(found.value(there[:, None])[:, 0] - y))
    slope: Any = found.slope(z[:, None])
    parts = np.abs(D)
    if isinstance(slope, LowRank):
        rank = np.einsum("ri,rj->ij", np.abs(slope.A[..., 0]), np.abs(slope.B[..., 0]))
        parts = np.diag(np.abs(slope.d[:, 0])) + rank
    y_error = y_error + (np.abs(D) + error) @ delta + relative * (np.abs(y) + 1)
    return Mixed(y, y_error, D, error + relative * parts, parts)


def _matrix(found: Imported, z: Array) -> tuple[Array, Array]:
    m = len(z)
    return derivative(found, np.repeat(z[:, None], m, axis=1), np.eye(m))
