"""Signals that end a run in good order."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from colonnade.errors import StoppedError

__all__ = ["SIGNALS", "Stop", "stoppable"]

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Stop:
    """A signal that came, kept because an exception that it raises may get lost.

    It may strike within a finaliser or a weak reference's callback, where Python drops it.

    Attributes
    ----------
    signum
        The signal, once one came.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._waits = False
        self._at_once = False

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        """Take a signal, as its handler."""
        del frame
        self._at_once = not self._waits or self.signum is not None
        self.signum = signum
        self.check()

    def check(self) -> None:
        """Raise what a signal has asked for at once."""
        if self._at_once:
            self.stop("the same command goes on with what is missing.")

    def stop(self, message: str) -> None:
        """Raise what a signal has asked for, if one came."""
        if self.signum is not None:
            raise StoppedError(self.signum, message)

    @contextmanager
    def politely(self) -> Iterator[None]:
        """Leave it to the block to heed `signum`; a second signal raises all the same."""
        self._waits = True
        try:
            yield
        finally:
            self._waits = False


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Turn signals into StoppedError, so that the cluster is closed on the way out.

    A signal that this process ignores stays ignored: `nohup` and shells that start a job in the
    background ask for that.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    heeded = [signum for signum in SIGNALS if signal.getsignal(signum) != signal.SIG_IGN]
    old = {signum: signal.signal(signum, stop) for signum in heeded}
    try:
        yield stop
    finally:
        for signum, handler in old.items():
            signal.signal(signum, handler)
