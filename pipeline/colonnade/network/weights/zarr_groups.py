"""Read weights from the arrays of a Zarr group."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from colonnade.errors import NetworkError, UsageError, one_line, sanitize
from colonnade.network.weights.archives import most_unpacked
from colonnade.network.weights.loaded import Loaded
from colonnade.storage import Objects, Place
from colonnade.storage.decoding import bounded
from colonnade.storage.regularfiles import RegularFiles

__all__ = ["load_zarr"]


def load_zarr(path: str | Path, place: Place) -> Loaded:
    """Read the arrays of a group; raise NetworkError if it is damaged or claims too much."""
    try:
        store = place.zarr() if isinstance(place, Objects) else RegularFiles(path, read_only=True)
        group = zarr.open_group(store, mode="r", use_consolidated=False)
        arrays: dict[str, Any] = {}
        for name, array in sorted(group.arrays()):
            claimed = math.prod(array.shape) * array.dtype.itemsize
            chunk = math.prod(array.chunks) * array.dtype.itemsize
            # Missing chunks read as the fill value, so an array may claim any size
            if max(claimed, chunk) > most_unpacked(array.nbytes_stored()):
                raise ValueError(
                    f"its array {sanitize(name)} claims the shape {array.shape} in chunks of "
                    f"{array.chunks}, but stores {array.nbytes_stored():,} bytes; if this is "
                    "intended, save it uncompressed"
                )
            arrays[name] = np.asarray(bounded(array)[...])
        return Loaded(arrays)
    except (MemoryError, UsageError):
        raise
    # Damaged metadata makes zarr raise any type of error
    except Exception as error:
        message = f"{path}: this cannot be read as a Zarr group: {one_line(error)}"
        raise NetworkError(message) from error
