"""Columns computed in the same company, whoever asks for which of them: results alike to a bit.

How a number is rounded depends, in a matrix product, on the product's shape, and with some BLAS on
its place in it; in a formula, on where vector instructions begin. A store of slopes, cut into its
own blocks, must give the tensor that a store of the tensor holds. So all arithmetic between X and T
is done in tiles, which are counted from column 0, and of which each has all of its columns: where
only some are asked for, the others are zeros.

    columns     0     t     2t    3t
    tiles       |     |     |     |
    asked for         ··|▒▒▒|▒··|       two tiles are computed
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from colonnade.compute.kernel.kernel import Kernel
from colonnade.network.network import Network

__all__ = ["STRIP", "Tiles", "overlapping", "tile_columns"]

# Rows enough for a matrix product to run at speed; fewer where their blocks take too much
_COLUMNS = 512
_BYTES = 16 * 2**20
# Columns of which σ′ is computed at speed
_FEWEST_SLOPES = 64
# Columns whose pre-activations and slopes are held at a time: whole tiles
STRIP = _COLUMNS


def tile_columns(network: Network, dtype: DTypeLike) -> int:
    """Columns of a tile: a power of two, by the shapes alone."""
    column_bytes = network.q * network.n * np.dtype(dtype).itemsize
    fitting = min(_COLUMNS, max(1, _BYTES // column_bytes))
    return 1 << (fitting.bit_length() - 1)


class Tiles:
    """Slopes and blocks of a network's columns, by their numbers.

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
        """S of the columns from number `start` on: X (n, B) gives (s, B), of the results' type.

        Parameters
        ----------
        values
            (B, q), to be filled with Yᵀ on the way.
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
        """Fill `out` (B, q) with Yᵀ of the columns from number `start` on, X (n, B)."""
        for x, here, there in self._pieces(X, start):
            out[there] = self.kernel.value(x)[:, here].T

    def _pieces(self, X: NDArray[Any], start: int) -> Iterator[tuple[NDArray[Any], slice, slice]]:
        """Yield whole tiles of X, and where what is asked for lies in each, and it in that."""
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
        """T of the columns from number `start` on, of which S (s, B) are the slopes.

        Parameters
        ----------
        out
            (B, q, n), C-contiguous, of the results' type: written and returned.
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
    """Yield where each tile begins that overlaps some columns, and the first and last of those."""
    for first in range(start // width * width, stop, width):
        yield first, max(first, start), min(first + width, stop)
