"""Read X from HDF5 and NetCDF 4 files with h5py, which the extra `hdf5` installs."""

from __future__ import annotations

import itertools
import math
import os
import threading
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from colonnade.errors import InputError, one_line, sanitize
from colonnade.inputs.arrays import Box, Stacked, Stored
from colonnade.inputs.base import Selection, Stamps
from colonnade.inputs.label_texts import labels
from colonnade.inputs.packing import ATTRIBUTES
from colonnade.inputs.stacking import choose, stack
from colonnade.limits import (
    CHUNK_BYTES,
    CHUNK_INFLATION,
    HDF5_LINKS,
    HDF5_MEMBERS,
    HDF5_UNCHECKED_BYTES,
)
from colonnade.storage import Place
from colonnade.storage.decoding import inflated
from colonnade.storage.npy.file import PAGE
from colonnade.storage.regularfiles import stamp

__all__ = ["open_hdf5"]

_CLASSIC = (b"CDF\x01", b"CDF\x02", b"CDF\x05")
# Codes of filters, and the highest compression ratio of deflate: that of zeros
_DEFLATE, _FLETCHER32 = h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_FLETCHER32
_MOST_DEFLATED = 1032
# HDF5 admits one thread at a time, and closing a file closes what other threads opened in it
_ALONE = threading.Lock()


@dataclass(frozen=True)
class Hdf5Stored(Stored):
    """A dataset; each read reopens the file, and raises if the dataset has changed."""

    path: str
    storage_: dict[str, Any]

    @property
    def storage(self) -> dict[str, Any]:
        """Format, chunks (None if contiguous) and filters."""
        return dict(self.storage_)

    def read(self, box: Box) -> NDArray[Any]:
        """Read a part of the dataset: whole chunks, each once."""
        with _opened(self.path) as file:
            dataset = self._now(file)
            _check_stored(dataset, box)
            return np.asarray(dataset[box])

    def check(self) -> None:
        """Reopen the file, and raise if the dataset no longer exists or has changed."""
        with _opened(self.path) as file:
            self._now(file)

    def stamps(self) -> Stamps:
        """Return the stamp of the file."""
        return {self.path: stamp(self.path)}

    def _now(self, file: h5py.File) -> h5py.Dataset:
        found = _find(file, self.name)
        if not isinstance(found, h5py.Dataset):
            raise ValueError(
                f"the array {sanitize(self.name)} no longer exists; leave X unchanged while it is "
                "read"
            )
        _check_dataset(found)
        self.require(found.shape, found.dtype)
        return found


def open_hdf5(place: Place, wanted: Selection) -> Stacked:
    """Open variables of an HDF5 or NetCDF 4 file.

    Raises
    ------
    InputError
        The file has another format, lacks the variables, or stores their data in other files.
    """
    path = place.url
    try:
        with Path(path).open("rb") as plain:
            if plain.read(4) in _CLASSIC:
                raise InputError(
                    f"{path}: this is a NetCDF 3 file; convert it to NetCDF 4 with nccopy -k nc4 "
                    "OLD NEW, or with xarray's to_netcdf."
                )
        with _opened(path) as file:
            return _open(path, file, wanted)
    except InputError:
        raise
    # A damaged file can make HDF5 raise any exception
    except Exception as error:
        message = f"{path}: this cannot be read as HDF5: {one_line(error)}"
        raise InputError(message) from error


def _open(path: str, file: h5py.File, wanted: Selection) -> Stacked:
    def get(name: str) -> Hdf5Stored | None:
        found = _find(file, name)
        return _stored(path, name, found) if isinstance(found, h5py.Dataset) else None

    def label(dim: str) -> Sequence[str] | None:
        found = _find(file, f"{_group(wanted)}{dim}")
        if not isinstance(found, h5py.Dataset) or found.ndim != 1 or _is_bare(found):
            return None
        _check_dataset(found)
        _check_stored(found, (slice(0, found.shape[0]),))
        text = h5py.check_string_dtype(found.dtype)
        dtype = np.dtype("U") if text else found.dtype
        return labels(found.shape[0], dtype, lambda: (found.asstr() if text else found)[:])

    chosen = choose(path, lambda: list(_datasets(file)), get, wanted, kind="file")
    return stack(path, chosen, wanted, label)


def _group(wanted: Selection) -> str:
    """Return the path of the group that holds the first array, and so its dimensions."""
    name = wanted.arrays[0] if wanted.arrays else ""
    return name[: name.rfind("/") + 1]


@contextmanager
def _opened(path: str) -> Iterator[h5py.File]:
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    # Reads ask for whole chunks, each once, or for exact rows: buffering more gains nothing
    access.set_sieve_buf_size(PAGE)
    # Respect the lock of a writer; read without one on a file system that has no locks
    access.set_file_locking(True, True)
    access.set_fclose_degree(h5py.h5f.CLOSE_STRONG)
    with (
        _ALONE,
        h5py.File(h5py.h5f.open(os.fsencode(path), h5py.h5f.ACC_RDONLY, fapl=access)) as file,
    ):
        yield file


def _find(file: h5py.File, name: str) -> Any:
    """Return the object of a name in this file, never in another; None if it does not exist.

    Raises
    ------
    ValueError
        A link on the path leads to another file, or links form a loop.
    """
    at: Any = file
    parts, links = [part for part in name.split("/") if part], 0
    while parts:
        part = parts.pop(0)
        if part == "." or not isinstance(at, h5py.Group):
            return None
        link = at.get(part, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            raise ValueError(
                f"{sanitize(part)} links to another file; copy its target into this one"
            )
        if isinstance(link, h5py.SoftLink):
            links += 1
            if links > HDF5_LINKS:
                raise ValueError(
                    f"{sanitize(part)} leads through too many links; link to the array itself"
                )
            absolute = link.path.startswith("/")
            parts = [each for each in link.path.split("/") if each] + parts
            if absolute:
                at = file
            continue
        if link is None:
            return None
        at = at[part]
    return at


def _datasets(file: h5py.File) -> Iterator[str]:
    """Yield the names of the datasets that could be X, including those in groups."""
    groups, count = [("", file)], 0
    seen = set()
    while groups:
        prefix, group = groups.pop(0)
        for name in group:
            count += 1
            if count > HDF5_MEMBERS:
                raise ValueError(
                    f"it has more than {HDF5_MEMBERS:,} members; name the array with input.array"
                )
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                continue
            found = group[name]
            if isinstance(found, h5py.Dataset):
                if found.shape is not None and not _is_bare(found):
                    yield f"{prefix}{name}"
            elif isinstance(found, h5py.Group) and found.id not in seen:
                seen.add(found.id)
                groups.append((f"{prefix}{name}/", found))


def _is_bare(dataset: h5py.Dataset) -> bool:
    """Return whether a dataset only stores the length of a NetCDF dimension."""
    said = dataset.attrs.get("NAME", b"")
    return isinstance(said, bytes) and said.startswith(b"This is a netCDF dimension but not")


def _stored(path: str, name: str, dataset: h5py.Dataset) -> Hdf5Stored:
    _check_dataset(dataset)
    created = dataset.id.get_create_plist()
    filters = [created.get_filter(i) for i in range(created.get_nfilters())]
    storage = {
        "format": "hdf5",
        "chunks": None if dataset.chunks is None else list(dataset.chunks),
        "filters": [[int(code), *map(int, values)] for code, _, values, _ in filters],
    }
    attributes = {key: dataset.attrs[key] for key in ATTRIBUTES if key in dataset.attrs}
    dims = tuple(_dimension(dataset, axis) for axis in range(dataset.ndim))
    return Hdf5Stored(
        name, dataset.shape, dataset.dtype, dataset.chunks, dims, attributes, path, storage
    )


def _dimension(dataset: h5py.Dataset, axis: int) -> str | None:
    if dataset.is_scale:
        # A coordinate variable has the name of its dimension
        return str(dataset.name).rpartition("/")[2]
    scales = dataset.dims[axis]
    if len(scales):
        return str(scales[0].name).rpartition("/")[2]
    return str(scales.label) or None


def _check_stored(dataset: h5py.Dataset, box: Box) -> None:
    """Raise ValueError for a chunk that stores, or unpacks to, more bytes than it should.

    HDF5 checks the size of a chunk only after unpacking it. A chunk that could unpack to much is
    therefore unpacked here first, up to the limit.
    """
    created = dataset.id.get_create_plist()
    if dataset.chunks is None or not created.get_nfilters():
        return
    codes = [created.get_filter(i)[0] for i in range(created.get_nfilters())]
    most = CHUNK_INFLATION * math.prod(dataset.chunks) * dataset.dtype.itemsize + PAGE
    numbers = [
        range(part.start // size * size, part.stop, size)
        for part, size in zip(box, dataset.chunks, strict=True)
    ]
    for place in itertools.product(*numbers):
        # A missing chunk reads as the fill value
        stored = dataset.id.get_chunk_info_by_coord(place)
        if stored.size is None:
            continue
        if stored.size > most:
            raise ValueError(
                f"its chunk at {place} has {stored.size:,} bytes, more than its numbers need; "
                "write the file again"
            )
        if _DEFLATE in codes and stored.size * _MOST_DEFLATED > max(most, HDF5_UNCHECKED_BYTES):
            _, chunk = dataset.id.read_direct_chunk(place)
            inflated(chunk, most, zlib.decompressobj, "deflate")


def _check_dataset(dataset: h5py.Dataset) -> None:
    """Raise ValueError for data in other files, or for chunks that need too much memory."""
    name = sanitize(str(dataset.name))
    if dataset.shape is None:
        raise ValueError(f"{name} is empty; name another array with input.array")
    if dataset.is_virtual or dataset.external:
        raise ValueError(f"the numbers of {name} lie in other files; copy them into this file")
    if dataset.chunks is None:
        return
    size = math.prod(dataset.chunks) * dataset.dtype.itemsize
    if size > CHUNK_BYTES:
        raise ValueError(
            f"its chunks {dataset.chunks} take {size:,} bytes to read; store it in smaller ones"
        )
    created = dataset.id.get_create_plist()
    codes = [created.get_filter(i)[0] for i in range(created.get_nfilters())]
    # Data compressed twice may unpack to a million times its size
    if len(set(codes)) < len(codes):
        raise ValueError(
            f"{name} is compressed with the same filter more than once; store it again with each "
            "filter once"
        )
    if _DEFLATE in codes and not {*codes[codes.index(_DEFLATE) + 1 :]} <= {_FLETCHER32}:
        raise ValueError(
            f"{name} is compressed, and then changed by another filter; store it again with "
            "compression='gzip' and shuffle=True"
        )
