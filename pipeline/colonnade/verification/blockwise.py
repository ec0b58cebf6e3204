"""Enclose the statistics of a block from their definitions, as `reference` encloses a column.

The bounds hold for sums over the B columns in any order, with slopes s_k ± r_k. Sums are taken in
float64, with unit roundoff u. Products of slopes are summed in strips of t columns, in the dtype of
the slopes, whose unit roundoff is w. The error is at most

* for Σ J_k: Σ |U| Diag(r_k) |W|, plus (B + 2m + 16) u Σ |U| Diag(|s_k| + r_k) |W|;
* for Σ J_kᵀJ_k = Wᵀ[(UᵀU) ∘ Σ s_k s_kᵀ]W, with a_k = |s_k| + r_k:
  |W|ᵀ[(|U|ᵀ|U|) ∘ Σ (a_k a_kᵀ − |s_k||s_k|ᵀ)]|W|, plus
  ((B + 3m + n + q + 16) u + (t + 8) w) |W|ᵀ[(|U|ᵀ|U|) ∘ Σ a_k a_kᵀ]|W|;
* for Σ |J_k| and max |J_k|: the bounds of the entries of J_k.

Products with a vector v take a fraction of that time. With g = W v, p = |W||v|, and
y_k = U (s_k ∘ g) known to within e_k, the error is at most

* for Σ J_kᵀJ_k v = Wᵀ Σ s_k ∘ Uᵀ y_k: |W|ᵀ Σ [(|s_k| + r_k) ∘ |U|ᵀ e + r_k ∘ |Uᵀ y_k|], where
  e = |U| (r_k ∘ |g|), plus the rounding above times |W|ᵀ Σ a_k ∘ |U|ᵀ|U| (a_k ∘ p);
* for networks that need `DeepReference`, beside rounding: Σ e_k for Σ J_k v, and
  Σ (2|y_k| + e_k)ᵀ e_k for vᵀ Σ J_kᵀJ_k v.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from colonnade.compute.kernel.tiles import STRIP
from colonnade.verification.deepreference import DeepReference
from colonnade.verification.reference import Array, Enclosure, Reference, Results, unit, within

__all__ = ["BlockSums", "ProjectedSums", "column_cost"]

_U64 = 2.0**-53
# Entries of the tensor that are processed at a time
_NUMBERS = 2**20
# Multiplications that take as long as evaluating one slope by its definition
_SLOPE = 2**14


def column_cost(n: int, m: int, q: int, names: Iterable[str]) -> int:
    """Return the cost of enclosing one column's arrays, in evaluations of a slope."""
    names = set(names)
    tensor = 6 * m * q * n if names & {"mean_abs_blocks", "max_abs_blocks"} else 0
    outer = 4 * m * m if "gram_blocks" in names else 0
    return m + (tensor + outer) // _SLOPE


class BlockSums:
    """Encloses the statistics of a block, whose columns are added in pieces.

    Parameters
    ----------
    names
        Arrays to enclose, among mean_blocks, mean_abs_blocks, max_abs_blocks and gram_blocks.
    """

    def __init__(self, reference: Reference, names: Iterable[str]) -> None:
        self._reference = reference
        self._names = set(names)
        self._U, self._W = reference.weights
        (q, m), n = self._U.shape, self._W.shape[1]
        self._columns = 0
        self._s, self._r = np.zeros(m), np.zeros(m)
        self._outer, self._largest_outer = np.zeros((m, m)), np.zeros((m, m))
        self._abs, self._abs_radius = np.zeros((q, n)), np.zeros((q, n))
        self._low, self._high = np.zeros((q, n)), np.zeros((q, n))

    def add(self, X: NDArray[np.generic]) -> None:
        """Add columns X (n, B)."""
        self.take(*self._reference.units(X).slope)

    def take(self, s: Array, r: Array) -> None:
        """Add columns with slopes s ± r, (m, B)."""
        with np.errstate(all="ignore"):
            self._columns += s.shape[1]
            self._s += s.sum(axis=1)
            self._r += r.sum(axis=1) + 8 * _U64 * s.shape[1] * np.abs(s).sum(axis=1)
            if "gram_blocks" in self._names:
                a = np.abs(s) + r
                self._outer += s @ s.T
                self._largest_outer += a @ a.T - np.abs(s) @ np.abs(s).T
            if self._names & {"mean_abs_blocks", "max_abs_blocks"}:
                self._tensor(s, r)

    def _tensor(self, s: Array, r: Array) -> None:
        width = max(1, _NUMBERS // (self._U.shape[0] * self._W.shape[1]))
        for k in range(0, s.shape[1], width):
            J, radius, _, size = self._reference.blocks(s[:, k : k + width], r[:, k : k + width])
            J, radius = np.abs(J), within(radius, size, self._reference.stored)
            self._abs += J.sum(axis=0)
            self._abs_radius += radius.sum(axis=0)
            self._low = np.maximum(self._low, (J - radius).max(axis=0))
            self._high = np.maximum(self._high, (J + radius).max(axis=0))

    def enclosures(self) -> dict[str, Enclosure]:
        """Return the enclosures of the block's statistics, by name."""
        U, W, B = self._U, self._W, self._columns
        (q, m), n = U.shape, W.shape[1]
        absU, absW = np.abs(U), np.abs(W)
        found = {}
        with np.errstate(all="ignore"):
            if "mean_blocks" in self._names:
                size = (absU * (np.abs(self._s) + self._r)) @ absW
                radius = (absU * self._r) @ absW + (B + 2 * m + 16) * _U64 * size
                found["mean_blocks"] = Enclosure((U * self._s) @ W, radius)
            if "gram_blocks" in self._names:
                centre = W.T @ ((U.T @ U) * self._outer) @ W
                coupling = absU.T @ absU
                most = np.sqrt(np.outer(np.diag(self._outer), np.diag(self._outer)))
                size = absW.T @ (coupling * (most + self._largest_outer)) @ absW
                radius = absW.T @ (coupling * self._largest_outer) @ absW
                stored = self._reference.stored
                together = min(B, STRIP) + 8
                radius += 2 * ((B + 3 * m + n + q + 16) * _U64 + together * unit(stored)) * size
                radius += B * float(stored.tiny) * (absW.T @ coupling @ absW)
                found["gram_blocks"] = Enclosure(centre, radius)
            if "mean_abs_blocks" in self._names:
                radius = self._abs_radius + 2 * (B + 8) * _U64 * self._abs
                found["mean_abs_blocks"] = Enclosure(self._abs, radius)
            if "max_abs_blocks" in self._names:
                centre, radius = (self._low + self._high) / 2, (self._high - self._low) / 2
                radius += 4 * _U64 * self._high
                found["max_abs_blocks"] = Enclosure(centre, radius)
        # If a slope may have overflowed, so may every sum
        infinite = ~np.isfinite(self._r).all()
        if infinite:
            found = {
                name: Enclosure(e.centre, np.where(np.isnan(e.centre), e.radius, np.inf))
                for name, e in found.items()
            }
        return found


class ProjectedSums:
    """Encloses products of a block's statistics with a vector v.

    With a `Reference`, the product is `gram_blocks` v, (n,). With a `DeepReference`, the products
    are `mean_blocks` v, (q,), and the number vᵀ `gram_blocks` v.

    Parameters
    ----------
    names
        Arrays to compare; others than these two are ignored.
    """

    def __init__(
        self, reference: Reference | DeepReference, v: Array, names: Container[str]
    ) -> None:
        self._reference = reference
        self._v = v
        self._mean = "mean_blocks" in names and not isinstance(reference, Reference)
        self._gram = "gram_blocks" in names
        self._columns = 0
        self._unknown = False
        self._sum: Any = 0.0
        self._sum_error: Any = 0.0
        self._sum_size: Any = 0.0
        self._square: Any = 0.0
        self._square_error: Any = 0.0
        self._square_size: Any = 0.0

    def take(self, results: Results) -> None:
        """Add the results of further columns."""
        y, e = results.arrays["jacobian"]
        self._columns += len(y)
        self._unknown |= bool(results.unknown.any())
        with np.errstate(all="ignore"):
            if self._mean:
                self._sum = self._sum + y.sum(axis=0)
                self._sum_error = self._sum_error + e.sum(axis=0)
                self._sum_size = self._sum_size + results.size.sum(axis=0)
            if self._gram and isinstance(self._reference, Reference):
                self._outer(results)
            elif self._gram:
                self._square = self._square + np.sum(y * y)
                self._square_error = self._square_error + np.sum((2 * np.abs(y) + e) * e)
                self._square_size = self._square_size + np.sum(results.size**2)

    def _outer(self, results: Results) -> None:
        assert isinstance(self._reference, Reference)  # noqa: S101
        assert results.slope is not None  # noqa: S101
        (U, W), (s, r) = self._reference.weights, results.slope
        w, a = W @ self._v, np.abs(s) + r
        across = U.T @ results.arrays["jacobian"].centre.T
        moved = np.abs(U).T @ (np.abs(U) @ (r * np.abs(w)[:, None]))
        self._square = self._square + (s * across).sum(axis=1)
        error = (a * moved + r * np.abs(across)).sum(axis=1)
        self._square_error = self._square_error + error
        self._square_size = self._square_size + (a * (np.abs(U).T @ results.size.T)).sum(axis=1)

    def compared(
        self, parts: Mapping[str, NDArray[Any]]
    ) -> Iterator[tuple[str, NDArray[Any], Enclosure]]:
        """Yield each array's name, its product with v, and an enclosure of the exact product."""
        B, v, length = self._columns, self._v, np.abs(self._v)
        tiny = float(np.finfo(np.float64).tiny)
        with np.errstate(all="ignore"):
            if self._mean:
                stored = parts["mean_blocks"].astype(np.float64)
                radius = self._sum_error + 2 * (B + len(v) + 16) * _U64 * self._sum_size
                yield "mean_blocks", stored @ v, self._known(self._sum, radius)
            if not self._gram:
                return
            stored = parts["gram_blocks"].astype(np.float64)
            if isinstance(self._reference, Reference):
                U, W = self._reference.weights
                (q, m), n, kind = U.shape, len(v), self._reference.stored
                A, together = np.abs(W).T, min(B, STRIP) + 8
                rounding = 2 * ((B + 3 * m + 2 * n + q + 16) * _U64 + together * unit(kind))
                radius = A @ (self._square_error + rounding * self._square_size)
                coupled = np.abs(U).T @ (np.abs(U) @ (np.abs(W) @ length))
                radius += B * (float(kind.tiny) + 4 * tiny) * (A @ coupled)
                yield "gram_blocks", stored @ v, self._known(W.T @ self._square, radius)
                return
            n, terms = len(v), B * self._reference.outputs + 2 * len(v) + 16
            radius = self._square_error + 2 * terms * _U64 * self._square_size
            radius += 16 * terms * n * n * tiny
            square = np.asarray(v @ stored @ v)
            yield "gram_blocks", square, self._known(np.asarray(self._square), radius)
            # vᵀGv does not depend on the antisymmetric part of G, so compare G − Gᵀ with 0. The
            # rounding error of G_ij is relative to √(G_ii G_jj), which bounds |G_ij|.
            root = np.sqrt(np.abs(np.diagonal(stored)))
            least = 4 * terms * (_U64 * np.outer(root, root) + tiny)
            zero = np.where(np.isnan(self._square), np.nan, 0.0) + np.zeros_like(stored)
            yield "gram_blocks", stored - stored.T, self._known(zero, least)

    def _known(self, centre: Array, radius: Any) -> Enclosure:
        """Allow any value if a column may have overflowed; where X makes it NaN, require NaN."""
        radius = np.where(np.isnan(centre), 0.0, np.where(self._unknown, np.inf, radius))
        return Enclosure(centre, radius)
