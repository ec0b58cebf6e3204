"""BLAS: which it is, and one thread of it, since sharing a product out may change its rounding."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from threadpoolctl import ThreadpoolController

__all__ = ["blas_libraries", "one_blas_thread"]

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


def blas_libraries() -> tuple[str, ...]:
    """Tell the libraries, with the processor that each has chosen its kernels for."""
    found = (info for info in _controller().info() if info["user_api"] == "blas")
    texts = (f"{i['internal_api']} {i['version']} {i.get('architecture') or ''}" for i in found)
    return tuple(dict.fromkeys(text.strip() for text in texts))


# Libraries that were loaded, which are NumPy's and SciPy's by now
@cache
def _controller() -> Any:
    return ThreadpoolController()  # type: ignore[no-untyped-call]
