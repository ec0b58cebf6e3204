"""Blocks of few columns, to a bit as whole tiles give them, in less time than a whole tile takes.

A BLAS takes some columns at a time, and may round those that are left at the end in another way. So
a tile is cut into groups of a multiple of what any BLAS takes, and neighbouring groups are computed
together:

    columns     0       t       2t      3t
    tiles       |       |       |       |
    groups      | | | | | | | | | | | | |
    asked for          ·▒▒▒▒▒▒▒▒▒·          blocks of the dots, too, are computed

That groups alone are rounded as in their tile is tried, with slopes at random: by which way a BLAS
computes depends on the shapes alone. Where it is not so, whole tiles are computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from colonnade.buffers import Buffers, made_once
from colonnade.kernel.tiles import Tiles

__all__ = ["FewColumns"]

# Columns of a group: BLAS take 2, 4, 6, 8, 12, 16 or 24 at a time
_GROUP = 48
# Numbers that are compared at the least: two ways to round agree on some by chance
_NUMBERS = 2**14


class FewColumns:
    """Blocks of any columns of a network, of which the slopes are known.

    Parameters
    ----------
    tiles
        Whose `blocks` are to be given.
    """

    def __init__(self, tiles: Tiles) -> None:
        self.tiles = tiles
        self._kernel = tiles.kernel
        self._buffers = Buffers()

    def blocks(
        self, S: NDArray[Any], numbers: NDArray[np.intp], out: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        """T of the columns of these numbers, which ascend.

        Parameters
        ----------
        S
            (s, B): their slopes, row by row as a kernel makes them, on which rounding may depend.
        out
            (B, q, n), C-contiguous, of the results' type: written and returned.
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
                # In another mode it writes to a copy first
                np.take(kernel.blocks(whole, T), places, axis=0, out=out[some], mode="clip")
        return out

    def _products(self, numbers: NDArray[np.intp]) -> Iterator[tuple[slice, NDArray[np.intp], int]]:
        """Yield columns that are computed together, their places in a product, and its width."""
        t, group = self.tiles.columns, self._group
        tiles, groups = numbers // t, numbers % t // group
        ends = np.flatnonzero((np.diff(tiles) != 0) | (np.diff(groups) > 1)) + 1
        for a, b in pairwise((0, *ends.tolist(), len(numbers))):
            if a < b:
                first, last = int(groups[a]) * group, min(t, (int(groups[b - 1]) + 1) * group)
                yield slice(a, b), numbers[a:b] % t - first, last - first

    @made_once
    def _group(self) -> int:
        """Columns of a group that is rounded as it is in its tile: else those of a tile."""
        kernel, t, rng, compared = self._kernel, self.tiles.columns, np.random.default_rng(1), 0
        bits, tiny = f"u{kernel.dtype.itemsize}", np.finfo(kernel.dtype).tiny
        while t > _GROUP and compared < _NUMBERS:
            S = rng.random((kernel.numbers, t)).astype(kernel.dtype)
            # Weights may overflow: a run tells it
            with np.errstate(all="ignore"):
                T = kernel.blocks(S)
                alone = (kernel.blocks(S[:, a : a + _GROUP]) for a in range(0, t, _GROUP))
                same = np.array_equal(np.concatenate(list(alone)).view(bits), T.view(bits))
            # How zeros and infinities were rounded does not show
            shown = int(np.count_nonzero(np.isfinite(T) & (np.abs(T) > tiny)))
            if not same or shown < T.size // 2:
                return t
            compared += shown
        return _GROUP
