"""Compute a block's columns on a worker: the shard of each array, in buffers that are reused."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from colonnade.buffers import Buffers
from colonnade.compute.kernel.tiles import STRIP, Tiles, overlapping
from colonnade.compute.products import BlockAccumulator, Product
from colonnade.running.sources import BlockSource
from colonnade.store import Store
from colonnade.store.rounding import round_mantissa
from colonnade.store.shards import ShardBuffer

__all__ = ["BlockWork"]


@dataclass(frozen=True)
class BlockWork:
    """State that the blocks of one store share in one process."""

    store: Store
    source: BlockSource
    tiles: Tiles
    products: tuple[Product, ...]
    local: threading.local = field(default_factory=threading.local)
    scratch: Buffers = field(default_factory=Buffers)

    def compute(self, X: NDArray[Any], start: int) -> tuple[dict[str, ShardBuffer], int]:
        """Compute the block's shard of every array, in buffers that the thread's next block reuses.

        `start` is the number of the block's first column. Columns are computed in strips, so that
        Z and S′ are small.

        Returns
        -------
        The buffers, and the number of columns with results that are not finite.
        """
        buffers = self._buffers()
        bad = np.zeros(X.shape[1], np.bool_)
        rows = BlockAccumulator(lambda name, first, last: buffers[name].rows(first, last))
        for product in self.products:
            product.begin(rows)
        for _, a, b in overlapping(start, start + X.shape[1], STRIP):
            self._strip(X[:, a - start : b - start], a, start, buffers, rows, bad)
        for product in self.products:
            product.end(rows)
        return buffers, self._overflowed(buffers, bad)

    def _overflowed(self, buffers: dict[str, ShardBuffer], bad: NDArray[np.bool_]) -> int:
        """Count the columns with results that are not finite; `bad` marks those known so far."""
        alone = False
        for plan in self.store.record.plans:
            if plan.name not in buffers or plan.name in ("jacobian", "slope"):
                continue
            if plan.dimensions[0] == "column":
                rows = buffers[plan.name].rows(0, len(bad))
                bad |= ~np.isfinite(rows).all(axis=tuple(range(1, rows.ndim)))
            else:
                alone = alone or not np.isfinite(buffers[plan.name].rows(0, 1)).all()
        # A sum may overflow where none of its terms does
        return max(int(np.count_nonzero(bad)), int(alone))

    def _strip(
        self,
        X: NDArray[Any],
        first: int,
        start: int,
        buffers: dict[str, ShardBuffer],
        rows: BlockAccumulator,
        bad: NDArray[np.bool_],
    ) -> None:
        """Compute columns, from number `first` on, of a block that begins at column `start`."""
        output = self.store.record.job.output
        at, B = first - start, X.shape[1]
        values = buffers["value"].rows(at, at + B) if "value" in buffers else None
        if values is not None and output.products == ("value",):
            self.source.values(X, first, values, self.tiles)
            return
        S = self.source.slopes(X, first, values, self.tiles, self.scratch)
        if "slope" in buffers:
            for a, b in _within(at, at + B, self.store.grid.chunk_columns):
                buffers["slope"].rows(a, b)[...] = S[:, a - at : b - at].T
        finite, all_finite = self.tiles.kernel.surely_finite(S)
        if not finite:
            bad[at : at + B] |= ~np.isfinite(S).all(axis=0)
        by_slopes = self.tiles.kernel.network.has_slopes
        of_slopes = [p for p in self.products if by_slopes and p.of_slopes]
        of_blocks = [p for p in self.products if p not in of_slopes]
        rows.start = at
        for product in of_slopes:
            product.slopes(S, rows)
        if not of_blocks and "jacobian" not in buffers:
            return
        for _, a, b in overlapping(first, first + B, self.tiles.columns):
            T = self._tile(S[:, a - first : b - first], a, a - start, buffers, of_blocks, rows)
            # Checking a whole block takes as long as writing it
            if not all_finite:
                bad[a - start : b - start] |= ~np.isfinite(T).all(axis=(1, 2))

    def _tile(
        self,
        S: NDArray[Any],
        number: int,
        at: int,
        buffers: dict[str, ShardBuffer],
        products: Sequence[Product],
        rows: BlockAccumulator,
    ) -> NDArray[Any]:
        chunk = self.store.grid.chunk_columns
        main, bits = buffers.get("jacobian"), self.store.record.job.output.significant_bits
        end = at + S.shape[1]
        pieces = list(_within(at, end, chunk)) if main is not None else []
        # Compute in place if the tile lies in one chunk
        place = main.rows(at, end) if main is not None and len(pieces) == 1 else self._scratch(S)
        T = self.tiles.blocks(S, number, place)
        rows.start = at
        for product in products:
            product.blocks(T, rows)
        if bits is not None:
            round_mantissa(T, bits)
        if main is not None and len(pieces) > 1:
            for a, b in pieces:
                main.rows(a, b)[...] = T[a - at : b - at]
        return T

    def _scratch(self, S: NDArray[Any]) -> NDArray[Any]:
        kernel = self.tiles.kernel
        network = kernel.network
        return self.scratch.array("T", (S.shape[1], network.q, network.n), kernel.dtype)

    def _buffers(self) -> dict[str, ShardBuffer]:
        buffers: dict[str, ShardBuffer] | None = getattr(self.local, "buffers", None)
        if buffers is None:
            buffers = self.local.buffers = {
                name: self.store.buffer(name) for name in self.store.record.arrays
            }
        return buffers


def _within(start: int, stop: int, width: int) -> Iterator[tuple[int, int]]:
    """Split rows at multiples of `width`."""
    return ((a, b) for _, a, b in overlapping(start, stop, width))
