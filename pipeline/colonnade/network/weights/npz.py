"""Read weights from NumPy's .npz archives."""

from __future__ import annotations

from pathlib import Path
from typing import IO

import numpy as np

from colonnade.errors import NetworkError, one_line
from colonnade.network.weights.archives import check_archive
from colonnade.network.weights.loaded import Loaded

__all__ = ["load_npz"]


def load_npz(path: str | Path, file: IO[bytes]) -> Loaded:
    """Read all arrays of an archive; raise NetworkError if it is damaged or unpacks to too much."""
    try:
        # np.load takes any other file for a pickle, and leaves a damaged archive open
        check_archive(file)
        with np.load(file, allow_pickle=False) as archive:
            return Loaded({name: np.asarray(archive[name]) for name in archive.files})
    except MemoryError:
        raise
    # A damaged archive makes zipfile and zlib raise any type of error
    except Exception as error:
        message = f"{path}: this cannot be read as a .npz archive: {one_line(error)}"
        raise NetworkError(message) from error
