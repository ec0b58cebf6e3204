"""What is compressed, held against the bytes that are there before it is unpacked: zip archives."""

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

# A zip archive ends with this record and a comment of up to 64 KiB; many stands for a larger count
_END = b"PK\5\6"
_END_BYTES = 22 + 2**16
_MANY = 2**16 - 1


def most_unpacked(size: int) -> int:
    """Tell the bytes that so many may unpack to: weights hardly compress.

    Saved anew without compression, those that do are read at any size.
    """
    return max(WEIGHTS_UNPACKED_BYTES, WEIGHTS_INFLATION * size)


def check_archive(file: IO[bytes]) -> None:
    """Leave a file at its start if it is a zip archive that holds what it claims.

    Raises
    ------
    ValueError
        It is none, claims much more than it holds, or holds a .npy file that does. Others are
        raised too: a damaged archive breaks what it happens to break.
    """
    if not zipfile.is_zipfile(file):
        raise ValueError("it is no zip archive, or not a whole one")
    with zipfile.ZipFile(file) as archive:
        size = file.seek(0, io.SEEK_END)
        _check_entries(archive, size)
        file.seek(max(0, size - _END_BYTES))
        _check_count(file.read(), len(archive.infolist()))
    file.seek(0)


def _check_count(end: bytes, found: int) -> None:
    """Compare the number of entries with the one at the archive's end.

    Where one byte of an entry's header is wrong, zipfile skips those behind it and says nothing.
    """
    (count,) = struct.unpack_from("<H", end, end.rfind(_END) + 10)
    if count not in (found, _MANY):
        raise ValueError(f"it lists {found} of its {count} files: its directory is damaged")


def _check_entries(archive: zipfile.ZipFile, size: int) -> None:
    entries = archive.infolist()
    names = Counter(entry.filename.removesuffix(".npy") for entry in entries)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise ValueError(f"it holds {listed(twice)} more than once")
    inflated = sum(entry.file_size for entry in entries)
    if inflated > most_unpacked(size):
        raise ValueError(
            f"it has {size:,} bytes and would unpack to {inflated:,}; if that is meant, save it "
            "uncompressed"
        )
    for entry in entries:
        # The other methods unpack to any size at once, whatever size the entry claims
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{sanitize(entry.filename)} is neither stored nor deflated")
        with archive.open(entry) as file:
            if file.read(len(MAGIC)) != MAGIC:
                continue
            file.seek(0)
            try:
                read_header(file, entry.file_size)
            except ValueError as error:
                raise ValueError(f"{sanitize(entry.filename)}: {error}") from error
