"""Read X from Zarr arrays, v2 or v3."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import LocalStore

from colonnade.errors import InputError, one_line, sanitize
from colonnade.inputs.arrays import Box, Stacked, Stored
from colonnade.inputs.base import Selection, Stamps
from colonnade.inputs.label_texts import labels
from colonnade.inputs.stacking import choose, stack
from colonnade.limits import CHUNK_BYTES
from colonnade.storage.decoding import bounded
from colonnade.storage.regularfiles import RegularFiles, stamp

__all__ = ["ZarrStored", "check_chunks", "open_zarr"]

# Metadata on which the values of a Zarr array depend, v3 and v2
_STORAGE = ("chunk_grid", "codecs", "chunks", "compressor", "filters", "order", "fill_value")
# xarray's attribute for the names of dimensions, for which Zarr v2 has no field
_DIMENSIONS = "_ARRAY_DIMENSIONS"


@dataclass(frozen=True)
class ZarrStored(Stored):
    """A Zarr array, v2 or v3, with chunks of any shape."""

    array: zarr.Array[Any]

    @property
    def storage(self) -> dict[str, Any]:
        """Format, and the metadata of chunks, codecs and fill value, verbatim."""
        version, document = self.array.metadata.zarr_format, self._document()
        said = {} if document is None else json.loads(document)
        return {"format": f"zarr {version}"} | {key: said[key] for key in _STORAGE if key in said}

    def read(self, box: Box) -> NDArray[Any]:
        """Read a part of the array."""
        values = np.asarray(self._now()[box])
        # Check again: an array deleted since the first check may have been read as zeros
        self._now()
        return values

    def check(self) -> None:
        """Reopen the array, and raise if it no longer exists or has changed."""
        self._now()

    def stamps(self) -> Stamps:
        """Return the stamp of the metadata, which stays the same when a chunk is rewritten."""
        store = self.array.store
        if isinstance(store, LocalStore):
            return {self._key: stamp(store.root / self._key)}
        return {self._key: self._document()}

    @property
    def _key(self) -> str:
        name = "zarr.json" if self.array.metadata.zarr_format == 3 else ".zarray"
        return f"{self.array.path}/{name}".removeprefix("/")

    def _document(self) -> bytes | None:
        found = sync(self.array.store.get(self._key, default_buffer_prototype()))
        return None if found is None else found.to_bytes()

    def _now(self) -> zarr.Array[Any]:
        # Reopen, in under 1 ms, to notice a deleted array: its missing chunks would read as zeros
        node: zarr.Array[Any] = zarr.open_array(self.array.store, path=self.array.path, mode="r")
        check_chunks(node)
        self.require(node.shape, node.dtype)
        return bounded(node)


def open_zarr(path: str, wanted: Selection, store: Any = None) -> Stacked:
    """Open a Zarr array, or one or several arrays of a Zarr group.

    Parameters
    ----------
    store
        Zarr store; by default the directory `path`.

    Raises
    ------
    InputError
        There is no Zarr array or group, or no matrix of real numbers.
    """
    try:
        node = zarr.open(RegularFiles(path, read_only=True) if store is None else store, mode="r")
        if isinstance(node, zarr.Group):
            return _of_group(path, node, wanted)
        if wanted.arrays:
            names = ", ".join(repr(sanitize(name)) for name in wanted.arrays)
            raise InputError(
                f"{path}: this is a single Zarr array; leave out input.array ({names})."
            )
        return stack(path, [_stored("X", node)], wanted)
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(
            f"{path}: this directory holds neither a Zarr array nor a Zarr group, nor .npy files; "
            "give the path of one of these (input.path)."
        ) from None
    # Damaged metadata can make zarr raise any exception
    except Exception as error:
        raise InputError(f"{path}: this cannot be read as Zarr: {one_line(error)}") from error


def _of_group(path: str, group: zarr.Group, wanted: Selection) -> Stacked:
    def get(name: str) -> ZarrStored | None:
        node = group.get(name)
        return _stored(name, node) if isinstance(node, zarr.Array) else None

    def label(dim: str) -> Sequence[str] | None:
        node = group.get(dim)
        if not isinstance(node, zarr.Array) or node.ndim != 1:
            return None
        return labels(node.shape[0], node.dtype, lambda: bounded(node)[:])

    chosen = choose(path, lambda: [n for n, _ in group.arrays()], get, wanted, kind="group")
    return stack(path, chosen, wanted, label)


def _stored(name: str, array: zarr.Array[Any]) -> ZarrStored:
    attributes = dict(array.attrs)
    dims: Any = getattr(array.metadata, "dimension_names", None) or attributes.get(_DIMENSIONS)
    if _DIMENSIONS in attributes and array.metadata.fill_value is not None:
        # xarray keeps the _FillValue of a variable in the fill value of its array
        attributes["_FillValue"] = array.metadata.fill_value
    if not isinstance(dims, list | tuple) or len(dims) != array.ndim:
        dims = (None,) * array.ndim
    return ZarrStored(name, array.shape, array.dtype, array.chunks, tuple(dims), attributes, array)


def check_chunks(array: zarr.Array[Any]) -> None:
    """Raise ValueError if a single chunk would take too much memory."""
    numbers = math.prod(array.chunks)
    if numbers < 1:
        raise ValueError(f"its chunks {array.chunks} are empty; store it in chunks of at least 1")
    decoded = numbers * array.dtype.itemsize
    index = 16 * math.prod(array.shards) // numbers if array.shards else 0
    if max(decoded, index) > CHUNK_BYTES:
        raise ValueError(
            f"its chunks {array.chunks}, shards {array.shards}, take {max(decoded, index):,} bytes "
            f"to read; store it in smaller ones, of up to {CHUNK_BYTES:,} bytes"
        )
