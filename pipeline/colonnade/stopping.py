"""Signals that end a run in good order."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from colonnade.errors import StoppedError

__all__ = ["Stop", "stoppable"]

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Stop:
    """A signal that came, kept because an exception that it raises may get lost.

    It may strike within a finaliser or a weak reference's callback, where Python drops it.
    """

    def __init__(self) -> None:
        self._signum: int | None = None

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        """Take a signal, as its handler."""
        del frame
        self._signum = signum
        self.check()

    def check(self) -> None:
        """Raise what a signal has asked for."""
        if self._signum is not None:
            raise StoppedError(self._signum, "the same command goes on with what is missing.")


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Turn signals into StoppedError, so that the cluster is closed on the way out."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    old = {signum: signal.signal(signum, stop) for signum in _SIGNALS}
    try:
        yield stop
    finally:
        for signum, handler in old.items():
            signal.signal(signum, handler)
