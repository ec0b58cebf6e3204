"""Where X comes from: one small reader a format, behind `open_columns`.

A reader knows X's shape without reading it, and reads a range of its columns and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from colonnade.errors import InputError, reason, shown
from colonnade.matrix import check_matrix
from colonnade.npyfile import PAGE, read_window
from colonnade.npyheader import Header, read_header
from colonnade.regularfiles import RegularFiles
from colonnade.sampling import Piece, Sample, samples

__all__ = ["Columns", "Orientation", "open_columns"]

Orientation = Literal["features_by_columns", "columns_by_features"]

# X up to this size is fingerprinted whole, larger ones by samples
_WHOLE_BYTES = 32 * 2**20
# Of a Zarr array's metadata, what its values depend on; v3 and v2
_STORAGE = ("chunk_grid", "codecs", "chunks", "compressor", "filters", "order", "fill_value")
# A chunk is decoded whole, and the index of a shard read whole, for a single column
_MOST_CHUNK_BYTES = 2**31


@dataclass(frozen=True)
class Columns(ABC):
    """X, n × p, on a disk.

    Attributes
    ----------
    path
        Where it is.
    stored_shape
        (n, p), or (p, n) where `orientation` is columns_by_features.
    dtype
        As it is stored; `read` returns it unchanged.
    """

    path: str
    orientation: Orientation
    stored_shape: tuple[int, int]
    dtype: np.dtype[Any]

    @property
    def n(self) -> int:
        """Features: the rows of X."""
        return self.stored_shape[0 if self.orientation == "features_by_columns" else 1]

    @property
    def p(self) -> int:
        """Columns of X."""
        return self.stored_shape[1 if self.orientation == "features_by_columns" else 0]

    @property
    def chunk_columns(self) -> int:
        """Columns that are read from the disk at the least."""
        return 1

    @property
    @abstractmethod
    def storage(self) -> dict[str, Any]:
        """How it is stored, as plain values: the format, and chunks and codecs where it has any."""

    @property
    @abstractmethod
    def _piece(self) -> Piece:
        """What is read for the sake of a single number."""

    @abstractmethod
    def _read(self, window: tuple[slice, slice]) -> NDArray[Any]:
        """Read this window of the matrix as it is stored."""

    @abstractmethod
    def _pick(self, sample: Sample) -> NDArray[Any]:
        """Read a sample: (features, columns)."""

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Read columns `start` to `stop`: (n, stop - start), an array of its own.

        Raises
        ------
        OSError, ValueError
            The file has gone, is damaged, or is no longer what it was when it was opened.
        """
        with self._telling():
            return self._columns(start, stop)

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except (OSError, MemoryError):
            raise
        # Damaged headers, and the codecs of damaged chunks, raise whatever they please
        except Exception as error:
            raise ValueError(f"{self.path} cannot be read: {reason(error)}") from error

    def _columns(self, start: int, stop: int) -> NDArray[Any]:
        return self._oriented(self._read(self._window(slice(None), slice(start, stop))))

    def _check_unchanged(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        if shape != self.stored_shape or dtype != self.dtype:
            raise ValueError(
                f"it has changed: it was {self.stored_shape} {self.dtype}, and is {shape} {dtype}"
            )

    def fingerprint(self) -> str:
        """Name X by its content: sha256 over its shape, its dtype and its values.

        All values where X has up to 32 MiB: the same X in another file, format or orientation has
        the same fingerprint. Else those of 64 columns spread evenly over it, the first and the last
        among them, as far as they lie in 256 MiB of chunks, or in two; where they do not, of
        columns that lie together, and of a part of the features.

        Raises
        ------
        OSError, ValueError
            As for `read`.
        """
        canonical = self.dtype.newbyteorder("<")
        digest = hashlib.sha256(f"{self.n} {self.p} {canonical.str}".encode())

        def add(values: NDArray[Any]) -> None:
            digest.update(values.T.astype(canonical, copy=False).tobytes())

        if self.n * self.p * self.dtype.itemsize <= _WHOLE_BYTES:
            add(self.read(0, self.p))
        else:
            for sample in samples(self.n, self.p, self._piece):
                with self._telling():
                    add(self._pick(sample))
        return f"sha256:{digest.hexdigest()}"

    def _window(self, features: Any, columns: Any) -> tuple[Any, Any]:
        """Where features and columns of X lie in the matrix as it is stored."""
        by_columns = self.orientation == "features_by_columns"
        return (features, columns) if by_columns else (columns, features)

    def _oriented(self, stored: NDArray[Any]) -> NDArray[Any]:
        return stored if self.orientation == "features_by_columns" else stored.T


@dataclass(frozen=True)
class NpyColumns(Columns):
    """A .npy file, opened anew for each read, which may find that it has changed."""

    fortran_order: bool

    @property
    def storage(self) -> dict[str, Any]:
        """Its format; byte order and order of the numbers are no matter."""
        return {"format": "npy"}

    @property
    def _piece(self) -> Piece:
        together = self.fortran_order == (self.orientation == "features_by_columns")
        return Piece(PAGE // self.dtype.itemsize if together else 1, 1, PAGE)

    def _pick(self, sample: Sample) -> NDArray[Any]:
        features = slice(sample.start, sample.stop)
        windows = (self._window(features, slice(k, k + 1)) for k in sample.columns)
        return np.hstack([self._oriented(self._read(window)) for window in windows])

    def _read(self, window: tuple[slice, slice]) -> NDArray[Any]:
        with Path(self.path).open("rb", buffering=0) as file:
            header = _npy_header(file)
            self._check_unchanged(header.shape, header.dtype)
            return read_window(file, header, window)


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
        return np.asarray(self._now()[window])

    def _now(self) -> zarr.Array[Any]:
        # Opened anew, under a millisecond, since the chunks of an array that has gone read as zeros
        node: zarr.Array[Any] = zarr.open_array(self.stored.store, path=self.stored.path, mode="r")
        _check_chunks(node)
        self._check_unchanged(node.shape, node.dtype)
        return node


def open_columns(
    path: str | Path, array: str | None = None, orientation: Orientation = "features_by_columns"
) -> Columns:
    """Open X without reading it.

    Parameters
    ----------
    path
        A .npy file, or a Zarr v2 or v3 array or group.
    array
        Which array of a Zarr group; not needed where it holds a single matrix.
    orientation
        Whether the file holds X (n, p) or its transpose (p, n).

    Raises
    ------
    InputError
        There is nothing to read, or it is no matrix of real numbers.
    """
    try:
        there = Path(path).exists()
    except OSError as error:  # a name that is too long, say
        raise InputError(f"{path}: {error.strerror} (input.path).") from None
    if not there:
        raise InputError(f"{path}: there is no such file or directory (input.path).")
    opener = _opener(Path(path))
    return opener(str(path), array, orientation)


def _opener(path: Path) -> Callable[[str, str | None, Orientation], Columns]:
    if path.is_dir():
        return _open_zarr
    if not path.is_file():
        raise InputError(f"{path}: this is neither a file nor a directory (input.path).")
    if path.suffix.lower() == ".npy":
        return _open_npy
    hint = (
        " A .npz archive cannot be read in part: save X alone with np.save."
        if path.suffix.lower() == ".npz"
        else ""
    )
    raise InputError(
        f"{path}: this format is not known; X is read from a .npy file or a Zarr directory.{hint}"
    )


def _open_npy(path: str, array: str | None, orientation: Orientation) -> Columns:
    if array is not None:
        raise InputError(f"{path}: a .npy file holds one array; leave out input.array ({array!r}).")
    try:
        with Path(path).open("rb", buffering=0) as file:
            header = _npy_header(file)
    # a damaged header raises whatever it happens to break
    except Exception as error:
        told = f"{path}: this cannot be read as a .npy file: {reason(error)}"
        raise InputError(told) from error
    shape = check_matrix(header.shape, header.dtype, f"{path}: ")
    return NpyColumns(path, orientation, shape, header.dtype, header.fortran_order)


def _npy_header(file: IO[bytes]) -> Header:
    """Read the header of a .npy file; unlike np.load, this takes nothing else for one."""
    header = read_header(file, os.fstat(file.fileno()).st_size)
    if header.dtype.hasobject:
        raise ValueError("Python objects in dtype: they are pickled, and no pickle is loaded")
    return header


def _open_zarr(path: str, array: str | None, orientation: Orientation) -> Columns:
    try:
        node = zarr.open(RegularFiles(path, read_only=True), mode="r")
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
