"""Turn signals into an orderly end of a run."""

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
    """A signal handler that remembers the signal, because its exception may get lost.

    Python drops an exception that is raised within a finaliser or a weak reference's callback.

    Attributes
    ----------
    signum
        The last signal received; None before the first.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._waits = False
        self._at_once = False

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        del frame
        self._at_once = not self._waits or self.signum is not None
        self.signum = signum
        self.check()

    def check(self) -> None:
        """Raise StoppedError if a signal requires an immediate stop."""
        if self._at_once:
            self.stop("the same command computes what is missing.")

    def stop(self, message: str) -> None:
        """Raise StoppedError with a message if a signal was received."""
        if self.signum is not None:
            raise StoppedError(self.signum, message)

    @contextmanager
    def politely(self) -> Iterator[None]:
        """Let the block poll `signum` instead of raising; a second signal raises all the same."""
        self._waits = True
        try:
            yield
        finally:
            self._waits = False


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Turn signals into StoppedError, so that the cluster is closed on the way out.

    A signal that this process ignores stays ignored: `nohup` and shells that start background jobs
    rely on that.
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
