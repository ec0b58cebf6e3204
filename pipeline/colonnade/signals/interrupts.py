"""Handle Ctrl-C while the command imports its modules, before a run exists.

A process that starts with Ctrl-C ignored, such as a shell's background job, keeps ignoring it.
"""

from __future__ import annotations

import os
import signal

__all__ = ["expect", "leave_to_python"]


def expect() -> None:
    """Exit without a traceback on Ctrl-C."""
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, lambda *_: os._exit(128 + signal.SIGINT))


def leave_to_python() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
