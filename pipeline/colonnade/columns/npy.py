"""X in a .npy file, local or in an object store, or in a folder of them."""

from __future__ import annotations

import os
import re
from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from colonnade.columns.base import Source, Wanted
from colonnade.errors import InputError, reason, shown
from colonnade.matrix import check_matrix
from colonnade.npyfile import PAGE, read_window
from colonnade.npyheader import Header, read_header
from colonnade.npyranges import read_object_header, read_object_window
from colonnade.places import Directory, Objects, Place
from colonnade.sampling import Piece

__all__ = ["open_npy", "open_npy_folder", "open_npy_object"]


@dataclass(frozen=True)
class _Npy(Source):
    header: Header
    by_columns: bool

    @property
    def described(self) -> str:
        """The shape as it is stored, and how it is read."""
        way = "features_by_columns" if self.by_columns else "columns_by_features"
        return f"{self.header.shape}, read as {way}"

    @property
    def storage(self) -> dict[str, Any]:
        """Its format; byte order and order of the numbers are no matter."""
        return {"format": "npy"}

    @property
    def piece(self) -> Piece:
        """Features that lie on one page."""
        together = self.header.fortran_order == self.by_columns
        return Piece(PAGE // self.dtype.itemsize if together else 1, 1, PAGE)

    def window(self, features: slice, start: int, stop: int) -> NDArray[Any]:
        """Read its bytes, and few others."""
        columns = slice(start, stop)
        if self.by_columns:
            return self._stored((features, columns))
        return self._stored((columns, features)).T

    @abstractmethod
    def _stored(self, window: tuple[slice, slice]) -> NDArray[Any]:
        """Read this window of the matrix as it is stored."""


@dataclass(frozen=True)
class NpySource(_Npy):
    """A .npy file, opened anew for each read, which may find that it has changed."""

    def _stored(self, window: tuple[slice, slice]) -> NDArray[Any]:
        with Path(self.path).open("rb", buffering=0) as file:
            return read_window(file, self._now(file), window)

    def check(self) -> None:
        """Read its header again."""
        with Path(self.path).open("rb", buffering=0) as file:
            self._now(file)

    def _now(self, file: IO[bytes]) -> Header:
        now, was = _npy_header(file), self.header
        if (now.shape, now.dtype) != (was.shape, was.dtype):
            raise ValueError(
                f"it has changed: it was {was.shape} {was.dtype}, and is {now.shape} {now.dtype}"
            )
        return now


@dataclass(frozen=True)
class NpyObjectSource(_Npy):
    """A .npy file in an object store."""

    place: Objects
    size: int

    @property
    def copies(self) -> int:
        """The array, and what has been fetched: with the gaps, up to twice as much."""
        return 3

    def _stored(self, window: tuple[slice, slice]) -> NDArray[Any]:
        self.check()
        return read_object_window(self.place, self.header, window)

    def check(self) -> None:
        """Ask for its size again."""
        size = self.place.size()
        if size != self.size:
            now = "gone" if size is None else f"{size:,}"
            raise ValueError(f"{self.path} has changed: it had {self.size:,} bytes, and has {now}")


@dataclass(frozen=True)
class FolderSource(Source):
    """The .npy files of a folder, one after the other.

    Attributes
    ----------
    starts
        First column of each of them.
    """

    parts: tuple[_Npy, ...]
    starts: tuple[int, ...]

    @property
    def storage(self) -> dict[str, Any]:
        """Its format; how the columns fall into files is no matter."""
        return {"format": "folder of npy"}

    @property
    def piece(self) -> Piece:
        """The first file's."""
        return self.parts[0].piece

    @property
    def copies(self) -> int:
        """The first file's, and what its columns are joined to."""
        return self.parts[0].copies + 1

    def window(self, features: slice, start: int, stop: int) -> NDArray[Any]:
        """Read from the files that hold these columns."""
        values = np.empty((features.stop - features.start, stop - start), self.dtype)
        for part in range(bisect_right(self.starts, start) - 1, len(self.parts)):
            source, first = self.parts[part], self.starts[part]
            lo, hi = max(start, first), min(stop, first + source.shape[1])
            if lo >= stop:
                break
            values[:, lo - start : hi - start] = source.window(features, lo - first, hi - first)
        return values

    def check(self) -> None:
        """Look at the headers again."""
        for part in self.parts:
            part.check()


def open_npy(path: str, wanted: Wanted) -> NpySource:
    """Open a .npy file.

    Raises
    ------
    InputError
        It is none, or no matrix of real numbers.
    """
    _refuse_names(path, wanted)
    try:
        with Path(path).open("rb", buffering=0) as file:
            header = _npy_header(file)
    # a damaged header raises whatever it happens to break
    except Exception as error:
        told = f"{path}: this cannot be read as a .npy file: {reason(error)}"
        raise InputError(told) from error
    shape = check_matrix(header.shape, header.dtype, f"{path}: ")
    oriented = shape if wanted.by_columns else shape[::-1]
    return NpySource(path, oriented, header.dtype, header, wanted.by_columns)


def open_npy_object(place: Objects, size: int, wanted: Wanted) -> NpyObjectSource:
    """Open a .npy file of so many bytes in an object store.

    Raises
    ------
    InputError
        It is none, or no matrix of real numbers.
    """
    path = place.url
    _refuse_names(path, wanted)
    try:
        header = read_object_header(place, size)
        shape = check_matrix(header.shape, header.dtype, f"{path}: ")
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path}: this cannot be read: {reason(error)} (input.path).") from error
    # a damaged header raises whatever it happens to break
    except Exception as error:
        told = f"{path}: this cannot be read as a .npy file: {reason(error)}"
        raise InputError(told) from error
    oriented = shape if wanted.by_columns else shape[::-1]
    return NpyObjectSource(path, oriented, header.dtype, header, wanted.by_columns, place, size)


def open_npy_folder(place: Place, names: Sequence[str], wanted: Wanted) -> FolderSource:
    """Open the .npy files of these names, in the order of the names.

    Raises
    ------
    InputError
        One is no such file, or they do not fit each other, or their order is not plain.
    """
    path, names = place.url, sorted(names)
    natural = sorted(names, key=_natural)
    if natural != names:
        one, other = next((a, b) for a, b in zip(names, natural, strict=True) if a != b)
        raise InputError(
            f"{path}: by name, {shown(one)} comes before {shown(other)}; write the numbers in the "
            "names of the .npy files with as many digits each."
        )
    parts: list[_Npy] = []
    for name in names:
        parts.append(_part(place, name, wanted))
        n, dtype = parts[0].shape[0], parts[0].dtype
        if (n, dtype) != (parts[-1].shape[0], parts[-1].dtype):
            raise InputError(
                f"{path}: {shown(names[0])} has {n} features of type {dtype}, and {shown(name)} "
                f"{parts[-1].shape[0]} of type {parts[-1].dtype}; they must be alike."
            )
    ends = np.cumsum([0, *(part.shape[1] for part in parts)], dtype=object).tolist()
    shape = check_matrix((parts[0].shape[0], ends[-1]), parts[0].dtype, f"{path}: ")
    return FolderSource(path, shape, parts[0].dtype, tuple(parts), tuple(ends[:-1]))


def _part(place: Place, name: str, wanted: Wanted) -> _Npy:
    if isinstance(place, Directory):
        path = place.path / name
        if not path.is_file():
            raise InputError(f"{path}: this is neither a file nor a directory (input.path).")
        return open_npy(str(path), wanted)
    if not isinstance(place, Objects):
        raise TypeError
    part = place.below(name)
    return open_npy_object(part, part.size() or 0, wanted)


def _natural(name: str) -> list[Any]:
    """Take numbers in a name for what they are."""
    return [int(part) if part.isdigit() else part for part in re.split(r"([0-9]+)", name)]


def _refuse_names(path: str, wanted: Wanted) -> None:
    if wanted.arrays:
        told = ", ".join(repr(shown(name)) for name in wanted.arrays)
        raise InputError(f"{path}: a .npy file holds one array; leave out input.array ({told}).")
    if wanted.named:
        raise InputError(
            f"{path}: the dimensions of a .npy file have no names; leave out input.features_dim "
            "and input.column_dims, and set input.orientation."
        )


def _npy_header(file: IO[bytes]) -> Header:
    """Read the header of a .npy file; unlike np.load, this takes nothing else for one."""
    header = read_header(file, os.fstat(file.fileno()).st_size)
    if header.dtype.hasobject:
        raise ValueError("Python objects in dtype: they are pickled, and no pickle is loaded")
    return header
