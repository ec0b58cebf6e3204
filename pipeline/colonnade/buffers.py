"""Memory that a thread takes for the same thing again and again, and what threads share.

Dask's workers are started with glibc's MALLOC_TRIM_THRESHOLD_ set, and so with a fixed size from
which malloc fetches pages from the system, and returns them, every time. On what is used as
shortly as a tile of columns, the faults of fresh pages take longer than the arithmetic.
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

# Bytes of a temporary array that is not kept: below that size, which is 128 KiB
PIECE_BYTES = 120 * 2**10

Made = TypeVar("Made")


class Buffers(threading.local):
    """Arrays by name, a set for each thread; each is good until its name is asked for again."""

    def __init__(self) -> None:
        self._kept: dict[Hashable, NDArray[np.uint8]] = {}

    def __reduce__(self) -> tuple[type[Buffers], tuple[()]]:
        return Buffers, ()

    def array(self, name: Hashable, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Take an array, C-contiguous, that holds whatever it held."""
        needed = math.prod(shape) * np.dtype(dtype).itemsize
        kept = self._kept.get(name)
        if kept is None or kept.nbytes < needed:
            kept = self._kept[name] = np.empty(needed, np.uint8)
        return kept[:needed].view(dtype).reshape(shape)


class made_once(cached_property[Made]):  # noqa: N801 (a decorator)
    """A cached property that is made once, also where many threads ask for it at the same time."""

    def __init__(self, function: Callable[[Any], Made]) -> None:
        super().__init__(function)
        self._making = threading.RLock()

    def __get__(self, instance: Any, owner: type[Any] | None = None) -> Any:
        with self._making:
            return super().__get__(instance, owner)
