"""Read X from a .npy file, local or in an object store."""

from __future__ import annotations

import os
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from numpy.typing import NDArray

from colonnade.errors import InputError, one_line, sanitize
from colonnade.inputs.base import MatrixReader, Selection, Stamps
from colonnade.inputs.matrix import check_matrix
from colonnade.inputs.sampling import ReadUnit
from colonnade.storage import Objects
from colonnade.storage.npy.file import PAGE, read_window
from colonnade.storage.npy.header import Header, read_header
from colonnade.storage.npy.ranges import read_object_header, read_object_window
from colonnade.storage.regularfiles import stamp

__all__ = ["NpySource", "open_npy", "open_npy_object"]


@dataclass(frozen=True)
class NpySource(MatrixReader):
    """The base of the readers of .npy files, local or in an object store."""

    header: Header
    by_columns: bool

    @property
    def described(self) -> str:
        """Stored shape, and how it is read, for messages."""
        way = "features_by_columns" if self.by_columns else "columns_by_features"
        return f"{self.header.shape}, read as {way}"

    @property
    def storage(self) -> dict[str, Any]:
        """The format; byte order and memory order are omitted, since X does not depend on them."""
        return {"format": "npy"}

    @property
    def piece(self) -> ReadUnit:
        """The features that lie on one page."""
        together = self.header.fortran_order == self.by_columns
        return ReadUnit(PAGE // self.dtype.itemsize if together else 1, 1, PAGE)

    def window(self, features: slice, start: int, stop: int) -> NDArray[Any]:
        """Read the bytes of these numbers, and few others."""
        columns = slice(start, stop)
        if self.by_columns:
            return self._stored((features, columns))
        return self._stored((columns, features)).T

    @abstractmethod
    def _stored(self, window: tuple[slice, slice]) -> NDArray[Any]:
        """Read this window of the matrix in its stored orientation."""


@dataclass(frozen=True)
class NpyFileSource(NpySource):
    """A .npy file; each read reopens it, and raises if its header has changed."""

    def _stored(self, window: tuple[slice, slice]) -> NDArray[Any]:
        with Path(self.path).open("rb", buffering=0) as file:
            return read_window(file, self._now(file), window)

    def check(self) -> None:
        """Read the header again, and raise if it has changed."""
        with Path(self.path).open("rb", buffering=0) as file:
            self._now(file)

    def stamps(self, start: int, stop: int) -> Stamps:  # noqa: ARG002 (one file holds all columns)
        """Return the stamp of the file."""
        return {self.path: stamp(self.path)}

    def _now(self, file: IO[bytes]) -> Header:
        now, was = _npy_header(file), self.header
        if (now.shape, now.dtype) != (was.shape, was.dtype):
            raise ValueError(
                f"the file has changed: it was {was.shape} {was.dtype}, and is now {now.shape} "
                f"{now.dtype}; leave X unchanged while it is read"
            )
        return now


@dataclass(frozen=True)
class NpyObjectSource(NpySource):
    """A .npy file in an object store."""

    place: Objects
    size: int

    @property
    def copies(self) -> int:
        """The array, and the bytes fetched for it: with gaps, up to twice its size."""
        return 3

    def _stored(self, window: tuple[slice, slice]) -> NDArray[Any]:
        self.check()
        return read_object_window(self.place, self.header, window)

    def check(self) -> None:
        """Ask for the object's size again, and raise ValueError if it has changed."""
        size = self.place.size()
        if size != self.size:
            now = "gone" if size is None else f"{size:,}"
            raise ValueError(
                f"{self.path} has changed: its {self.size:,} bytes are now {now}; leave X "
                "unchanged while it is read"
            )

    def stamps(self, start: int, stop: int) -> Stamps:  # noqa: ARG002 (one object holds all columns)
        """Return the stamp of the object."""
        return {self.path: self.place.stamp()}


def open_npy(path: str, wanted: Selection) -> NpyFileSource:
    """Open a .npy file.

    Raises
    ------
    InputError
        This is not a .npy file, or it holds no matrix of real numbers.
    """
    _refuse_names(path, wanted)
    try:
        with Path(path).open("rb", buffering=0) as file:
            header = _npy_header(file)
    except (OSError, ValueError) as error:
        message = f"{path}: this cannot be read as a .npy file: {one_line(error)}"
        raise InputError(message) from error
    shape = check_matrix(header.shape, header.dtype, f"{path}: ")
    oriented = shape if wanted.by_columns else shape[::-1]
    return NpyFileSource(path, oriented, header.dtype, header, wanted.by_columns)


def open_npy_object(place: Objects, size: int, wanted: Selection) -> NpyObjectSource:
    """Open a .npy file of `size` bytes in an object store.

    Raises
    ------
    InputError
        This is not a .npy file, or it holds no matrix of real numbers.
    """
    path = place.url
    _refuse_names(path, wanted)
    try:
        header = read_object_header(place, size)
    except OSError as error:
        raise InputError(f"{path}: this cannot be read: {one_line(error)} (input.path).") from error
    except ValueError as error:
        message = f"{path}: this cannot be read as a .npy file: {one_line(error)}"
        raise InputError(message) from error
    shape = check_matrix(header.shape, header.dtype, f"{path}: ")
    oriented = shape if wanted.by_columns else shape[::-1]
    return NpyObjectSource(path, oriented, header.dtype, header, wanted.by_columns, place, size)


def _refuse_names(path: str, wanted: Selection) -> None:
    if wanted.arrays:
        names = ", ".join(repr(sanitize(name)) for name in wanted.arrays)
        raise InputError(f"{path}: a .npy file holds one array; leave out input.array ({names}).")
    if wanted.named:
        raise InputError(
            f"{path}: the dimensions of a .npy file have no names; leave out input.features_dim "
            "and input.column_dims, and set input.orientation."
        )


def _npy_header(file: IO[bytes]) -> Header:
    """Read the header of a .npy file; unlike np.load, accept no other format."""
    header = read_header(file, os.fstat(file.fileno()).st_size)
    if header.dtype.hasobject:
        raise ValueError(
            "Python objects in dtype: they are pickled, and no pickle is loaded; save real numbers"
        )
    return header
