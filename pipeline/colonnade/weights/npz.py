"""Weights in NumPy's archives of arrays."""

from __future__ import annotations

import io
import zipfile
from collections import Counter
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from colonnade.errors import NetworkError, reason, shown
from colonnade.npyheader import MAGIC, read_header
from colonnade.weights.choice import listed

__all__ = ["load_npz"]

# Weights hardly compress. Saved anew with np.savez, a file that does is read whatever its size.
_ALWAYS_READ = 256 * 2**20
_MOST_INFLATION = 20


def _check_entries(archive: zipfile.ZipFile, size: int) -> None:
    """Raise ValueError where an archive of so many bytes claims much more than it holds."""
    entries = archive.infolist()
    names = Counter(entry.filename.removesuffix(".npy") for entry in entries)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise ValueError(f"it holds {listed(twice)} more than once")
    inflated = sum(entry.file_size for entry in entries)
    if inflated > max(_ALWAYS_READ, _MOST_INFLATION * size):
        raise ValueError(
            f"it has {size:,} bytes and would unpack to {inflated:,}; if that is meant, save it "
            "uncompressed, with np.savez"
        )
    for entry in entries:
        # The other methods unpack to any size at once, whatever size the entry claims
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{shown(entry.filename)} is compressed as np.savez does not")
        with archive.open(entry) as file:
            if file.read(len(MAGIC)) != MAGIC:
                continue
            file.seek(0)
            try:
                read_header(file, entry.file_size)
            except ValueError as error:
                raise ValueError(f"{shown(entry.filename)}: {error}") from error


def load_npz(path: str | Path, file: IO[bytes]) -> dict[str, NDArray[Any]]:
    """Read all arrays of an archive; NetworkError where it is none, or unpacks to too much."""
    try:
        # np.load takes what is no zip for a pickle, and leaves a damaged one open
        if not zipfile.is_zipfile(file):
            raise ValueError("it is no zip archive, or not a whole one")
        with zipfile.ZipFile(file) as entries:
            _check_entries(entries, file.seek(0, io.SEEK_END))
        file.seek(0)
        with np.load(file, allow_pickle=False) as archive:
            return {name: np.asarray(archive[name]) for name in archive.files}
    except MemoryError:
        raise
    # zipfile and zlib raise whatever the damage happens to break
    except Exception as error:
        told = f"{path}: this cannot be read as a .npz archive: {reason(error)}"
        raise NetworkError(told) from error
