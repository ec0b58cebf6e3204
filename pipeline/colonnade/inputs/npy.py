"""X in a .npy file, local or in an object store."""

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
    """A .npy file, wherever it is."""

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
    def piece(self) -> ReadUnit:
        """Features that lie on one page."""
        together = self.header.fortran_order == self.by_columns
        return ReadUnit(PAGE // self.dtype.itemsize if together else 1, 1, PAGE)

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
class NpyFileSource(NpySource):
    """A .npy file, opened anew for each read, which may find that it has changed."""

    def _stored(self, window: tuple[slice, slice]) -> NDArray[Any]:
        with Path(self.path).open("rb", buffering=0) as file:
            return read_window(file, self._now(file), window)

    def check(self) -> None:
        """Read its header again."""
        with Path(self.path).open("rb", buffering=0) as file:
            self._now(file)

    def stamps(self, start: int, stop: int) -> Stamps:  # noqa: ARG002 (all are in one file)
        """Stamp the file."""
        return {self.path: stamp(self.path)}

    def _now(self, file: IO[bytes]) -> Header:
        now, was = _npy_header(file), self.header
        if (now.shape, now.dtype) != (was.shape, was.dtype):
            raise ValueError(
                f"it has changed: it was {was.shape} {was.dtype}, and is {now.shape} {now.dtype}"
            )
        return now


@dataclass(frozen=True)
class NpyObjectSource(NpySource):
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

    def stamps(self, start: int, stop: int) -> Stamps:  # noqa: ARG002 (all are in one object)
        """Stamp the object."""
        return {self.path: self.place.stamp()}


def open_npy(path: str, wanted: Selection) -> NpyFileSource:
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
    except (OSError, ValueError) as error:
        told = f"{path}: this cannot be read as a .npy file: {one_line(error)}"
        raise InputError(told) from error
    shape = check_matrix(header.shape, header.dtype, f"{path}: ")
    oriented = shape if wanted.by_columns else shape[::-1]
    return NpyFileSource(path, oriented, header.dtype, header, wanted.by_columns)


def open_npy_object(place: Objects, size: int, wanted: Selection) -> NpyObjectSource:
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
    except OSError as error:
        raise InputError(f"{path}: this cannot be read: {one_line(error)} (input.path).") from error
    except ValueError as error:
        told = f"{path}: this cannot be read as a .npy file: {one_line(error)}"
        raise InputError(told) from error
    shape = check_matrix(header.shape, header.dtype, f"{path}: ")
    oriented = shape if wanted.by_columns else shape[::-1]
    return NpyObjectSource(path, oriented, header.dtype, header, wanted.by_columns, place, size)


def _refuse_names(path: str, wanted: Selection) -> None:
    if wanted.arrays:
        told = ", ".join(repr(sanitize(name)) for name in wanted.arrays)
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
