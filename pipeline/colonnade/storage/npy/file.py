"""Windows of the matrix in a .npy file, by plain reads of the bytes that they lie in; or all of it.

A mapping would count whatever it has touched as the process's memory, and end the process where
the file has become shorter.
"""

from __future__ import annotations

import io
import os
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from colonnade.storage.npy.header import Header, read_header

__all__ = ["PAGE", "read_array", "read_window"]

# The disk reads whole pages: what lies between two windows on one page costs nothing
PAGE = 4096
# Rows that are read whole, to be cut, at a time
_PIECE = 2**20


def read_array(file: IO[bytes]) -> NDArray[Any]:
    """Read a small array of any shape whole, from its file or from bytes that are held.

    Raises
    ------
    ValueError
        It is none, claims more than is there, or holds Python objects.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    # Before NumPy takes the memory that it claims
    read_header(file, size)
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)


def read_window(file: IO[bytes], header: Header, window: tuple[slice, slice]) -> NDArray[Any]:
    """Read a window of a matrix.

    Parameters
    ----------
    file
        The .npy file, open and unbuffered.
    header
        Its header; of a matrix that is not empty.
    window
        Rows and columns, of step 1.

    Returns
    -------
    (rows, columns), an array of its own in the order of the file.

    Raises
    ------
    ValueError
        The numbers end early: the file has changed, or is truncated.
    """
    shape = (header.shape[0], header.shape[1])
    if header.fortran_order:
        return _read(file, header, shape[::-1], window[::-1]).T
    return _read(file, header, shape, window)


def _read(
    file: IO[bytes], header: Header, shape: tuple[int, int], window: tuple[slice, slice]
) -> NDArray[Any]:
    """Read rows one after the other, or many at once where next to nothing lies between them."""
    (first, end, _), (left, right, _) = window[0].indices(shape[0]), window[1].indices(shape[1])
    rows, wanted = max(end - first, 0), max(right - left, 0)
    size = header.dtype.itemsize
    stride = shape[1] * size
    start = header.start + first * stride + left * size
    values = np.empty((rows, wanted), header.dtype)
    if not values.size:
        return values
    if wanted == shape[1]:
        _fill(file, values, start)
    elif stride - wanted * size < PAGE:
        step = max(1, _PIECE // stride)
        for row in range(0, rows, step):
            part = values[row : row + step]
            # From the first number that is wanted to the last
            spare = np.empty((len(part) - 1) * shape[1] + wanted, header.dtype)
            _fill(file, spare, start + row * stride)
            strides = (stride, size)
            part[...] = np.lib.stride_tricks.as_strided(spare, part.shape, strides, writeable=False)
    else:
        if hasattr(os, "posix_fadvise"):
            # The disk fetches all rows at a time, not each when it is asked for
            for row in range(rows):
                at = start + row * stride
                os.posix_fadvise(file.fileno(), at, wanted * size, os.POSIX_FADV_WILLNEED)
        for row, numbers in enumerate(values):
            _fill(file, numbers, start + row * stride)
    return values


def _fill(file: IO[bytes], values: NDArray[Any], offset: int) -> None:
    """Fill an array, contiguous, with the bytes from an offset on."""
    rest = values.view(np.uint8).reshape(-1).data
    # The system returns no more than 2 GiB at a time, and less where a signal comes
    while rest:
        got = os.preadv(file.fileno(), [rest], offset)
        if not got:
            raise ValueError(f"its numbers end at byte {offset:,}: it has changed, or is truncated")
        rest, offset = rest[got:], offset + got
