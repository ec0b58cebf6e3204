"""Read windows of the matrix in a .npy file by plain reads, or a whole array.

With a memory map, all touched pages would count as the process's memory, and a file that becomes
shorter would kill the process.
"""

from __future__ import annotations

import io
import os
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from colonnade.storage.npy.header import Header, read_header

__all__ = ["PAGE", "read_array", "read_window"]

# The disk reads whole pages: the bytes between two windows on one page cost nothing
PAGE = 4096
# Bytes of whole rows that are read at a time, to be cut
_PIECE = 2**20


def read_array(file: IO[bytes]) -> NDArray[Any]:
    """Read a whole small array of any shape, from its file or from bytes in memory.

    Raises
    ------
    ValueError
        The file is not an array, claims more bytes than it has, or holds Python objects.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    # Check the header before NumPy allocates the memory that it claims
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
        Header of the file, whose matrix is not empty.
    window
        Rows and columns, of step 1.

    Returns
    -------
    (rows, columns), a copy in the order of the file.

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
    """Read rows one by one, or many at once if fewer bytes than a page lie between them."""
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
            # From the first number of the window in these rows to the last
            spare = np.empty((len(part) - 1) * shape[1] + wanted, header.dtype)
            _fill(file, spare, start + row * stride)
            strides = (stride, size)
            part[...] = np.lib.stride_tricks.as_strided(spare, part.shape, strides, writeable=False)
    else:
        if hasattr(os, "posix_fadvise"):
            # Let the disk fetch all rows at once instead of one per read
            for row in range(rows):
                at = start + row * stride
                os.posix_fadvise(file.fileno(), at, wanted * size, os.POSIX_FADV_WILLNEED)
        for row, numbers in enumerate(values):
            _fill(file, numbers, start + row * stride)
    return values


def _fill(file: IO[bytes], values: NDArray[Any], offset: int) -> None:
    """Fill a contiguous array with the bytes from an offset on."""
    rest = values.view(np.uint8).reshape(-1).data
    # The system returns at most 2 GiB at a time, and less after a signal
    while rest:
        got = os.preadv(file.fileno(), [rest], offset)
        if not got:
            raise ValueError(f"its numbers end at byte {offset:,}: it has changed, or is truncated")
        rest, offset = rest[got:], offset + got
