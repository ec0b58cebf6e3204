"""Ctrl-C while the command imports its modules, before there is anything to stop.

A process that was started with Ctrl-C ignored, as a shell starts a job in the background, goes on
ignoring it.
"""

from __future__ import annotations

import os
import signal

__all__ = ["expect", "leave_to_python"]


def expect() -> None:
    """End without a traceback at Ctrl-C."""
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, lambda *_: os._exit(128 + signal.SIGINT))


def leave_to_python() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
