"""Read windows of the matrix in a .npy object by range requests."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from colonnade.limits import NPY_HEADER_BYTES
from colonnade.storage import Objects
from colonnade.storage.npy.header import Header, read_header

__all__ = ["read_object_header", "read_object_window"]

# Least number of bytes between two ranges for which they become separate requests
_GAP = 2**16


def read_object_header(place: Objects, size: int) -> Header:
    """Read the header of a .npy object of `size` bytes.

    Raises
    ------
    ValueError
        The header is damaged, or claims more numbers than the object has.
    OSError
        The object cannot be read.
    """
    (start,) = place.read_ranges([0], [min(size, NPY_HEADER_BYTES + 16)])
    return read_header(io.BytesIO(bytes(start)), size)


def read_object_window(place: Objects, header: Header, window: tuple[slice, slice]) -> NDArray[Any]:
    """Read a window of a matrix: (rows, columns), a copy in the order of the file.

    Raises
    ------
    OSError
        The object cannot be read.
    """
    shape = (header.shape[0], header.shape[1])
    if header.fortran_order:
        return _read(place, header, shape[::-1], window[::-1]).T
    return _read(place, header, shape, window)


def _read(
    place: Objects, header: Header, shape: tuple[int, int], window: tuple[slice, slice]
) -> NDArray[Any]:
    (first, end, _), (left, right, _) = window[0].indices(shape[0]), window[1].indices(shape[1])
    values = np.empty((max(end - first, 0), max(right - left, 0)), header.dtype)
    if not values.size:
        return values
    size = header.dtype.itemsize
    # Whole rows are contiguous
    rows, width = (
        (1, values.nbytes) if values.shape[1] == shape[1] else (len(values), values[0].nbytes)
    )
    stride = shape[1] * size
    starts = [header.start + (first + row) * stride + left * size for row in range(rows)]
    ends = [start + width for start in starts]
    parts = place.read_ranges(starts, ends, max(_GAP, width))
    for row, part in zip(values.reshape(rows, -1), parts, strict=True):
        row[...] = np.frombuffer(part, header.dtype)
    return values
