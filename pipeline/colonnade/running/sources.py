"""What a worker makes a block from: columns of X, or the slopes that another store holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from colonnade.buffers import Buffers
from colonnade.compute.kernel.tiles import STRIP, Tiles
from colonnade.inputs.matrix import nonfinite
from colonnade.running.input_guard import SteadyColumns
from colonnade.store.slopes import Slopes

__all__ = ["BlockSource", "InputSource", "SlopesSource"]


class BlockSource(Protocol):
    """Reads what a block is made from, its data: X, (n, B), or S′, (m, B)."""

    @property
    def touched(self) -> bool:
        """Whether X was written to during the run, and only samples of it show no change."""

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Read the data of columns."""

    def nonfinite(self, data: NDArray[Any], start: int) -> int:
        """Count the columns of X that are not finite; `start` is the number of the first column.

        Raises
        ------
        ValueError
            Such columns exist, and the job refuses them.
        """

    def slopes(
        self,
        data: NDArray[Any],
        first: int,
        values: NDArray[Any] | None,
        tiles: Tiles,
        scratch: Buffers,
    ) -> NDArray[Any]:
        """Return the slopes of the columns from number `first` on; write Y to `values`."""

    def values(self, data: NDArray[Any], first: int, values: NDArray[Any], tiles: Tiles) -> None:
        """Write Y of the columns from number `first` on to `values`, (B, q), without slopes."""


@dataclass(frozen=True)
class InputSource:
    """Columns of X.

    Attributes
    ----------
    refuses
        Whether columns that are not finite make their block fail.
    """

    columns: SteadyColumns
    refuses: bool

    @property
    def touched(self) -> bool:
        """As of `SteadyColumns`."""
        return self.columns.touched

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Read X, (n, stop - start)."""
        return self.columns.read(start, stop)

    def nonfinite(self, data: NDArray[Any], start: int) -> int:
        """Count the columns that are not finite."""
        count = 0
        for first in range(0, data.shape[1], STRIP):
            strip = data[:, first : first + STRIP]
            found = nonfinite(strip)
            count += len(found)
            if len(found) and self.refuses:
                k = int(found[0])
                j = int(np.argmin(np.isfinite(strip[:, k])))
                raise ValueError(
                    f"column {start + first + k} of X has {strip[j, k]} as its feature {j}. Accept "
                    "it with input.nonfinite: propagate, or correct X and recompute the store "
                    "(--overwrite)"
                )
        return count

    def slopes(
        self,
        data: NDArray[Any],
        first: int,
        values: NDArray[Any] | None,
        tiles: Tiles,
        scratch: Buffers,
    ) -> NDArray[Any]:
        """Compute the slopes, and Y."""
        room = scratch.array("S", (tiles.kernel.numbers, data.shape[1]), tiles.kernel.dtype)
        return tiles.slopes(data, first, values, room)

    def values(self, data: NDArray[Any], first: int, values: NDArray[Any], tiles: Tiles) -> None:
        """Compute Y."""
        tiles.values(data, first, values)


@dataclass(frozen=True)
class SlopesSource:
    """Slopes of a store with layout factored."""

    stored: Slopes
    touched: bool = False

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Read S′, (m, stop - start)."""
        return self.stored.read(start, stop)

    def nonfinite(self, data: NDArray[Any], start: int) -> int:
        """Count the columns of X that were not finite when the slopes were computed."""
        return self.stored.nonfinite(start, start + data.shape[1])

    def slopes(
        self,
        data: NDArray[Any],
        first: int,
        values: NDArray[Any] | None,
        tiles: Tiles,
        scratch: Buffers,
    ) -> NDArray[Any]:
        """Return the data, which are the slopes; copy Y."""
        del scratch
        if values is not None:
            self.values(data, first, values, tiles)
        return data

    def values(self, data: NDArray[Any], first: int, values: NDArray[Any], tiles: Tiles) -> None:
        """Copy Y from the store."""
        del tiles
        values[...] = self.stored.values(first, first + data.shape[1])
