"""Check zip archives before they are unpacked: their sizes, duplicates and damage."""

from __future__ import annotations

import io
import struct
import zipfile
from collections import Counter
from typing import IO

from colonnade.errors import listed, sanitize
from colonnade.limits import WEIGHTS_INFLATION, WEIGHTS_UNPACKED_BYTES
from colonnade.storage.npy.header import MAGIC, read_header

__all__ = ["check_archive", "most_unpacked"]

# A zip archive ends with this record and a comment of up to 64 KiB. The record counts the entries;
# _MANY stands for any larger count.
_END = b"PK\5\6"
_END_BYTES = 22 + 2**16
_MANY = 2**16 - 1


def most_unpacked(size: int) -> int:
    """Return the most bytes that `size` compressed bytes may unpack to: weights hardly compress.

    Weights that exceed the limit can be saved without compression, where no limit applies.
    """
    return max(WEIGHTS_UNPACKED_BYTES, WEIGHTS_INFLATION * size)


def check_archive(file: IO[bytes]) -> None:
    """Check that a file is a zip archive of plausible content, and rewind it to its start.

    Raises
    ------
    ValueError
        The file is not a zip archive, or it or a .npy file in it claims too much. Damaged archives
        also make zipfile raise other types of error.
    """
    if not zipfile.is_zipfile(file):
        raise ValueError("it is not a zip archive, or is truncated")
    with zipfile.ZipFile(file) as archive:
        size = file.seek(0, io.SEEK_END)
        _check_entries(archive, size)
        file.seek(max(0, size - _END_BYTES))
        _check_count(file.read(), len(archive.infolist()))
    file.seek(0)


def _check_count(end: bytes, found: int) -> None:
    """Compare the number of entries found with the count at the archive's end.

    If one byte of an entry's header is wrong, zipfile silently skips all later entries.
    """
    (count,) = struct.unpack_from("<H", end, end.rfind(_END) + 10)
    if count not in (found, _MANY):
        raise ValueError(
            f"its directory lists {found} of {count} files, so it is damaged; save it again"
        )


def _check_entries(archive: zipfile.ZipFile, size: int) -> None:
    entries = archive.infolist()
    names = Counter(entry.filename.removesuffix(".npy") for entry in entries)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise ValueError(f"it holds {listed(twice)} more than once; save each array once")
    inflated = sum(entry.file_size for entry in entries)
    if inflated > most_unpacked(size):
        raise ValueError(
            f"it has {size:,} bytes and would unpack to {inflated:,}; if this is intended, save it "
            "uncompressed"
        )
    for entry in entries:
        # With other methods, one read may unpack any number of bytes, whatever the entry claims
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(
                f"{sanitize(entry.filename)} is neither stored nor deflated; save it uncompressed"
            )
        with archive.open(entry) as file:
            if file.read(len(MAGIC)) != MAGIC:
                continue
            file.seek(0)
            try:
                read_header(file, entry.file_size)
            except ValueError as error:
                raise ValueError(f"{sanitize(entry.filename)}: {error}") from error
