"""Fixed-size tiles make results bitwise reproducible, whichever columns are requested.

How a number is rounded depends, in a matrix product, on the product's shape and, with some BLAS
libraries, on its position; in a formula, on where vector instructions begin. Blocks of
any size must give the same bits, also those that are computed later from stored slopes. So all
arithmetic between X and T is done in tiles. Tiles are counted from column 0, and each one is
computed with all its columns: if only some are requested, the others are zeros.

    columns     0     t     2t    3t
    tiles       |     |     |     |
    requested         ··|▒▒▒|▒··|       two tiles are computed
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from colonnade.compute.kernel.kernel import Kernel
from colonnade.network.network import Network

__all__ = ["STRIP", "Tiles", "overlapping", "tile_columns"]

# Enough rows for a matrix product to run at full speed; fewer if their blocks exceed _BYTES
_COLUMNS = 512
_BYTES = 16 * 2**20
# Fewest columns for which σ′ is computed at full speed
_FEWEST_SLOPES = 64
# Columns whose pre-activations and slopes are held at a time: whole tiles
STRIP = _COLUMNS


def tile_columns(network: Network, dtype: DTypeLike) -> int:
    """Return the columns of a tile: a power of two that depends on the shapes alone."""
    column_bytes = network.q * network.n * np.dtype(dtype).itemsize
    fitting = min(_COLUMNS, max(1, _BYTES // column_bytes))
    return 1 << (fitting.bit_length() - 1)


class Tiles:
    """Slopes and blocks of a network's columns, which are addressed by number.

    Parameters
    ----------
    network, x_dtype, dtype
        As for `Kernel`.
    """

    def __init__(self, network: Network, x_dtype: DTypeLike, dtype: DTypeLike) -> None:
        self.columns = tile_columns(network, dtype)
        self.kernel = Kernel(network, x_dtype, dtype, self.columns)

    def slopes(
        self,
        X: NDArray[Any],
        start: int,
        values: NDArray[Any] | None = None,
        out: NDArray[Any] | None = None,
    ) -> NDArray[Any]:
        """Compute S of the columns from number `start`: X (n, B) gives (s, B), of result dtype.

        Parameters
        ----------
        values
            (B, q): filled with Yᵀ on the way.
        out
            (s, B): written and returned.
        """
        S = np.empty((self.kernel.numbers, X.shape[1]), self.kernel.dtype) if out is None else out
        for x, here, there in self._pieces(X, start):
            if here == slice(0, x.shape[1]):
                self.kernel.slopes(x, None if values is None else values[there], S[:, there])
                continue
            y = None if values is None else np.empty((x.shape[1], values.shape[1]), values.dtype)
            S[:, there] = self.kernel.slopes(x, y)[:, here]
            if y is not None and values is not None:
                values[there] = y[here]
        return S

    def values(self, X: NDArray[Any], start: int, out: NDArray[Any]) -> None:
        """Fill `out` (B, q) with Yᵀ of the columns X (n, B), from number `start`."""
        for x, here, there in self._pieces(X, start):
            out[there] = self.kernel.value(x)[:, here].T

    def _pieces(self, X: NDArray[Any], start: int) -> Iterator[tuple[NDArray[Any], slice, slice]]:
        """Yield whole tiles of X, each with the slices of its requested columns in it and in X."""
        width = max(self.columns, _FEWEST_SLOPES)
        for first, a, b in overlapping(start, start + X.shape[1], width):
            here, there = slice(a - first, b - first), slice(a - start, b - start)
            piece = X[:, there]
            if b - a < width:
                whole = np.zeros((len(X), width), X.dtype)
                whole[:, here] = piece
                piece = whole
            yield piece, here, there

    def blocks(self, S: NDArray[Any], start: int, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Compute T of the columns from number `start`, whose slopes are S (s, B).

        Parameters
        ----------
        out
            (B, q, n), C-contiguous, of the results' dtype: written and returned.
        """
        kernel, B = self.kernel, S.shape[1]
        if out is None:
            out = np.empty((B, kernel.network.q, kernel.network.n), kernel.dtype)
        for first, a, b in overlapping(start, start + B, self.columns):
            s, T = S[:, a - start : b - start], out[a - start : b - start]
            if b - a == self.columns:
                kernel.blocks(s, T)
            else:
                whole = np.zeros((len(S), self.columns), S.dtype)
                whole[:, a - first : b - first] = s
                T[...] = kernel.blocks(whole)[a - first : b - first]
        return out


def overlapping(start: int, stop: int, width: int) -> Iterator[tuple[int, int, int]]:
    """Yield the start of each tile that overlaps [start, stop), and the bounds of the overlap."""
    for first in range(start // width * width, stop, width):
        yield first, max(first, start), min(first + width, stop)
