"""Slopes from a store of layout factored, in the place of X: what a dense store is made of."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from colonnade.errors import StoreError
from colonnade.store.store import Store

__all__ = ["Slopes", "SlopesAddress"]


class SlopesAddress(NamedTuple):
    """Where a store of slopes is, which making of it, and how its object store is reached."""

    path: str
    id: str
    options: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, store: Store) -> SlopesAddress:
        """Say where an open store is."""
        return cls(store.path, store.record.id, tuple(store.place.options.items()))


class Slopes:
    """The slopes of a store, read by column numbers, and what else is taken from it.

    Each reading raises StoreError where the store has gone by then, or another one is in its place:
    its weights, which were read before, are not those of that one.

    Attributes
    ----------
    p, numbers
        Columns, and numbers of each.
    dtype, chunk_columns, copies, path
        As `Columns` has them, for the slopes.
    """

    copies = 1

    def __init__(self, store: Store) -> None:
        self.store = store
        self.path = store.path
        self.p = store.grid.columns
        self.numbers = store.record.shapes.m
        self.dtype = np.dtype(store.record.job.output.dtype)
        self.chunk_columns = store.grid.chunk_columns
        # Few, if any
        self._counted = {block: store.count(block) for block in store.counted()}

    @classmethod
    def open(cls, source: SlopesAddress) -> Slopes:
        """Open a store; StoreError where it has gone, or another one has taken its place."""
        store = Store.open(source.path, dict(source.options))
        if store.record.id != source.id:
            raise StoreError(f"{source.path}: the store of slopes was made anew.")
        return cls(store)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Read S′ of columns, (m, stop - start)."""
        return self._turned(self.store.read_rows("slope", start, stop))

    def take(self, numbers: NDArray[np.intp]) -> NDArray[Any]:
        """Read S′ of the columns of these numbers, (m, len(numbers))."""
        return self._turned(self.store.take_rows("slope", numbers))

    def values(self, start: int, stop: int) -> NDArray[Any]:
        """Read Y of columns, (stop - start, q)."""
        return self._checked(self.store.read_rows("value", start, stop))

    def _turned(self, rows: NDArray[Any]) -> NDArray[Any]:
        # In the order in which a kernel makes them, of which its rounding may depend
        return np.ascontiguousarray(self._checked(rows).T)

    def _checked(self, rows: NDArray[Any]) -> NDArray[Any]:
        # Afterwards: a new store has its id before it has any rows
        if not self.store.is_current():
            raise StoreError(
                f"{self.path}: the store of slopes has gone, or was made anew, since it was opened."
            )
        return rows

    def nonfinite(self, start: int, stop: int) -> int:
        """Count the columns whose X is not finite.

        NaN is NaN in the slopes; of infinities, whose slopes may be finite, it is known in which
        blocks of the store they are: then one at the least is counted.
        """
        grid = self.store.grid
        first, last = start // grid.block_columns, (stop - 1) // grid.block_columns
        found, known = 0, True
        for block in {*range(first, last + 1)} & {*self._counted}:
            a, b = grid.bounds(block)
            nan = np.isnan(self.read(a, b)).any(axis=0)
            found += int(nan[max(start - a, 0) : stop - a].sum())
            known = known and int(nan.sum()) == self._counted[block]
        return found if known else max(found, 1)
