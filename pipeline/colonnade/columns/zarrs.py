"""X in a Zarr array, v2 or v3."""

from __future__ import annotations

import json
import math
import threading
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from colonnade.columns.base import Columns, Orientation
from colonnade.columns.beside import array_beside, coordinate_beside
from colonnade.errors import InputError, reason, shown
from colonnade.labels import Coordinate
from colonnade.matrix import check_matrix
from colonnade.npyfile import PAGE
from colonnade.regularfiles import RegularFiles
from colonnade.sampling import Piece, Sample

__all__ = ["open_zarr"]

# Of a Zarr array's metadata, what its values depend on; v3 and v2
_STORAGE = ("chunk_grid", "codecs", "chunks", "compressor", "filters", "order", "fill_value")
# A chunk is decoded whole, and the index of a shard read whole, for a single column
_MOST_CHUNK_BYTES = 2**31


@dataclass(frozen=True, slots=True)
class _Window:
    """Columns of X from `first` on, (n, …)."""

    first: int
    values: NDArray[Any]

    @property
    def end(self) -> int:
        """The column after its last."""
        return self.first + int(self.values.shape[1])


@dataclass(frozen=True)
class ZarrColumns(Columns):
    """A Zarr array, v2 or v3, in chunks of any shape.

    A chunk is decoded whole, however little of it is asked for. Where it holds the columns of
    several blocks, a thread keeps it until it has been asked for the last of them.
    """

    stored: zarr.Array[Any]
    _kept: threading.local = field(default_factory=threading.local, repr=False, compare=False)

    @property
    def chunk_columns(self) -> int:
        """Columns of a chunk."""
        return int(self.stored.chunks[1 if self.orientation == "features_by_columns" else 0])

    def coordinate(
        self, dimension: Literal["input", "column"]
    ) -> Coordinate | tuple[str, ...] | str | None:
        """Find the coordinate that xarray would show along a dimension."""
        axis = int((dimension == "column") == (self.orientation == "features_by_columns"))
        try:
            with self._telling():
                found = coordinate_beside(self.stored, axis)
                if found is None:
                    return None
                _check_chunks(found.values)
                if found.dtype.kind not in "OSUT":
                    return found
                if dimension == "column":
                    raise ValueError("it is text, which is kept of inputs alone")
                return found.texts()
        except (OSError, ValueError) as error:
            return str(error)

    def beside(self, name: str) -> NDArray[Any] | None:
        """Read another array of its group; None where there is none."""
        with self._telling():
            found = array_beside(self.stored, name)
            if found is None:
                return None
            _check_chunks(found)
            if found.ndim != 1 or found.size > max(self.stored_shape):
                raise ValueError(f"{name} has the shape {found.shape}")
            return np.asarray(found[...])

    @property
    def storage(self) -> dict[str, Any]:
        """What its metadata, in their own words, say of chunks, codecs and what is missing."""
        version = self.stored.metadata.zarr_format
        name = "zarr.json" if version == 3 else ".zarray"
        path = f"{self.stored.path}/{name}".removeprefix("/")
        document = sync(self.stored.store.get(path, default_buffer_prototype()))
        said = {} if document is None else json.loads(document.to_bytes())
        return {"format": f"zarr {version}"} | {key: said[key] for key in _STORAGE if key in said}

    @property
    def _piece(self) -> Piece:
        features, columns = self._window(*self.stored.chunks)
        size = features * columns * self.dtype.itemsize
        return Piece(features, columns, max(size, PAGE))

    def _pick(self, sample: Sample) -> NDArray[Any]:
        window = self._window(slice(sample.start, sample.stop), list(sample.columns))
        return self._oriented(np.asarray(self._now().oindex[window]))

    def _columns(self, start: int, stop: int) -> NDArray[Any]:
        chunk = self.chunk_columns
        if chunk == 1 or start == stop:
            return super()._columns(start, stop)
        kept: _Window | None = getattr(self._kept, "window", None)
        parts, at = [], start // chunk * chunk
        if kept is not None and kept.first <= start < kept.end:
            self._now()
            parts.append(kept.values[:, start - kept.first : stop - kept.first])
            at = kept.end
        if at < stop:
            end = min(-(-stop // chunk) * chunk, self.p)
            values = super()._columns(at, end)
            parts.append(values[:, max(start - at, 0) : stop - at])
            last = (end - 1) // chunk * chunk
            # A copy, or the view would keep all of the values
            kept = _Window(last, values if last == at else values[:, last - at :].copy())
        self._kept.window = kept if kept is not None and stop < kept.end else None
        return np.concatenate(parts, axis=1, dtype=self.dtype)

    def _read(self, window: tuple[slice, slice]) -> NDArray[Any]:
        values = np.asarray(self._now()[window])
        # An array that went after it was opened reads as zeros as well
        self._now()
        return values

    def _now(self) -> zarr.Array[Any]:
        # Opened anew, under a millisecond, since the chunks of an array that has gone read as zeros
        node: zarr.Array[Any] = zarr.open_array(self.stored.store, path=self.stored.path, mode="r")
        _check_chunks(node)
        self._check_unchanged(node.shape, node.dtype)
        return node


def open_zarr(path: str, array: str | None, orientation: Orientation, store: Any = None) -> Columns:
    """Open a Zarr array, or the matrix of a Zarr group.

    Parameters
    ----------
    store
        Zarr's own; a directory's by default.

    Raises
    ------
    InputError
        There is none, or no matrix of real numbers.
    """
    try:
        node = zarr.open(RegularFiles(path, read_only=True) if store is None else store, mode="r")
        if isinstance(node, zarr.Group):
            node = _member(path, node, array)
        elif array is not None:
            raise InputError(
                f"{path}: this is a single Zarr array; leave out input.array ({array!r})."
            )
        shape = check_matrix(node.shape, node.dtype, f"{path}: ")
        found = ZarrColumns(path, orientation, shape, node.dtype, node)
        _check_chunks(node)
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(
            f"{path}: this directory holds neither a Zarr array nor a Zarr group."
        ) from None
    # zarr raises whatever its metadata happens to break
    except Exception as error:
        raise InputError(f"{path}: this cannot be read as Zarr: {reason(error)}") from error
    return found


def _check_chunks(array: zarr.Array[Any]) -> None:
    """Raise ValueError where a single column would take an absurd amount of memory."""
    numbers = math.prod(array.chunks)
    if numbers < 1:
        raise ValueError(f"its chunks {array.chunks} are empty")
    decoded = numbers * array.dtype.itemsize
    index = 16 * math.prod(array.shards) // numbers if array.shards else 0
    if max(decoded, index) > _MOST_CHUNK_BYTES:
        raise ValueError(
            f"its chunks {array.chunks}, shards {array.shards}, take {max(decoded, index):,} bytes "
            f"to read; store it in smaller ones, of up to {_MOST_CHUNK_BYTES:,}"
        )


def _member(path: str, group: zarr.Group, array: str | None) -> zarr.Array[Any]:
    if array is not None:
        node = group.get(array)
        if isinstance(node, zarr.Array):
            return node
        problem = f"there is no array {shown(array)!r}"
    else:
        matrices = [member for _, member in group.arrays() if member.ndim == 2]
        if len(matrices) == 1:
            return matrices[0]
        problem = f"{len(matrices) or 'none'} of its arrays could be X; name it with input.array"
    held = [shown(f"{name} {member.shape}") for name, member in sorted(group.arrays())]
    told = ", ".join([*held[:12], "…"] if len(held) > 12 else held) or "no array"
    raise InputError(f"{path}: {problem}; the group holds {told}.")
