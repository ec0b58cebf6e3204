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

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from colonnade.kernel import working_dtype
from colonnade.network import Network
from colonnade.verify.definitions import LEAST, sigma, slope_range

__all__ = [
    "FORMULAS",
    "U64",
    "Array",
    "Enclosure",
    "Reference",
    "Rounding",
    "anything",
    "excess",
    "unit",
    "within",
]

Array = NDArray[np.float64]

FORMULAS = 128
U64 = 2.0**-53


class Enclosure(NamedTuple):
    """An array of numbers and how far each may be off; NaN must be NaN, and inf allows anything."""

    centre: Array
    radius: Array


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
    """

    def __init__(
        self, working: DTypeLike, stored: DTypeLike, significant_bits: int | None = None
    ) -> None:
        self._working = np.finfo(np.dtype(working))
        self.stored = np.finfo(np.dtype(stored))
        self._cut = 0.0 if significant_bits is None else 2.0 ** -(significant_bits + 1)

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
        return Enclosure(total / p, within(radius, terms / p, self.stored))

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
            jacobian, exact = self._jacobian(units)
            return {
                "jacobian": jacobian,
                "slope": Enclosure(units.slope.centre[:, 0], units.slope.radius[:, 0]),
                "value": self._value(units),
                "norm": self._norm(units, jacobian, exact),
                "spectral_norm": self._spectral_norm(units, jacobian, exact),
            }

    def units(self, X: NDArray[Any]) -> _Units:
        """Enclose z and the slopes, as they are stored, at the columns of X (n, B)."""
        n = self._shape[0]
        X = X.astype(np.float64)
        u = unit(self._working)
        with np.errstate(all="ignore"):
            z = self._W @ X + self._b[:, None]
            size = np.abs(self._W) @ np.abs(X) + np.abs(self._b)[:, None]
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
    def weights(self) -> tuple[Array, Array]:
        """U and W."""
        return self._U, self._W

    def blocks(self, s: Array, r: Array) -> tuple[Array, Array, Array]:
        """Compute the blocks of slopes s ± r, (m, B) each.

        Returns
        -------
        The blocks (B, q, n), how far they may be off, and that before they were rounded.
        """
        m = self._shape[1]
        U, W, s, r = np.abs(self._U), np.abs(self._W), s.T[:, None, :], r.T[:, None, :]
        most = np.abs(s) + r
        blocks = (self._U * s) @ self._W
        size = (U * most) @ W
        exact = (U * r) @ W + (m + 8) * U64 * size
        largest = m * self._largest * (1 + np.max(most, axis=(1, 2), keepdims=True))
        least = 4 * float(self.stored.tiny) * largest
        radius = exact + (m + 8) * unit(self.stored) * size + least
        return blocks, within(radius, largest, self.stored), exact

    def _jacobian(self, units: _Units) -> tuple[Enclosure, Array]:
        """Enclose the stored block; return the bound before it was rounded beside it."""
        (block,), (radius,), (exact,) = self.blocks(*units.slope)
        return Enclosure(block, radius + self._cut * (np.abs(block) + radius)), exact

    def _value(self, units: _Units) -> Enclosure:
        m = self._shape[1]
        z, delta = units.z[:, 0], units.delta[:, 0]
        centre, radius = (part[:, 0] for part in units.slope)
        u = unit(self._working)
        value = sigma(self._activation.name, self._activation.parameters, z)
        value = np.where(np.isnan(z), np.nan, value)
        # σ is continuous: over δ it moves by no more than its largest slope there takes it
        r = delta * (np.abs(centre) + radius) + FORMULAS * u * np.abs(value) + self._least
        U, c = np.abs(self._U), np.abs(self._c)
        size = U @ (np.abs(value) + r) + c
        bound = U @ r + (m + 4) * (u + U64) * size + self._rounded(size)
        bound += 4 * float(self._working.tiny) * m * self._largest
        return Enclosure(self._U @ value + self._c, within(bound, size, self.stored))

    def _norm(self, units: _Units, block: Enclosure, exact: Array) -> Enclosure:
        """‖J‖² is summed as sᵀ[(UᵀU) ∘ (WWᵀ)]s, whose terms' absolute values add up to ‖size‖²."""
        n, m, q = self._shape
        s = np.abs(units.slope.centre[:, 0]) + units.slope.radius[:, 0]
        size = np.linalg.norm((np.abs(self._U) * s) @ np.abs(self._W))
        norm = np.linalg.norm(block.centre)
        square = (2 * m + n + q + 16) * U64 * size**2 + m**2 * float(np.finfo(np.float64).tiny)
        # |√(a + e) − √a| is at most √|e|, and at most |e|/√a
        root = min(np.sqrt(square), square / norm) if norm > 0 else np.sqrt(square)
        bound = np.linalg.norm(exact) + root + self._rounded(norm)
        largest = m**2 * self._largest**2 * q * n * max(1.0, float(np.max(s))) ** 2
        bound = within(np.asarray(bound), size, self.stored)
        return Enclosure(np.asarray(norm), within(bound, largest, np.finfo(np.float64)))

    def _spectral_norm(self, units: _Units, block: Enclosure, exact: Array) -> Enclosure:
        """Enclose ‖J‖₂, which moves by no more than the norm of what is added to J (Weyl).

        It is made of triangles of U and W, whose errors are relative to the norms of these; and its
        square is the eigenvalue of a matrix whose errors are relative to ‖J‖²_F.
        """
        n, m, q = self._shape
        s = np.max(np.abs(units.slope.centre) + units.slope.radius)
        size = np.linalg.norm(self._U) * s * np.linalg.norm(self._W)
        centre = block.centre
        known = np.isfinite(centre).all()
        norm = np.linalg.norm(centre, 2) if known else np.float64(np.nan)
        k = min(q, n)
        square = (8 * k * k + 2 * max(q, n) + 32) * U64 * np.linalg.norm(centre) ** 2
        root = min(np.sqrt(square), square / norm) if norm > 0 else np.sqrt(square)
        # Squares of what is tiny would vanish
        scale = max(float(exact.max()), float(np.finfo(np.float64).tiny))
        bound: Any = scale * np.linalg.norm(exact / scale) + 16 * (q + n) * m * U64 * size
        bound += root + self._rounded(norm)
        largest = m * self._largest * (1 + s) * q * n
        bound = within(np.asarray(bound), largest, self.stored)
        return Enclosure(np.asarray(norm), bound)


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
