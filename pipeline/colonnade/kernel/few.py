"""Blocks of few columns, to a bit as whole tiles give them, in less time than a whole tile takes.

Most BLAS round a block alike in products of other widths and at other places, some at least in
groups that a tile is cut into. What holds for the one at hand is tried, with any slopes: by which
way a BLAS computes depends on the shapes alone. Where nothing holds, whole tiles are computed.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from colonnade.buffers import Buffers, made_once
from colonnade.kernel.tiles import Tiles

__all__ = ["FewColumns"]

# Of the widths that are tried: each takes as long as two tiles
_STEP = 8
# Where places matter: a multiple of the columns that BLAS take at a time, 4, 6, 8, 12, 16, 24
_GROUP = 48


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
        self._alike: dict[int, bool] = {}
        self._trying = threading.Lock()
        self._buffers = Buffers()

    def blocks(
        self, S: NDArray[Any], numbers: NDArray[np.intp], out: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        """T of the columns of these numbers, which ascend; S (s, B) are their slopes.

        Parameters
        ----------
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
        """Yield the columns that are computed next, their places in a product, and its width."""
        t, a, B = self.tiles.columns, 0, len(numbers)
        while a < B:
            # As many as fill a width, which are computed where they are to be, then the others
            width = min(t, max(_STEP, (B - a) // _STEP * _STEP))
            columns = min(B - a, width)
            places = np.arange(columns)
            if not (np.array_equal(numbers[a:] % t, np.arange(t)) or self._is_alike(width)):
                # Those of the same group, where they are in it
                tile, group = numbers[a] // t, numbers[a] % t // self._group
                first = tile * t + group * self._group
                width = min(self._group, t - group * self._group)
                columns = int(np.searchsorted(numbers[a:], first + width))
                places = numbers[a : a + columns] - first
            yield slice(a, a + columns), places, width
            a += columns

    def _is_alike(self, width: int) -> bool:
        """Whether a product of so many columns, of any places, gives what a tile does."""
        t = self.tiles.columns
        with self._trying:
            # Whether places matter in a tile, then whether the width does
            for each in (t, width):
                if each not in self._alike:
                    elsewhere = (np.arange(each) + (t // 2 | 1)) % t
                    self._alike[each] = all(self._alike.values()) and self._tried([elsewhere])
            return self._alike[width]

    @made_once
    def _group(self) -> int:
        """Columns of a group, of which a product gives what a tile does: else those of a tile."""
        t = self.tiles.columns
        groups = [np.arange(a, min(a + _GROUP, t)) for a in range(0, t, _GROUP)]
        return _GROUP if self._tried(groups) else t

    def _tried(self, products: list[NDArray[np.intp]]) -> bool:
        """Whether products of these places of a tile give what the tile does."""
        kernel = self._kernel
        shape = (kernel.numbers, self.tiles.columns)
        S = np.random.default_rng(1).random(shape).astype(kernel.dtype)
        bits = f"u{kernel.dtype.itemsize}"
        # Weights may overflow, as they do in a run, which tells it
        with np.errstate(all="ignore"):
            T = kernel.blocks(S).view(bits)
            return all(
                np.array_equal(kernel.blocks(np.take(S, places, axis=1)).view(bits), T[places])
                for places in products
            )
