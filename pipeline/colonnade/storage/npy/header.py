"""The header of a .npy file, held against the bytes that are there.

NumPy asks for the memory that a header claims, and only then looks whether there is anything to
put into it.
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
    """What a .npy file says of itself; its numbers begin at byte `start`."""

    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype[Any]
    start: int


def read_header(file: IO[bytes], size: int) -> Header:
    """Read a header, and refuse one that claims more than there is.

    Parameters
    ----------
    file
        At the first byte of the .npy.
    size
        Bytes that it has.

    Raises
    ------
    ValueError
        The header claims more numbers than `size` bytes hold, or is none.
    """
    version = np.lib.format.read_magic(file)
    length = int.from_bytes(file.read(2 if version == (1, 0) else 4), "little")
    if length > NPY_HEADER_BYTES:
        raise ValueError(f"its header has {length:,} bytes, where some hundred are usual")
    # From version to version the length grows, and the encoding of the names of fields changes
    header = length.to_bytes(4, "little") + file.read(length)
    try:
        shape, fortran_order, dtype = np.lib.format.read_array_header_2_0(io.BytesIO(header))
    except (MemoryError, RecursionError):  # of Python's parser
        raise ValueError("its header is nested too deeply") from None
    # A damaged header raises whatever it happens to break, in Python's tokenizer for one
    except Exception as error:
        raise ValueError(f"its header cannot be read: {one_line(error)}") from error
    if any(isinstance(length, bool) or length < 0 for length in shape):
        raise ValueError(f"its header claims a negative length, or none, {shape}")
    claimed, there = math.prod(shape) * dtype.itemsize, size - file.tell()
    # Python objects are pickled, in any number of bytes; whoever reads on refuses those
    if claimed > there and not dtype.hasobject:
        raise ValueError(
            f"its header claims {shape} numbers of type {dtype}, {claimed:,} bytes, and only "
            f"{there:,} are there"
        )
    return Header(shape, fortran_order, dtype, file.tell())
