"""Buffers that a thread reuses, and values that threads share.

Dask starts workers with glibc's MALLOC_TRIM_THRESHOLD_ set, which also fixes malloc's mmap
threshold: above it, every allocation maps fresh pages, and every release unmaps them. For arrays as
short-lived as a tile of columns, the page faults take longer than the arithmetic.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Hashable
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

__all__ = ["PIECE_BYTES", "Buffers", "made_once"]

# Bytes of a temporary array that is not kept: below the mmap threshold of 128 KiB
PIECE_BYTES = 120 * 2**10

Made = TypeVar("Made")


class Buffers(threading.local):
    """Arrays by name, separate per thread; each is valid until its name is requested again."""

    def __init__(self) -> None:
        self._kept: dict[Hashable, NDArray[np.uint8]] = {}

    def __reduce__(self) -> tuple[type[Buffers], tuple[()]]:
        return Buffers, ()

    def array(self, name: Hashable, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Return a C-contiguous array with arbitrary content."""
        needed = math.prod(shape) * np.dtype(dtype).itemsize
        kept = self._kept.get(name)
        if kept is None or kept.nbytes < needed:
            kept = self._kept[name] = np.empty(needed, np.uint8)
        return kept[:needed].view(dtype).reshape(shape)


class made_once(cached_property[Made]):  # noqa: N801 (a decorator)
    """A cached property that is computed once, even if many threads access it concurrently."""

    def __init__(self, function: Callable[[Any], Made]) -> None:
        super().__init__(function)
        self._making = threading.RLock()

    def __get__(self, instance: Any, owner: type[Any] | None = None) -> Any:
        with self._making:
            return super().__get__(instance, owner)
