"""BLAS: which it is, and one thread of it, since sharing a product out may change its rounding."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from threadpoolctl import ThreadpoolController

__all__ = ["blas_libraries", "one_blas_thread"]

_lock = threading.Lock()
_inside = 0
_limiter: Any = None


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Compute with one BLAS thread, in all threads of this process until the last has done so."""
    global _inside, _limiter  # noqa: PLW0603 (so is the number that BLAS has)
    with _lock:
        # Who comes first sets it, and who leaves last restores it
        if not _inside:
            _release()
            _limiter = _controller().limit(limits=1, user_api="blas")
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                _release()
                _limiter.restore_original_limits()
                _release()


def _release() -> None:
    """Let this thread set the number: threadpoolctl lets only one, once it has, from 3.8 on."""
    for library in _controller().lib_controllers:
        if hasattr(library, "clear_controlling_thread"):
            library.clear_controlling_thread(force=True)


def blas_libraries() -> tuple[str, ...]:
    """Tell the libraries, with the processor that each has chosen its kernels for."""
    found = (info for info in _controller().info() if info["user_api"] == "blas")
    texts = (f"{i['internal_api']} {i['version']} {i.get('architecture') or ''}" for i in found)
    return tuple(dict.fromkeys(text.strip() for text in texts))


def _controller() -> Any:
    # To look for libraries takes a millisecond; SciPy brings its own BLAS, and may come later
    return _controller_of("scipy.linalg" in sys.modules)


@cache
def _controller_of(_scipy: bool) -> Any:
    return ThreadpoolController()  # type: ignore[no-untyped-call]
