"""The tensor of a store of slopes, computed on reading and only for the requested columns."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core.indexing import (
    ExplicitIndexer,
    IndexingSupport,
    LazilyIndexedArray,
    explicit_indexing_adapter,
)

from colonnade.compute.blas import one_blas_thread
from colonnade.compute.kernel.partial import PartialTiles
from colonnade.compute.kernel.tiles import Tiles, overlapping
from colonnade.store import Store
from colonnade.store.attributes import attributes
from colonnade.store.slopes import Slopes, SlopesAddress

__all__ = ["recovered"]

# Bytes of the tensor that one dask task computes: enough to outweigh dask's own work, and not more,
# since reading one column at random computes them all
_CHUNK_BYTES = 8 * 2**20
# Bytes of slopes read at once
_SLOPES_BYTES = 16 * 2**20


def recovered(store: Store) -> xr.Variable:
    """Return the tensor of a store of slopes, (p, q, n), as a lazy variable.

    Reading a part, by columns, outputs or inputs, computes only the columns of that part. The
    numbers are bitwise those of a store of the tensor, on the same machine with the same BLAS.
    Reading raises StoreError if the store was deleted or replaced after it was opened.
    """
    tensor = Recovered(store)
    network = store.network(imports=False)
    p, q, n = tensor.shape
    columns = max(1, _CHUNK_BYTES // (q * n * tensor.dtype.itemsize))
    # A power of two, like a tile's, so that their boundaries coincide
    columns = 1 << (columns.bit_length() - 1)
    sizes = {"column": min(columns, p), "output": q, "input": n}
    return xr.Variable(
        ("column", "output", "input"),
        LazilyIndexedArray(tensor),
        attributes("jacobian", network),
        {"preferred_chunks": sizes},
    )


class Recovered(BackendArray):
    """The tensor, (p, q, n), whose parts are computed when they are read.

    It is pickled as the store's address; each process opens the store once.
    """

    def __init__(self, store: Store) -> None:
        shapes = store.record.shapes
        self.shape = (shapes.p, shapes.q, shapes.n)
        self.dtype = np.dtype(store.record.job.output.dtype)
        self._source = SlopesAddress.of(store)

    def __getitem__(self, key: ExplicitIndexer) -> NDArray[Any]:
        """Compute a part: integers, slices and arrays of integers, each along its own axis."""
        part: NDArray[Any] = explicit_indexing_adapter(
            key, self.shape, IndexingSupport.OUTER, self._part
        )
        return part

    def _part(self, keys: tuple[Any, ...]) -> NDArray[Any]:
        columns, *rest = (_indices(k, size) for k, size in zip(keys, self.shape, strict=True))
        outputs, inputs = rest
        part = np.empty(tuple(map(len, (columns, outputs, inputs))), self.dtype)
        whole = [range(size) for size in self.shape[1:]]
        everything = all(isinstance(k, range) for k in rest) and rest == whole
        slopes, few = _opened(self._source)
        if isinstance(columns, range) and columns.step == 1:
            pieces = _adjacent(slopes, few.tiles, columns)
        else:
            pieces = _apart(slopes, few.tiles, np.asarray(columns))
        with one_blas_thread():
            for places, S, numbers in pieces:
                if everything and isinstance(places, slice):
                    few.blocks(S, numbers, part[places])
                else:
                    T = few.blocks(S, numbers)
                    part[places] = T if everything else T[:, outputs][:, :, inputs]
        return part[
            tuple(0 if np.ndim(k) == 0 and not isinstance(k, slice) else slice(None) for k in keys)
        ]


# Positions in the part that is read, slopes, and column numbers
_Piece = tuple[slice | NDArray[np.intp], NDArray[Any], NDArray[np.intp]]


def _adjacent(slopes: Slopes, tiles: Tiles, columns: range) -> Iterator[_Piece]:
    """Yield adjacent columns, a tile at a time."""
    start, stop = columns.start, columns.stop
    for _, first, last in overlapping(start, stop, _at_once(slopes, tiles)):
        S = slopes.read(first, last)
        for _, a, b in overlapping(first, last, tiles.columns):
            yield slice(a - start, b - start), S[:, a - first : b - first], np.arange(a, b)


def _apart(slopes: Slopes, tiles: Tiles, columns: NDArray[np.intp]) -> Iterator[_Piece]:
    """Yield arbitrary columns in ascending order, as many as a tile has at a time."""
    order = np.argsort(columns, kind="stable")
    for _, first, last in overlapping(0, len(order), _at_once(slopes, tiles)):
        places = order[first:last]
        numbers = columns[places]
        S = slopes.take(numbers)
        for _, a, b in overlapping(0, len(places), tiles.columns):
            yield places[a:b], S[:, a:b], numbers[a:b]


def _at_once(slopes: Slopes, tiles: Tiles) -> int:
    """Return how many columns' slopes to read at once: whole tiles."""
    column_bytes = slopes.numbers * slopes.dtype.itemsize
    return max(1, _SLOPES_BYTES // (column_bytes * tiles.columns)) * tiles.columns


_opening = threading.Lock()


def _opened(source: SlopesAddress) -> tuple[Slopes, PartialTiles]:
    # Without the lock, each of a reader's threads would make the kernel that lru_cache shares
    with _opening:
        return _cached(source)


@lru_cache(maxsize=4)
def _cached(source: SlopesAddress) -> tuple[Slopes, PartialTiles]:
    slopes = Slopes.open(source)
    network, record = slopes.store.network(imports=False), slopes.store.record
    return slopes, PartialTiles(Tiles(network, np.dtype(record.input.dtype), slopes.dtype))


def _indices(key: Any, size: int) -> range | NDArray[np.intp]:
    """Return the positions that a key selects along an axis."""
    if isinstance(key, slice):
        return range(size)[key]
    numbers = np.atleast_1d(np.asarray(key))
    return np.where(numbers < 0, numbers + size, numbers)
