"""The arrays of an HDF5 file, and nothing that it only points to."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from colonnade.errors import shown
from colonnade.weights.extras import needed

__all__ = ["opened", "read_arrays"]

_MOST_DATASETS = 10_000


@contextmanager
def opened(file: IO[bytes]) -> Iterator[Any]:
    """Open a file with h5py."""
    with needed("h5py", "keras").File(file, "r") as opened_file:
        yield opened_file


def read_arrays(group: Any, file: IO[bytes]) -> dict[str, NDArray[Any]]:
    """Read all numbers below a group, by their paths.

    Links are not followed: they may lead to other files.

    Raises
    ------
    ValueError
        An array claims more than there is, is compressed, or lies elsewhere.
    """
    size = file.seek(0, io.SEEK_END)
    datasets: dict[str, Any] = {}

    def visit(name: str, node: Any) -> None:
        if len(datasets) >= _MOST_DATASETS:
            raise ValueError(f"it holds more than {_MOST_DATASETS:,} arrays")
        if hasattr(node, "chunks"):
            datasets[name] = node

    group.visititems(visit)
    arrays = {}
    for name, dataset in datasets.items():
        if dataset.dtype.kind not in "iuf" or dataset.shape is None:
            continue
        told = f"its array {shown(name)}"
        if dataset.external or dataset.is_virtual:
            raise ValueError(f"{told} lies in another file")
        if dataset.chunks is not None:
            raise ValueError(f"{told} is chunked or compressed, as Keras does not write it")
        claimed = math.prod(dataset.shape) * dataset.dtype.itemsize
        if claimed > dataset.id.get_storage_size():
            raise ValueError(f"{told} claims the shape {dataset.shape}, more than is there")
        size -= claimed
        if size < 0:
            raise ValueError("its arrays claim more than there is")
        arrays[name] = np.asarray(dataset[()])
    return arrays
