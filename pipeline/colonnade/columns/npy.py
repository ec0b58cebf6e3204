"""X in a .npy file, local or in an object store."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from colonnade.columns.base import Columns, Orientation
from colonnade.errors import InputError, reason
from colonnade.matrix import check_matrix
from colonnade.npyfile import PAGE, read_window
from colonnade.npyheader import Header, read_header
from colonnade.npyranges import read_object_header, read_object_window
from colonnade.places import Objects
from colonnade.sampling import Piece, Sample

__all__ = ["open_npy", "open_npy_object"]


@dataclass(frozen=True)
class _Npy(Columns):
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


@dataclass(frozen=True)
class NpyColumns(_Npy):
    """A .npy file, opened anew for each read, which may find that it has changed."""

    def _read(self, window: tuple[slice, slice]) -> NDArray[Any]:
        with Path(self.path).open("rb", buffering=0) as file:
            header = _npy_header(file)
            self._check_unchanged(header.shape, header.dtype)
            return read_window(file, header, window)


@dataclass(frozen=True)
class NpyObjectColumns(_Npy):
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


def open_npy(path: str, array: str | None, orientation: Orientation) -> Columns:
    """Open a .npy file.

    Raises
    ------
    InputError
        It is none, or no matrix of real numbers.
    """
    _refuse_name(path, array)
    try:
        with Path(path).open("rb", buffering=0) as file:
            header = _npy_header(file)
    # a damaged header raises whatever it happens to break
    except Exception as error:
        told = f"{path}: this cannot be read as a .npy file: {reason(error)}"
        raise InputError(told) from error
    shape = check_matrix(header.shape, header.dtype, f"{path}: ")
    return NpyColumns(path, orientation, shape, header.dtype, header.fortran_order)


def open_npy_object(
    place: Objects, size: int, array: str | None, orientation: Orientation
) -> Columns:
    """Open a .npy file of so many bytes in an object store.

    Raises
    ------
    InputError
        It is none, or no matrix of real numbers.
    """
    path = place.url
    _refuse_name(path, array)
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
    return NpyObjectColumns(
        path, orientation, shape, header.dtype, header.fortran_order, place, header, size
    )


def _refuse_name(path: str, array: str | None) -> None:
    if array is not None:
        raise InputError(f"{path}: a .npy file holds one array; leave out input.array ({array!r}).")


def _npy_header(file: IO[bytes]) -> Header:
    """Read the header of a .npy file; unlike np.load, this takes nothing else for one."""
    header = read_header(file, os.fstat(file.fileno()).st_size)
    if header.dtype.hasobject:
        raise ValueError("Python objects in dtype: they are pickled, and no pickle is loaded")
    return header
