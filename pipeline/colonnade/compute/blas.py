"""BLAS: its name, and a limit of one thread, since splitting a product may change its rounding."""

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
# The controllers whose libraries are limited, each with the limiter that restores them
_limited: dict[Any, Any] = {}


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Limit BLAS to one thread for the whole process while any thread is inside this context.

    Other code that sets it meanwhile sets it for all threads.
    """
    global _inside  # noqa: PLW0603
    with _lock:
        # Reference-counted: the first entry sets the limit, the last exit restores it
        controller = _controller()
        if controller not in _limited:
            _release(controller)
            _limited[controller] = controller.limit(limits=1, user_api="blas")
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            while _limited and not _inside:
                controller, limiter = _limited.popitem()
                _release(controller)
                limiter.restore_original_limits()
                _release(controller)


def _release(controller: Any) -> None:
    """Let this thread set the limit: from 3.8 on, threadpoolctl allows only the first thread."""
    for library in controller.lib_controllers:
        if hasattr(library, "clear_controlling_thread"):
            library.clear_controlling_thread(force=True)


def blas_libraries() -> tuple[str, ...]:
    """Return the BLAS libraries, each with the processor that it has chosen its kernels for."""
    found = (info for info in _controller().info() if info["user_api"] == "blas")
    texts = (f"{i['internal_api']} {i['version']} {i.get('architecture') or ''}" for i in found)
    return tuple(dict.fromkeys(text.strip() for text in texts))


def _controller() -> Any:
    # Cached, since finding the libraries takes a millisecond. SciPy brings its own BLAS, and may
    # be imported later: its BLAS is loaded once this module is
    return _controller_of("scipy.linalg._fblas" in sys.modules)


@cache
def _controller_of(_scipy: bool) -> Any:
    return ThreadpoolController()  # type: ignore[no-untyped-call]
