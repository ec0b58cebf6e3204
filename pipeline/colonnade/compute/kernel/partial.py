"""Compute blocks of few columns, bitwise as whole tiles give them, in less time than a whole tile.

A BLAS computes several columns at a time, and may round the rest at the end differently. So a tile
is split into groups, whose width is a multiple of that of most BLAS libraries. If more groups are
requested, they are joined to pieces of two, four or eight groups.

    columns     0               t              2t
    groups      | | | | | | | | | | | | | | | | |
    requested        ·▒▒▒▒▒▒▒▒▒▒▒·▒▒                blocks of the dots are computed too
    pieces          | |   |       |   |

Whether pieces of a width are rounded like the whole tile is tested with random slopes: the method
that a BLAS chooses depends on the shapes alone. If the test fails, whole tiles are computed. Only
the sign of a NaN may differ.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from colonnade.buffers import Buffers, made_once
from colonnade.compute.kernel.tiles import Tiles

__all__ = ["PartialTiles"]

# Candidates for the columns of a group; the first that passes the test is used. BLAS libraries
# compute 2, 4, 6, 8, 12, 16 or 24 columns at a time
_GROUPS = (24, 48)
# Fewest numbers to compare: two ways to round agree on some numbers by chance
_NUMBERS = 2**14


class PartialTiles:
    """Blocks of any columns of a network, from known slopes.

    Parameters
    ----------
    tiles
        The tiles whose `blocks` are reproduced.
    """

    def __init__(self, tiles: Tiles) -> None:
        self.tiles = tiles
        self._kernel = tiles.kernel
        self._alike: dict[int, bool] = {}
        self._trying = threading.Lock()
        self._buffers = Buffers()

    def blocks(
        self, S: NDArray[Any], numbers: NDArray[np.intp], out: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        """Compute T of the columns with these numbers, which must ascend.

        Parameters
        ----------
        S
            (s, B): their slopes, in C order like a kernel's, since rounding may depend on it.
        out
            (B, q, n), C-contiguous, of the results' dtype: written and returned.
        """
        kernel, network = self._kernel, self._kernel.network
        if out is None:
            out = np.empty((len(numbers), network.q, network.n), kernel.dtype)
        for some, places, width in self._products(numbers):
            if np.array_equal(places, np.arange(width)):
                kernel.blocks(S[:, some], out[some])
            else:
                whole = np.zeros((len(S), width), S.dtype)
                whole[:, places] = S[:, some]
                T = self._buffers.array("T", (width, network.q, network.n), kernel.dtype)
                # In any other mode, take writes to a copy first
                np.take(kernel.blocks(whole, T), places, axis=0, out=out[some], mode="clip")
        return out

    def _products(self, numbers: NDArray[np.intp]) -> Iterator[tuple[slice, NDArray[np.intp], int]]:
        """Yield columns that are computed together, their places in a product, and its width."""
        t, a = self.tiles.columns, 0
        # The last columns of runs without a gap wider than a group
        ends = np.flatnonzero(np.diff(numbers, append=np.inf) > self._group)
        while a < len(numbers):
            tile, end = int(numbers[a]) // t * t, int(numbers[ends[np.searchsorted(ends, a)]]) + 1
            start, stop = self._piece(int(numbers[a]) - tile, min(end - tile, t))
            b = a + int(np.searchsorted(numbers[a:], tile + stop))
            yield slice(a, b), numbers[a:b] - (tile + start), stop - start
            a = b

    def _piece(self, place: int, end: int) -> tuple[int, int]:
        """Find the widest piece from `place` that ends less than a group's width after `end`."""
        t, width = self.tiles.columns, self._group
        start = place // width * width
        while (
            width < t
            and start % (2 * width) == 0
            and min(start + 2 * width, t) - end < self._group
            and self._is_alike(2 * width)
        ):
            width *= 2
        return start, min(start + width, t)

    @made_once
    def _group(self) -> int:
        """Columns of a group that is rounded like its tile; without one, those of a tile."""
        t = self.tiles.columns
        return next((group for group in _GROUPS if self._is_alike(group)), t)

    def _is_alike(self, width: int) -> bool:
        """Return whether a tile in pieces of this width is rounded like the whole tile."""
        with self._trying:
            if width not in self._alike:
                self._alike[width] = width >= self.tiles.columns or self._tried(width)
            return self._alike[width]

    def _tried(self, width: int) -> bool:
        kernel, t, rng, compared = self._kernel, self.tiles.columns, np.random.default_rng(1), 0
        bits, tiny = f"u{kernel.dtype.itemsize}", np.finfo(kernel.dtype).tiny
        while compared < _NUMBERS:
            S = rng.random((kernel.numbers, t)).astype(kernel.dtype)
            # Weights may overflow; a run reports that
            with np.errstate(all="ignore"):
                T = kernel.blocks(S)
                pieces = (kernel.blocks(S[:, a : a + width]) for a in range(0, t, width))
                same = np.array_equal(np.concatenate(list(pieces)).view(bits), T.view(bits))
            # Zeros and infinities do not show how they were rounded
            shown = int(np.count_nonzero(np.isfinite(T) & (np.abs(T) > tiny)))
            if not same or shown < T.size // 2:
                return False
            compared += shown
        return True
