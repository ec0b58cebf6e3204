"""Where X comes from: one small reader a format, behind `open_columns`.

A reader knows X's shape without reading it, and reads a range of its columns and nothing else.
"""

from __future__ import annotations

import hashlib
import math
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import zarr
from numpy.typing import NDArray

from colonnade.errors import InputError, reason, shown
from colonnade.locations import Options, storage_texts
from colonnade.npyfile import read_window
from colonnade.npyheader import Header, read_header
from colonnade.npyranges import read_object_header, read_object_window
from colonnade.places import Objects, place_at

__all__ = ["Columns", "Orientation", "open_columns"]

Orientation = Literal["features_by_columns", "columns_by_features"]

# X up to this size is fingerprinted whole, larger ones by columns spread evenly over it
_WHOLE_BYTES = 32 * 2**20
_SAMPLES = 64
# A chunk is decoded whole, and the index of a shard read whole, for a single column
_MOST_CHUNK_BYTES = 2**31
_LARGEST = 2**63


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
    def copies(self) -> int:
        """How often the columns that are read are in memory at the most."""
        return 1

    @abstractmethod
    def _read(self, window: tuple[slice, slice]) -> NDArray[Any]:
        """Read this window of the matrix as it is stored."""

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Read columns `start` to `stop`: (n, stop - start), an array of its own.

        Raises
        ------
        OSError, ValueError
            The file has gone, is damaged, or is no longer what it was when it was opened.
        """
        try:
            return self._columns(start, stop)
        except (OSError, MemoryError):
            raise
        # Damaged headers, and the codecs of damaged chunks, raise whatever they please
        except Exception as error:
            raise ValueError(f"{self.path} cannot be read: {reason(error)}") from error

    def _columns(self, start: int, stop: int) -> NDArray[Any]:
        whole, part = slice(None), slice(start, stop)
        if self.orientation == "columns_by_features":
            return self._read((part, whole)).T
        return self._read((whole, part))

    def _check_unchanged(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        if shape != self.stored_shape or dtype != self.dtype:
            raise ValueError(
                f"it has changed: it was {self.stored_shape} {self.dtype}, and is {shape} {dtype}"
            )

    def fingerprint(self) -> str:
        """Name X by its content: sha256 over its shape, its dtype and its values.

        All values where X has up to 32 MiB; else those of 64 columns spread evenly over it, the
        first and the last among them. The same X in another file, format or orientation has the
        same fingerprint.
        """
        canonical = self.dtype.newbyteorder("<")
        digest = hashlib.sha256(f"{self.n} {self.p} {canonical.str}".encode())
        if self.n * self.p * self.dtype.itemsize <= _WHOLE_BYTES:
            windows = [(0, self.p)]
        else:
            windows = [
                (k, k + 1)
                for k in sorted({*np.linspace(0, self.p - 1, _SAMPLES, dtype=int).tolist()})
            ]
        for start, stop in windows:
            digest.update(self.read(start, stop).T.astype(canonical, copy=False).tobytes())
        return f"sha256:{digest.hexdigest()}"


@dataclass(frozen=True)
class NpyColumns(Columns):
    """A .npy file, opened anew for each read, which may find that it has changed."""

    def _read(self, window: tuple[slice, slice]) -> NDArray[Any]:
        with Path(self.path).open("rb", buffering=0) as file:
            header = _npy_header(file)
            self._check_unchanged(header.shape, header.dtype)
            return read_window(file, header, window)


@dataclass(frozen=True)
class NpyObjectColumns(Columns):
    """A .npy file in an object store."""

    place: Objects
    header: Header
    size: int

    @property
    def copies(self) -> int:
        """The array, and what has been fetched: with the gaps, up to twice as much."""
        return 3

    def _read(self, window: tuple[slice, slice]) -> NDArray[Any]:
        size = self.place.size()
        if size != self.size:
            now = "gone" if size is None else f"{size:,}"
            raise ValueError(f"{self.path} has changed: it had {self.size:,} bytes, and has {now}")
        return read_object_window(self.place, self.header, window)


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


def open_columns(
    path: str | Path,
    array: str | None = None,
    orientation: Orientation = "features_by_columns",
    storage_options: Options = None,
) -> Columns:
    """Open X without reading it.

    Parameters
    ----------
    path
        A .npy file, or a Zarr v2 or v3 array or group; or its URL in an object store.
    array
        Which array of a Zarr group; not needed where it holds a single matrix.
    orientation
        Whether the file holds X (n, p) or its transpose (p, n).
    storage_options
        Of the object store.

    Raises
    ------
    InputError
        There is nothing to read, or it is no matrix of real numbers.
    """
    place = place_at(path, storage_texts(storage_options))
    if isinstance(place, Objects):
        return _open_object(place, array, orientation)
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
    _refuse_name(path, array)
    try:
        with Path(path).open("rb", buffering=0) as file:
            header = _npy_header(file)
    # a damaged header raises whatever it happens to break
    except Exception as error:
        told = f"{path}: this cannot be read as a .npy file: {reason(error)}"
        raise InputError(told) from error
    return NpyColumns(path, orientation, *_checked(path, header.shape, header.dtype))


def _refuse_name(path: str, array: str | None) -> None:
    if array is not None:
        raise InputError(f"{path}: a .npy file holds one array; leave out input.array ({array!r}).")


def _npy_header(file: IO[bytes]) -> Header:
    """Read the header of a .npy file; unlike np.load, this takes nothing else for one."""
    header = read_header(file, os.fstat(file.fileno()).st_size)
    if header.dtype.hasobject:
        raise ValueError("Python objects in dtype: they are pickled, and no pickle is loaded")
    return header


def _open_object(place: Objects, array: str | None, orientation: Orientation) -> Columns:
    path = place.url
    try:
        size = place.size() if path.lower().endswith(".npy") else None
        if size is None:
            if not place.names():
                raise InputError(f"{path}: there is no such object (input.path).")
            return _open_zarr(path, array, orientation, place.zarr())
        _refuse_name(path, array)
        header = read_object_header(place, size)
        checked = _checked(path, header.shape, header.dtype)
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path}: this cannot be read: {reason(error)} (input.path).") from error
    # a damaged header raises whatever it happens to break
    except Exception as error:
        told = f"{path}: this cannot be read as a .npy file: {reason(error)}"
        raise InputError(told) from error
    return NpyObjectColumns(path, orientation, *checked, place, header, size)


def _open_zarr(
    path: str, array: str | None, orientation: Orientation, store: Any = None
) -> Columns:
    for name in (
        ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata") if store is None else ()
    ):
        if Path(path, name).exists() and not Path(path, name).is_file():
            # A pipe may never end
            raise InputError(f"{path}: its {name} is no regular file.")
    try:
        node = zarr.open(path if store is None else store, mode="r")
        if isinstance(node, zarr.Group):
            node = _member(path, node, array)
        elif array is not None:
            raise InputError(
                f"{path}: this is a single Zarr array; leave out input.array ({array!r})."
            )
        found = ZarrColumns(path, orientation, *_checked(path, node.shape, node.dtype), node)
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


def _checked(
    path: str, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> tuple[tuple[int, int], np.dtype[Any]]:
    if len(shape) != 2 or min(shape) < 1:
        raise InputError(f"{path}: X must be a matrix that is not empty; its shape is {shape}.")
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise InputError(
            f"{path}: X is of type {dtype}; it must hold real numbers of up to 64 bits."
        )
    if math.prod(shape) * dtype.itemsize >= _LARGEST:
        raise InputError(f"{path}: X of the shape {shape} would have more than 8 EiB.")
    return (shape[0], shape[1]), dtype
