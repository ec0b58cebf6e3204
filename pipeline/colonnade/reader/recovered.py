"""The tensor of a store of slopes: computed on reading, only for the columns that are asked for."""

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

from colonnade.blas import one_blas_thread
from colonnade.kernel.tiles import Tiles, overlapping, tile_columns
from colonnade.sources import Slopes, SlopesAddress
from colonnade.store import Store
from colonnade.store.attributes import attributes

__all__ = ["recovered"]

# Of the tensor, that a reader's task computes: about a chunk of the dense layout
_CHUNK_BYTES = 16 * 2**20


def recovered(store: Store) -> xr.Variable:
    """Return the tensor of a store of slopes, (p, q, n), as a lazy variable.

    A part of it, by columns, outputs or inputs, is computed alone, in whole tiles; and equal to
    the last bit to what a store of the tensor has there, on the same machine with the same BLAS.
    """
    tensor = Recovered(store)
    network = store.network(imports=False)
    tile = tile_columns(network, tensor.dtype)
    p, q, n = tensor.shape
    columns = max(tile, _CHUNK_BYTES // (q * n * tensor.dtype.itemsize) // tile * tile)
    sizes = {"column": min(columns, p), "output": q, "input": n}
    return xr.Variable(
        ("column", "output", "input"),
        LazilyIndexedArray(tensor),
        attributes("jacobian", network),
        {"preferred_chunks": sizes},
    )


class Recovered(BackendArray):
    """The tensor, (p, q, n), of which parts are computed when they are asked for.

    It travels as the store's address; a process opens the store once.
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
        everything = keys[1:] == tuple(slice(0, size, 1) for size in self.shape[1:])
        for places, T in self._tiles(columns):
            part[places] = T if everything else T[:, outputs][:, :, inputs]
        return part[
            tuple(0 if np.ndim(k) == 0 and not isinstance(k, slice) else slice(None) for k in keys)
        ]

    def _tiles(self, columns: range | NDArray[np.intp]) -> Iterator[tuple[Any, NDArray[Any]]]:
        """Yield the blocks of columns, tile by tile, and where they stand among the columns."""
        slopes, tiles = _opened(self._source)
        if isinstance(columns, range) and columns.step == 1:
            for _, a, b in overlapping(columns.start, columns.stop, tiles.columns):
                place = slice(a - columns.start, b - columns.start)
                yield place, _blocks(slopes, tiles, a, b)
            return
        numbers = np.asarray(columns)
        tile = numbers // tiles.columns
        for one in np.unique(tile):
            places = np.flatnonzero(tile == one)
            mine = numbers[places]
            first = int(mine.min())
            yield places, _blocks(slopes, tiles, first, int(mine.max()) + 1)[mine - first]


def _blocks(slopes: Slopes, tiles: Tiles, start: int, stop: int) -> NDArray[Any]:
    with one_blas_thread():
        return tiles.blocks(slopes.read(start, stop), start)


_opening = threading.Lock()


def _opened(source: SlopesAddress) -> tuple[Slopes, Tiles]:
    # lru_cache lets each of a reader's threads make the kernel that they are to share
    with _opening:
        return _cached(source)


@lru_cache(maxsize=4)
def _cached(source: SlopesAddress) -> tuple[Slopes, Tiles]:
    slopes = Slopes.open(source)
    store = slopes.store
    return slopes, Tiles(
        store.network(imports=False), np.dtype(store.record.input.dtype), slopes.dtype
    )


def _indices(key: Any, size: int) -> range | NDArray[np.intp]:
    """Return the numbers that a key names along an axis."""
    if isinstance(key, slice):
        return range(size)[key]
    numbers = np.atleast_1d(np.asarray(key))
    return np.where(numbers < 0, numbers + size, numbers)
