"""One BLAS thread: how a product is shared out among threads may change how it is rounded."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from threadpoolctl import ThreadpoolController

__all__ = ["one_blas_thread"]

_lock = threading.Lock()
_within: list[Any] = []


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Compute with one BLAS thread, in all threads of this process until the last has done so."""
    with _lock:
        # The number is the process's: who comes first sets it, and who leaves last restores it
        _within.append(None if _within else _controller().limit(limits=1, user_api="blas"))
    try:
        yield
    finally:
        with _lock:
            if len(_within) == 1:
                _within.pop().restore_original_limits()
            else:
                _within.pop()


# Libraries that were loaded, which are NumPy's and SciPy's by now
@cache
def _controller() -> Any:
    return ThreadpoolController()  # type: ignore[no-untyped-call]
