"""What the results must be, by their definitions, and how far rounding can take them from it.

Every number here comes from the textbook σ of `definitions` and float64, none from the kernel that
made the results. With u the unit roundoff of the type that a number was computed in, and |A| the
absolute values of A (N. Higham, Accuracy and Stability of Numerical Algorithms, chapter 3):

* z = W x + b of n + 1 terms, in any order, is off by δ ≤ (n + 2) u (|W||x| + |b|);
* the formulas of σ and σ′ are off by no more than 128 u of their result and of their argument
  (tests hold them to 28), which makes δ larger by 128 u |z|;
* σ′ at any point within δ of z lies between the least and the largest slope there, s ± r: a unit
  that is within δ of a kink may have either side's slope, and one that is not must have its own;
* J = U Diag(s′) W of m terms, with U, W and s′ rounded to the type of the results, is off by
  |U| Diag(r) |W| + (m + 8) u |U| Diag(|s′|) |W|, and where mantissas are rounded to some bits, by
  2^-(bits + 1) of itself more.

The others follow in the same way. A bound holds for every order of summation; it is not a guess
that is exceeded now and then.
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
    """An array of numbers and how far each may be off.

    Where the centre is NaN, only NaN is right. Where it is infinite, the number overflows for
    certain: any number that is not finite is right. An infinite radius allows anything.
    """

    centre: Array
    radius: Array


class Results(NamedTuple):
    """What is known of the results of B columns, each with its own row.

    Attributes
    ----------
    arrays
        By name. Of `jacobian` it is the product J_k v, (B, q), before mantissas are cut.
    unknown
        (B,), columns that may overflow: anything is right.
    size
        (B, q), the sum of the absolute values of all terms of J_k v.
    slope
        (m, B), of a network that has slopes; 0 ± 0 where nothing is known.
    """

    arrays: dict[str, Enclosure]
    unknown: NDArray[np.bool_]
    size: Array
    slope: Enclosure | None = None


class _Units(NamedTuple):
    """Hidden units of some columns, (m, B) each."""

    z: Array
    delta: Array  # how far the computed z, and what a formula makes of it, may be from z
    slope: Enclosure


def excess(stored: NDArray[Any], expected: Enclosure) -> NDArray[np.float64]:
    """Error of each stored number over its bound: up to 1 is rounding, more is wrong.

    Parameters
    ----------
    stored
        Of the shape of `expected`.
    """
    with np.errstate(all="ignore"):
        ratio = np.abs(stored.astype(np.float64) - expected.centre) / expected.radius
    allowed = np.isposinf(expected.radius) | (np.isnan(stored) & np.isnan(expected.centre))
    allowed |= ~np.isfinite(stored) & np.isinf(expected.centre)
    # Zeros, of which each is exact
    allowed |= stored == expected.centre
    return np.where(allowed, 0.0, np.where(np.isnan(ratio), np.inf, ratio))


class Rounding:
    """What the types of results do to them, whatever the network.

    Parameters
    ----------
    working, stored
        The types between X and the blocks, and of the results.
    significant_bits
        To which the mantissas of the blocks are rounded; None where they are not.

    Attributes
    ----------
    stored
        What is known of the type of the results.
    cut
        Largest error of a mantissa that is rounded to some bits, relative to the number; 0 if
        none is.
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
            The sum of the blocks' sums, and that of their absolute values.
        blocks
            How many blocks there are.
        """
        with np.errstate(all="ignore"):
            radius = 2 * (blocks + 8) * U64 * terms / p + self._rounded(total / p)
            return enclosed(total / p, radius, terms / p, self.stored)

    def cut_block(self, block: Array, radius: Array, size: Any) -> Enclosure:
        """Enclose a block whose mantissas are cut; `size` is that of the numbers on the way."""
        if self.cut:
            radius = radius + self.cut * (np.abs(block) + radius)
        return enclosed(block, radius, size, self.stored)

    def _rounded(self, size: Any) -> Any:
        return unit(self.stored) * np.abs(size) * 2 + 4 * float(self.stored.tiny)


class Reference(Rounding):
    """The definitions of a network's results.

    Parameters
    ----------
    x_dtype, dtype
        Of X, and of the results.
    significant_bits
        To which the mantissas of the blocks are rounded; None where they are not.
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
        # What leaves the range at its small end, times what a formula multiplies it by
        self._least = max(LEAST, 4 * float(self._working.tiny)) * (1 + sum(sizes))
        self._largest = (1 + np.abs(self._U).max()) * (1 + np.abs(self._W).max())
        self._abs_U, self._abs_W = np.abs(self._U), np.abs(self._W)

    def column(self, x: NDArray[Any]) -> dict[str, Enclosure]:
        """Enclose one column's results.

        Parameters
        ----------
        x
            (n,), as X holds it.

        Returns
        -------
        jacobian (q, n), slope (m,), value (q,), norm () and spectral_norm (), by name. A NaN in x
        makes them NaN. Where W x + b, or what is made of it, may leave the range of the type that
        it is computed in, anything is allowed.
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
        """Enclose z and the slopes, as they are stored, at the columns of X (n, B)."""
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
        # They are rounded to the type of the results before anything is made of them
        rounding = FORMULAS * u + 2 * unit(self.stored)
        radius += rounding * largest + self._least + 4 * float(self.stored.tiny)
        radius = within(radius, largest, self.stored)
        # NaN in X is NaN in every unit; one that comes of infinities may be so in some order only
        nan = np.isnan(X).any(axis=0)
        z, centre = np.where(nan, np.nan, z), np.where(nan, np.nan, centre)
        return _Units(z, delta, Enclosure(centre, np.where(known | nan, radius, np.inf)))

    @property
    def units_count(self) -> int:
        """Hidden units."""
        return self._shape[1]

    @property
    def weights(self) -> tuple[Array, Array]:
        """U and W."""
        return self._U, self._W

    def blocks(self, s: Array, r: Array) -> tuple[Array, Array, Array, Array]:
        """Compute the blocks of slopes s ± r, (m, B) each.

        Returns
        -------
        The blocks (B, q, n), how far they may be off, that before they were rounded, and the size
        (B, 1, 1) of numbers on the way to them: where it is near the end of the range of the
        type, they may overflow.
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
        """Enclose the results of all columns of X (n, B), of the arrays of these names.

        Every number of `slope`, `value` and `norm`; of J_k the product J_k v. ‖J_k‖₂ lies between
        ‖J_k‖_F/√r and ‖J_k‖_F, r being the smaller of q and n.

        Parameters
        ----------
        v
            (n,)
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
        """Enclose J_k v, (B, q), and tell the size of its terms.

        The slopes' errors are those of one vector: |U| (r ∘ |W v|), not |U| (r ∘ |W| |v|). Those
        of rounding are each entry's own.
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
        # σ is continuous: over δ it moves by no more than its largest slope there takes it
        r = delta * (np.abs(centre) + radius) + FORMULAS * u * np.abs(value) + self._least
        U, c = self._abs_U, self._c[:, None]
        size = U @ (np.abs(value) + r) + np.abs(c)
        bound = U @ r + (m + 4) * (u + U64) * size + self._rounded(size)
        bound += 4 * float(self._working.tiny) * m * self._largest
        found = enclosed(self._U @ value + c, bound, size, self.stored)
        return Enclosure(found.centre.T, found.radius.T)

    @cached_property
    def _coupling(self) -> Array:
        """The entries of ‖J‖²_F, a quadratic form of s."""
        coupling: Array = (self._U.T @ self._U) * (self._W @ self._W.T)
        return coupling

    def _norms(self, s: Array, r: Array) -> dict[str, Enclosure]:
        """Enclose ‖J_k‖_F and, widely, ‖J_k‖₂, of all columns: (B,) each.

        With g_h = |U_h||W_h|, the norm of |U| Diag(a) |W| is at most gᵀa. The square is off by
        twice what `_norm` has: it is summed with as many terms here and there.
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
        # Triangles of U and W: their errors are relative to the norms of these
        ends = np.linalg.norm(self._U) * steepest * np.linalg.norm(self._W)
        least = norm / np.sqrt(min(q, n))
        wide = (norm - least) / 2 + bound + 16 * (q + n) * (m + 8) * U64 * ends
        on_the_way = m * self._largest * (1 + steepest) * q * n
        return {
            "norm": enclosed(norm, bound, size, self.stored),
            "spectral_norm": enclosed((norm + least) / 2, wide, on_the_way, self.stored),
        }

    def _norm(self, units: _Units, block: Array, exact: Array) -> Enclosure:
        """‖J‖² is summed as sᵀ[(UᵀU) ∘ (WWᵀ)]s, whose terms' absolute values add up to ‖size‖²."""
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
        """Enclose ‖J‖₂, which moves by no more than the norm of what is added to J (Weyl).

        It is made of triangles of U and W, whose errors are relative to the norms of these; and its
        square is the eigenvalue of a matrix whose errors are relative to ‖J‖²_F.
        """
        n, m, q = self._shape
        s = np.max(np.abs(units.slope.centre) + units.slope.radius)
        size = np.linalg.norm(self._U) * s * np.linalg.norm(self._W)
        known = np.isfinite(block).all()
        norm = np.linalg.norm(block, 2) if known else np.float64(np.nan)
        k = min(q, n)
        square = (8 * k * k + 2 * max(q, n) + 32) * U64 * np.linalg.norm(block) ** 2
        root = min(np.sqrt(square), square / norm) if norm > 0 else np.sqrt(square)
        # Squares of what is tiny would vanish
        scale = max(float(exact.max()), float(np.finfo(np.float64).tiny))
        bound: Any = scale * np.linalg.norm(exact / scale) + 16 * (q + n) * m * U64 * size
        bound += root + self._rounded(norm)
        largest = m * self._largest * (1 + s) * q * n
        return enclosed(np.asarray(norm), np.asarray(bound), largest, self.stored)


def enclosed(centre: Array, radius: Array, size: Any, kind: np.finfo[Any]) -> Enclosure:
    """Enclose numbers as they are stored in a type.

    Parameters
    ----------
    size
        Of the numbers on the way to them: where it is near the end of the type's range, they may
        overflow, and anything is right. Where they themselves lie beyond that end by more than
        their radius, they do overflow: an infinity, or NaN of two, never becomes finite again.
    """
    with np.errstate(all="ignore"):
        beyond = np.abs(centre) - radius > float(kind.max)
    return Enclosure(
        np.where(beyond, np.copysign(np.inf, centre), centre),
        np.where(beyond, 0.0, within(radius, size, kind)),
    )


def within(radius: Array, size: Any, kind: np.finfo[Any]) -> Array:
    """Allow anything where numbers of this size may leave the range."""
    inside: Array = np.where(np.asarray(size) >= float(kind.max) / 4, np.inf, radius)
    return inside


def anything(shape: tuple[int, ...]) -> Enclosure:
    """Allow any numbers."""
    return Enclosure(np.zeros(shape), np.full(shape, np.inf))


def unit(kind: np.finfo[Any]) -> float:
    """Roundoff of a type."""
    return float(kind.eps) / 2
