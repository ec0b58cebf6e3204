"""Read the header of a .npy file, and check it against the file's size.

NumPy allocates the memory that a header claims before it checks whether the file has the numbers.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from colonnade.errors import one_line
from colonnade.limits import NPY_HEADER_BYTES

__all__ = ["MAGIC", "Header", "read_header"]

MAGIC: bytes = np.lib.format.MAGIC_PREFIX


@dataclass(frozen=True, slots=True)
class Header:
    """The header of a .npy file; the numbers begin at byte `start`."""

    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype[Any]
    start: int


def read_header(file: IO[bytes], size: int) -> Header:
    """Read a header, and refuse one that claims more numbers than the file has.

    Parameters
    ----------
    file
        The file, at the first byte of the .npy content.
    size
        Bytes of the file.

    Raises
    ------
    ValueError
        The header is damaged, or claims more numbers than `size` bytes hold.
    """
    version = np.lib.format.read_magic(file)
    length = int.from_bytes(file.read(2 if version == (1, 0) else 4), "little")
    if length > NPY_HEADER_BYTES:
        raise ValueError(f"its header has {length:,} bytes; a few hundred are usual")
    # Versions differ in the width of the length and the encoding of field names
    header = length.to_bytes(4, "little") + file.read(length)
    try:
        shape, fortran_order, dtype = np.lib.format.read_array_header_2_0(io.BytesIO(header))
    except (MemoryError, RecursionError):  # of Python's parser
        raise ValueError("its header is nested too deeply") from None
    # A damaged header raises errors of many types, for example from Python's tokenizer
    except Exception as error:
        raise ValueError(f"its header cannot be read: {one_line(error)}") from error
    if any(isinstance(length, bool) or length < 0 for length in shape):
        raise ValueError(f"its header claims a negative length, or a bool: {shape}")
    claimed, there = math.prod(shape) * dtype.itemsize, size - file.tell()
    # Pickled Python objects may take any number of bytes; the caller refuses to read them
    if claimed > there and not dtype.hasobject:
        raise ValueError(
            f"its header claims {shape} numbers of type {dtype}, {claimed:,} bytes, and only "
            f"{there:,} are there"
        )
    return Header(shape, fortran_order, dtype, file.tell())
