"""Compute products, norms and sums of the stored tensor, to compare other arrays with.

Each number is read once and converted to float64, in slices that stay in cache.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from colonnade.verification.reference import U64, Array, Enclosure, Rounding

__all__ = ["Projected", "StoredSums", "norm_enclosure", "project"]

# How many float64 numbers stay in cache
_NUMBERS = 2**16


class Projected(NamedTuple):
    """Products of the blocks T_k, (q, n), of b columns with a vector v."""

    product: Array  # T_k v, (b, q)
    sizes: Array | None  # |T_k||v|, (b, q)
    norm: Array | None  # ‖T_k‖_F, (b,)


def project(T: NDArray[Any], v: Array, *, sizes: bool, norms: bool) -> Projected:
    """Multiply blocks T (b, q, n) with v (n,), in float64.

    Parameters
    ----------
    sizes, norms
        Whether to compute |T_k||v| and ‖T_k‖_F as well.
    """
    b, q, n = T.shape
    flat = T.reshape(b * q, n)
    step = max(1, _NUMBERS // n)
    product = np.empty(b * q)
    size = np.empty(b * q) if sizes else None
    squares = np.empty(b * q) if norms else None
    room = np.empty((min(step, b * q), n))
    length = np.abs(v)
    with np.errstate(all="ignore"):
        for first in range(0, b * q, step):
            rows = slice(first, min(first + step, b * q))
            part = room[: rows.stop - first]
            part[...] = flat[rows]
            np.matmul(part, v, out=product[rows])
            if squares is not None:
                np.einsum("rj,rj->r", part, part, out=squares[rows])
            if size is not None:
                np.matmul(np.abs(part, out=part), length, out=size[rows])
        norm = None if squares is None else np.sqrt(squares.reshape(b, q).sum(axis=1))
    return Projected(product.reshape(b, q), None if size is None else size.reshape(b, q), norm)


def norm_enclosure(norm: Array, q: int, n: int, rounding: Rounding) -> dict[str, Enclosure]:
    """Enclose ‖J_k‖_F by the norm of T_k, and ‖J_k‖₂ between ‖J_k‖_F/√min(q, n) and ‖J_k‖_F."""
    with np.errstate(all="ignore"):
        cut = rounding.cut / (1 - rounding.cut)
        radius = (cut + 2 * (q * n + 8) * U64 + 4 * float(rounding.stored.eps)) * norm
        # Squares of tiny numbers underflow, and subnormal numbers lose their last bits
        radius += 4 * np.sqrt(q * n) * (1e-154 + float(rounding.stored.tiny))
        # Squares may overflow in float64 although the norm does not
        radius = np.where(norm < 1e150, radius, np.inf)
        least = norm / np.sqrt(min(q, n))
        return {
            "norm": Enclosure(norm, radius),
            "spectral_norm": Enclosure((norm + least) / 2, (norm - least) / 2 + 2 * radius),
        }


class StoredSums:
    """Encloses sums and maxima of |J_k| over a block's columns, from the stored tensor.

    Parameters
    ----------
    names
        Arrays to enclose; others than mean_abs_blocks and max_abs_blocks are ignored.
    """

    def __init__(self, rounding: Rounding, names: Container[str]) -> None:
        self._rounding = rounding
        self._names = [name for name in ("mean_abs_blocks", "max_abs_blocks") if name in names]
        self._columns = 0
        self._total: Any = 0.0
        self._largest: Any = 0.0

    def add(self, T: NDArray[Any]) -> None:
        """Add the blocks T (b, q, n) of further columns."""
        self._columns += len(T)
        if not self._names:
            return
        step = max(1, _NUMBERS // T[0].size)
        with np.errstate(all="ignore"):
            for k in range(0, len(T), step):
                size = np.abs(T[k : k + step])
                if "mean_abs_blocks" in self._names:
                    self._total = self._total + size.sum(axis=0, dtype=np.float64)
                if "max_abs_blocks" in self._names:
                    self._largest = np.maximum(self._largest, size.max(axis=0))

    def enclosures(self, columns: int) -> dict[str, Enclosure]:
        """Return the enclosures by name; empty unless all of the block's columns were added."""
        if self._columns < columns:
            return {}
        cut, tiny = self._rounding.cut / (1 - self._rounding.cut), float(self._rounding.stored.tiny)
        found = {}
        with np.errstate(all="ignore"):
            if "mean_abs_blocks" in self._names:
                total = self._total
                radius = (cut + 2 * (columns + 8) * U64) * total + 4 * columns * tiny
                found["mean_abs_blocks"] = Enclosure(
                    total, np.where(total < np.inf, radius, np.inf)
                )
            if "max_abs_blocks" in self._names:
                largest = self._largest.astype(np.float64)
                # Rounding the mantissa of the largest numbers makes them infinite
                radius = cut * largest + 4 * tiny
                found["max_abs_blocks"] = Enclosure(largest, radius)
        return found
