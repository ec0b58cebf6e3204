"""What the statistics of a block must be, by their definitions, as `reference` has it of a column.

Of sums over B columns in any order, each term within its own bound; with u the unit roundoff of
float64, in which they are summed, and v that of the slopes, in which their squares are, in strips
of t columns:

* Σ J_k is off by Σ |U| Diag(r_k) |W| and (B + 2m + 16) u Σ |U| Diag(|s_k| + r_k) |W|;
* Σ J_kᵀJ_k, as Wᵀ[(UᵀU) ∘ Σ s_k s_kᵀ]W, by |W|ᵀ[(|U|ᵀ|U|) ∘ Σ (a_k a_kᵀ − |s_k||s_k|ᵀ)]|W| with
  a_k = |s_k| + r_k, and ((B + 3m + n + q + 16) u + (t + 8) v) |W|ᵀ[(|U|ᵀ|U|) ∘ Σ a_k a_kᵀ]|W|;
* Σ |J_k| and max |J_k| by the bounds of the entries J_k.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from colonnade.kernel.tiles import STRIP
from colonnade.verify.reference import Array, Enclosure, Reference, unit

__all__ = ["BlockSums", "column_cost"]

_U64 = 2.0**-53
# Numbers of the tensor that are looked at at a time
_NUMBERS = 2**20
# Multiplications that take as long as a slope by its definition
_SLOPE = 2**14


def column_cost(n: int, m: int, q: int, names: Iterable[str]) -> int:
    """Tell what a column costs, in slopes that are computed by their definition."""
    names = set(names)
    tensor = 6 * m * q * n if names & {"mean_abs_blocks", "max_abs_blocks"} else 0
    outer = 4 * m * m if "gram_blocks" in names else 0
    return m + (tensor + outer) // _SLOPE


class BlockSums:
    """Encloses the statistics of a block, whose columns are given some at a time.

    Parameters
    ----------
    names
        Of the arrays, among mean_blocks, mean_abs_blocks, max_abs_blocks and gram_blocks.
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
        """Take further columns, X (n, B)."""
        s, r = self._reference.units(X).slope
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
            J, radius, _ = self._reference.blocks(s[:, k : k + width], r[:, k : k + width])
            J = np.abs(J)
            self._abs += J.sum(axis=0)
            self._abs_radius += radius.sum(axis=0)
            self._low = np.maximum(self._low, (J - radius).max(axis=0))
            self._high = np.maximum(self._high, (J + radius).max(axis=0))

    def enclosures(self) -> dict[str, Enclosure]:
        """Enclose what is stored, by name."""
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
        # Where something may have left the range of its type, so may the sum
        infinite = ~np.isfinite(self._r).all()
        if infinite:
            found = {
                name: Enclosure(e.centre, np.where(np.isnan(e.centre), e.radius, np.inf))
                for name, e in found.items()
            }
        return found
