"""Slopes of a store with layout factored, which replace X when a dense store is made from it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from colonnade.errors import StoreError
from colonnade.store.store import Store

__all__ = ["Slopes", "SlopesAddress"]


class SlopesAddress(NamedTuple):
    """Address of a store of slopes: its path, its id, and the options of its object store."""

    path: str
    id: str
    options: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, store: Store) -> SlopesAddress:
        """Return the address of an open store."""
        return cls(store.path, store.record.id, tuple(store.place.options.items()))


class Slopes:
    """The slopes of a store, read by column numbers, with the network's outputs.

    Every read raises StoreError if the store is gone or was replaced, because its weights, which
    were read before, do not belong to a new store.

    Attributes
    ----------
    p, numbers
        Number of columns, and of slopes in each.
    dtype, chunk_columns, copies, path
        As in `InputMatrix`, for the slopes.
    """

    copies = 1

    def __init__(self, store: Store) -> None:
        self.store = store
        self.path = store.path
        self.p = store.grid.columns
        self.numbers = store.record.shapes.m
        self.dtype = np.dtype(store.record.job.output.dtype)
        self.chunk_columns = store.grid.chunk_columns
        # At most a few blocks have a count
        self._counted = {block: store.count(block) for block in store.counted()}

    @classmethod
    def open(cls, source: SlopesAddress) -> Slopes:
        """Open a store; StoreError if it is gone or was replaced."""
        store = Store.open(source.path, dict(source.options))
        if store.record.id != source.id:
            raise StoreError(
                f"{source.path}: the store of slopes was recreated after it was opened. "
                "Open it, or run the command, again."
            )
        return cls(store)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Read S′ of columns, (m, stop - start)."""
        return self._turned(self.store.read_rows("slope", start, stop))

    def take(self, numbers: NDArray[np.intp]) -> NDArray[Any]:
        """Read S′ of the columns with these numbers, (m, len(numbers))."""
        return self._turned(self.store.take_rows("slope", numbers))

    def values(self, start: int, stop: int) -> NDArray[Any]:
        """Read Y of columns, (stop - start, q)."""
        return self._checked(self.store.read_rows("value", start, stop))

    def _turned(self, rows: NDArray[Any]) -> NDArray[Any]:
        # In the memory order in which a kernel makes them: its rounding may depend on the order
        return np.ascontiguousarray(self._checked(rows).T)

    def _checked(self, rows: NDArray[Any]) -> NDArray[Any]:
        # After the read: a new store has its id before it has any rows
        if not self.store.is_current():
            raise StoreError(
                f"{self.path}: the store of slopes was deleted or recreated after it was opened. "
                "Open it, or run the command, again."
            )
        return rows

    def nonfinite(self, start: int, stop: int) -> int:
        """Count the columns whose X is not finite.

        NaN in X gives NaN slopes. The slopes of an infinity may be finite: then only the blocks
        of the store that hold such columns are known, and at least one column is counted.
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
