"""Enclose the results of a network from their definitions and the rounding errors.

Every number here is computed in float64 from the textbook σ of `definitions`; the kernel is not
used. With u the unit roundoff of the type in which a result was computed, and |A| the absolute
values of A (N. Higham, Accuracy and Stability of Numerical Algorithms, chapter 3):

* z = W x + b, a sum of n + 1 terms in any order, has an error δ ≤ (n + 2) u (|W||x| + |b|);
* the formulas of σ and σ′ have errors of at most 128 u relative to their result and to their
  argument (tests require 28), which adds 128 u |z| to δ;
* σ′ at any point within δ of z lies between the least and the largest slope there, s ± r: a unit
  within δ of a kink may have the slope of either side, any other unit must have its own;
* J = U Diag(s′) W, a sum of m terms with U, W and s′ rounded to the type of the results, has an
  error of at most |U| Diag(r) |W| + (m + 8) u |U| Diag(|s′|) |W|. Rounding mantissas to some bits
  adds a relative error of 2^-(bits + 1).

The other bounds follow in the same way. They are rigorous, for every order of summation.
"""

from __future__ import annotations

from collections.abc import Container
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from colonnade.compute.kernel import working_dtype
from colonnade.network.network import Network
from colonnade.verification.definitions import LEAST, sigma, slope_range

__all__ = [
    "FORMULAS",
    "U64",
    "Array",
    "Enclosure",
    "Reference",
    "Results",
    "Rounding",
    "anything",
    "enclosed",
    "excess",
    "unit",
    "within",
]

Array = NDArray[np.float64]

FORMULAS = 128
U64 = 2.0**-53


class Enclosure(NamedTuple):
    """An array of numbers, and the error bound of each.

    Where the centre is NaN, only NaN is right. Where the centre is infinite, the number certainly
    overflows, and any nonfinite number is right. An infinite radius allows any value.
    """

    centre: Array
    radius: Array


class Results(NamedTuple):
    """Enclosures of the results of B columns, one row for each column.

    Attributes
    ----------
    arrays
        Enclosures by name. `jacobian` is the product J_k v, (B, q), before mantissas are cut.
    unknown
        (B,), whether a column may overflow, so that any value is right.
    size
        (B, q), the sum of the absolute values of all terms of J_k v.
    slope
        (m, B), for a `Reference`; 0 ± 0 for unknown columns.
    """

    arrays: dict[str, Enclosure]
    unknown: NDArray[np.bool_]
    size: Array
    slope: Enclosure | None = None


class _Units(NamedTuple):
    """Hidden units of some columns, (m, B) each."""

    z: Array
    delta: Array  # error bound of the computed z, including the argument error of formulas
    slope: Enclosure


def excess(stored: NDArray[Any], expected: Enclosure) -> NDArray[np.float64]:
    """Return the ratio of error to bound of each stored number: above 1, the number is wrong.

    Parameters
    ----------
    stored
        Array with the shape of `expected`.
    """
    with np.errstate(all="ignore"):
        ratio = np.abs(stored.astype(np.float64) - expected.centre) / expected.radius
    allowed = np.isposinf(expected.radius) | (np.isnan(stored) & np.isnan(expected.centre))
    allowed |= ~np.isfinite(stored) & np.isinf(expected.centre)
    # Exact numbers, even if the bound is 0
    allowed |= stored == expected.centre
    return np.where(allowed, 0.0, np.where(np.isnan(ratio), np.inf, ratio))


class Rounding:
    """The rounding of results by their types, for any network.

    Parameters
    ----------
    working, stored
        The type of W X + b and σ, and the type of the results.
    significant_bits
        Bits to which the mantissas of the blocks are rounded; None if they are not rounded.

    Attributes
    ----------
    stored
        `numpy.finfo` of the type of the results.
    cut
        Largest relative error of rounding a mantissa to `significant_bits`; 0 without rounding.
    """

    def __init__(
        self, working: DTypeLike, stored: DTypeLike, significant_bits: int | None = None
    ) -> None:
        self._working = np.finfo(np.dtype(working))
        self.stored = np.finfo(np.dtype(stored))
        self.cut = 0.0 if significant_bits is None else 2.0 ** -(significant_bits + 1)

    def mean(self, total: Array, terms: Array, blocks: int, p: int) -> Enclosure:
        """Enclose a mean over p columns.

        Parameters
        ----------
        total, terms
            The sum of the blocks' sums, and the sum of the absolute values of the blocks' sums.
        blocks
            Number of blocks.
        """
        with np.errstate(all="ignore"):
            radius = 2 * (blocks + 8) * U64 * terms / p + self._rounded(total / p)
            return enclosed(total / p, radius, terms / p, self.stored)

    def cut_block(self, block: Array, radius: Array, size: Any) -> Enclosure:
        """Enclose a block whose mantissas are cut; `size` bounds the intermediate values."""
        if self.cut:
            radius = radius + self.cut * (np.abs(block) + radius)
        return enclosed(block, radius, size, self.stored)

    def _rounded(self, size: Any) -> Any:
        return unit(self.stored) * np.abs(size) * 2 + 4 * float(self.stored.tiny)


class Reference(Rounding):
    """Encloses the results of a network with one hidden layer and an elementwise σ.

    Parameters
    ----------
    x_dtype, dtype
        Types of X and of the results.
    significant_bits
        Bits to which the mantissas of the blocks are rounded; None if they are not rounded.
    """

    def __init__(
        self,
        network: Network,
        x_dtype: DTypeLike,
        dtype: DTypeLike,
        significant_bits: int | None = None,
    ) -> None:
        self._W, self._b, self._U, self._c = (
            a.astype(np.float64) for a in (network.W1, network.b1, network.W2, network.b2)
        )
        self._activation = network.activation
        self._shape = network.n, network.m, network.q
        super().__init__(working_dtype(network, x_dtype, dtype), dtype, significant_bits)
        sizes = [abs(given) for given in network.activation.parameters.values()]
        # Underflow, times the factor by which a formula multiplies it
        self._least = max(LEAST, 4 * float(self._working.tiny)) * (1 + sum(sizes))
        self._largest = (1 + np.abs(self._U).max()) * (1 + np.abs(self._W).max())
        self._abs_U, self._abs_W = np.abs(self._U), np.abs(self._W)

    def column(self, x: NDArray[Any]) -> dict[str, Enclosure]:
        """Enclose one column's results.

        Parameters
        ----------
        x
            (n,), a column of X.

        Returns
        -------
        jacobian (q, n), slope (m,), value (q,), norm () and spectral_norm (), by name. A NaN in x
        makes them NaN. If W x + b or a slope may overflow, any value is allowed.
        """
        units = self.units(x[:, None])
        if np.isinf(units.slope.radius).any():
            n, m, q = self._shape
            shapes = {
                "jacobian": (q, n), "slope": (m,), "value": (q,), "norm": (), "spectral_norm": ()
            }  # fmt: skip
            return {name: anything(shape) for name, shape in shapes.items()}
        with np.errstate(all="ignore"):
            (block,), (radius,), (exact,), (size,) = self.blocks(*units.slope)
            value = self._value(units)
            return {
                "jacobian": self.cut_block(block, radius, size),
                "slope": Enclosure(units.slope.centre[:, 0], units.slope.radius[:, 0]),
                "value": Enclosure(value.centre[0], value.radius[0]),
                "norm": self._norm(units, block, exact),
                "spectral_norm": self._spectral_norm(units, block, exact),
            }

    def units(self, X: NDArray[Any]) -> _Units:
        """Enclose z and the stored slopes at the columns of X (n, B)."""
        n = self._shape[0]
        X = X.astype(np.float64)
        u = unit(self._working)
        with np.errstate(all="ignore"):
            z = self._W @ X + self._b[:, None]
            size = self._abs_W @ np.abs(X) + np.abs(self._b)[:, None]
            delta = (n + 2) * (u + U64) * size + FORMULAS * u * np.abs(z)
            delta += 4 * (n + 1) * float(self._working.tiny)
            known = size < float(self._working.max) / 4
        z, delta = np.where(known, z, 0.0), np.where(known, delta, 0.0)
        low, high = slope_range(
            self._activation.name, self._activation.parameters, z - delta, z + delta
        )
        centre, radius = (low + high) / 2, (high - low) / 2
        largest = np.maximum(np.abs(low), np.abs(high))
        # Slopes are rounded to the type of the results before they are used
        rounding = FORMULAS * u + 2 * unit(self.stored)
        radius += rounding * largest + self._least + 4 * float(self.stored.tiny)
        radius = within(radius, largest, self.stored)
        # NaN in X makes every unit NaN; NaN from infinities may depend on the order of summation
        nan = np.isnan(X).any(axis=0)
        z, centre = np.where(nan, np.nan, z), np.where(nan, np.nan, centre)
        return _Units(z, delta, Enclosure(centre, np.where(known | nan, radius, np.inf)))

    @property
    def units_count(self) -> int:
        """Number of hidden units, m."""
        return self._shape[1]

    @property
    def weights(self) -> tuple[Array, Array]:
        """U (q, m) and W (m, n)."""
        return self._U, self._W

    def blocks(self, s: Array, r: Array) -> tuple[Array, Array, Array, Array]:
        """Compute the blocks of slopes s ± r, (m, B) each.

        Returns
        -------
        The blocks (B, q, n), their error bounds, the bounds before the blocks are rounded to the
        type of the results, and a bound of the intermediate values (B, 1, 1): near the largest
        number of the type, the blocks may overflow.
        """
        m = self._shape[1]
        U, W, s, r = self._abs_U, self._abs_W, s.T[:, None, :], r.T[:, None, :]
        most = np.abs(s) + r
        blocks = (self._U * s) @ self._W
        size = (U * most) @ W
        exact = (U * r) @ W + (m + 8) * U64 * size
        largest = m * self._largest * (1 + np.max(most, axis=(1, 2), keepdims=True, initial=0))
        least = 4 * float(self.stored.tiny) * largest
        return blocks, exact + (m + 8) * unit(self.stored) * size + least, exact, largest

    def columns(self, X: NDArray[Any], v: Array, names: Container[str]) -> Results:
        """Enclose the results of all columns of X (n, B).

        Every number of `slope`, `value` and `norm` is enclosed; J_k is enclosed through J_k v.
        ‖J_k‖₂ lies between ‖J_k‖_F/√min(q, n) and ‖J_k‖_F.

        Parameters
        ----------
        v
            (n,), the vector that blocks are multiplied with.
        names
            Arrays to enclose; `jacobian` and `slope` are always enclosed.
        """
        units = self.units(X)
        unknown = np.asarray(np.isinf(units.slope.radius).any(axis=0))
        s, r = (np.where(unknown, 0.0, part) for part in units.slope)
        units = _Units(units.z, units.delta, Enclosure(s, r))
        with np.errstate(all="ignore"):
            product, size = self._product(s, r, v)
            arrays = {"jacobian": product, "slope": Enclosure(s.T, r.T)}
            if "value" in names:
                arrays["value"] = self._value(units)
            if "norm" in names or "spectral_norm" in names:
                arrays |= self._norms(s, r)
        for name, (centre, radius) in arrays.items():
            free = unknown.reshape(-1, *(1 for _ in centre.shape[1:]))
            arrays[name] = Enclosure(centre, np.where(free, np.inf, radius))
        return Results(arrays, unknown, size, Enclosure(s, r))

    def _product(self, s: Array, r: Array, v: Array) -> tuple[Enclosure, Array]:
        """Enclose J_k v, (B, q), and return the sum of the absolute values of its terms.

        All entries of J_k share the error of the slopes, which adds |U| (r ∘ |W v|) rather than
        |U| (r ∘ |W| |v|). Rounding errors differ from entry to entry.
        """
        n, m, _ = self._shape
        moved, length = self._W @ v, self._abs_W @ np.abs(v)
        most = np.abs(s) + r
        product = self._U @ (s * moved[:, None])
        size = self._abs_U @ (most * length[:, None])
        radius = self._abs_U @ (r * np.abs(moved)[:, None])
        radius += ((m + 8) * unit(self.stored) + (m + n + 16) * U64) * size
        largest = m * self._largest * (1 + most.max(axis=0, initial=0))
        radius += 4 * float(self.stored.tiny) * largest * np.abs(v).sum()
        radius = within(radius, largest, self.stored)
        radius = within(radius, 4 * n * largest, np.finfo(np.float64))
        return Enclosure(product.T, radius.T), size.T

    def _value(self, units: _Units) -> Enclosure:
        """Enclose Yᵀ, (B, q)."""
        m = self._shape[1]
        z, delta = units.z, units.delta
        centre, radius = units.slope
        u = unit(self._working)
        value = sigma(self._activation.name, self._activation.parameters, z)
        value = np.where(np.isnan(z), np.nan, value)
        # σ is continuous: within δ it changes by at most δ times its largest slope there
        r = delta * (np.abs(centre) + radius) + FORMULAS * u * np.abs(value) + self._least
        U, c = self._abs_U, self._c[:, None]
        size = U @ (np.abs(value) + r) + np.abs(c)
        bound = U @ r + (m + 4) * (u + U64) * size + self._rounded(size)
        bound += 4 * float(self._working.tiny) * m * self._largest
        found = enclosed(self._U @ value + c, bound, size, self.stored)
        return Enclosure(found.centre.T, found.radius.T)

    @cached_property
    def _coupling(self) -> Array:
        """The matrix (UᵀU) ∘ (WWᵀ) of ‖J‖²_F, a quadratic form in s."""
        coupling: Array = (self._U.T @ self._U) * (self._W @ self._W.T)
        return coupling

    def _norms(self, s: Array, r: Array) -> dict[str, Enclosure]:
        """Enclose ‖J_k‖_F tightly and ‖J_k‖₂ loosely, for all columns: (B,) each.

        With g_h = |U_h||W_h|, the norm of |U| Diag(a) |W| is at most gᵀa. The error of the square
        is twice that in `_norm`: the same sum is rounded both in the stored norm and here.
        """
        n, m, q = self._shape
        g = np.linalg.norm(self._U, axis=0) * np.linalg.norm(self._W, axis=1)
        size = g @ (np.abs(s) + r)
        exact = g @ r + (m + 8) * U64 * size
        norm = np.sqrt(np.maximum(np.einsum("hk,hk->k", s, self._coupling @ s), 0))
        norm = np.where(np.isnan(s).any(axis=0), np.nan, norm)
        square = 2 * (2 * m + n + q + 16) * U64 * size**2
        square += m**2 * float(np.finfo(np.float64).tiny)
        root = np.where(norm > 0, np.minimum(np.sqrt(square), square / norm), np.sqrt(square))
        steepest = np.max(np.abs(s) + r, axis=0)
        largest = m**2 * self._largest**2 * q * n * np.maximum(1.0, steepest) ** 2
        bound = exact + root
        bound = within(bound + self._rounded(norm + bound), largest, np.finfo(np.float64))
        # Stored norms come from triangular factors of U and W: errors are relative to ‖U‖ and ‖W‖
        ends = np.linalg.norm(self._U) * steepest * np.linalg.norm(self._W)
        least = norm / np.sqrt(min(q, n))
        wide = (norm - least) / 2 + bound + 16 * (q + n) * (m + 8) * U64 * ends
        on_the_way = m * self._largest * (1 + steepest) * q * n
        return {
            "norm": enclosed(norm, bound, size, self.stored),
            "spectral_norm": enclosed((norm + least) / 2, wide, on_the_way, self.stored),
        }

    def _norm(self, units: _Units, block: Array, exact: Array) -> Enclosure:
        """Enclose ‖J‖_F, whose square is summed as sᵀ[(UᵀU) ∘ (WWᵀ)]s.

        The absolute values of the terms of that sum add up to ‖size‖².
        """
        n, m, q = self._shape
        s = np.abs(units.slope.centre[:, 0]) + units.slope.radius[:, 0]
        size = np.linalg.norm((np.abs(self._U) * s) @ np.abs(self._W))
        norm = np.asarray(np.linalg.norm(block))
        square = (2 * m + n + q + 16) * U64 * size**2 + m**2 * float(np.finfo(np.float64).tiny)
        # |√(a + e) − √a| is at most √|e|, and at most |e|/√a
        root = min(np.sqrt(square), square / norm) if norm > 0 else np.sqrt(square)
        bound = np.linalg.norm(exact) + root + self._rounded(norm)
        largest = m**2 * self._largest**2 * q * n * max(1.0, float(np.max(s))) ** 2
        centre, bound = enclosed(norm, np.asarray(bound), size, self.stored)
        return Enclosure(centre, within(bound, largest, np.finfo(np.float64)))

    def _spectral_norm(self, units: _Units, block: Array, exact: Array) -> Enclosure:
        """Enclose ‖J‖₂, which changes by at most the norm of a change of J (Weyl).

        The stored norm comes from triangular factors of U and W, whose errors are relative to ‖U‖
        and ‖W‖. Its square is the eigenvalue of a matrix whose errors are relative to ‖J‖²_F.
        """
        n, m, q = self._shape
        s = np.max(np.abs(units.slope.centre) + units.slope.radius)
        size = np.linalg.norm(self._U) * s * np.linalg.norm(self._W)
        known = np.isfinite(block).all()
        norm = np.linalg.norm(block, 2) if known else np.float64(np.nan)
        k = min(q, n)
        square = (8 * k * k + 2 * max(q, n) + 32) * U64 * np.linalg.norm(block) ** 2
        root = min(np.sqrt(square), square / norm) if norm > 0 else np.sqrt(square)
        # Scale first: squares of tiny numbers would underflow
        scale = max(float(exact.max()), float(np.finfo(np.float64).tiny))
        bound: Any = scale * np.linalg.norm(exact / scale) + 16 * (q + n) * m * U64 * size
        bound += root + self._rounded(norm)
        largest = m * self._largest * (1 + s) * q * n
        return enclosed(np.asarray(norm), np.asarray(bound), largest, self.stored)


def enclosed(centre: Array, radius: Array, size: Any, kind: np.finfo[Any]) -> Enclosure:
    """Enclose numbers as they are stored in a type.

    Numbers that exceed the largest number of the type by more than their radius certainly
    overflow: an infinity, or NaN from two infinities, never becomes finite again.

    Parameters
    ----------
    size
        Bound of the intermediate values. If it is near the largest number of the type, the numbers
        may overflow, and any value is allowed.
    """
    with np.errstate(all="ignore"):
        beyond = np.abs(centre) - radius > float(kind.max)
    return Enclosure(
        np.where(beyond, np.copysign(np.inf, centre), centre),
        np.where(beyond, 0.0, within(radius, size, kind)),
    )


def within(radius: Array, size: Any, kind: np.finfo[Any]) -> Array:
    """Return the radius, but infinity where numbers of this size may overflow."""
    inside: Array = np.where(np.asarray(size) >= float(kind.max) / 4, np.inf, radius)
    return inside


def anything(shape: tuple[int, ...]) -> Enclosure:
    """Return an enclosure that allows any value."""
    return Enclosure(np.zeros(shape), np.full(shape, np.inf))


def unit(kind: np.finfo[Any]) -> float:
    """Return the unit roundoff of a type."""
    return float(kind.eps) / 2
