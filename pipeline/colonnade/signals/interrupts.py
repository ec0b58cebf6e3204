"""Ctrl-C while the command imports its modules, before there is anything to stop.

A process that was started with Ctrl-C ignored, as a shell starts a job in the background, goes on
ignoring it.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

__all__ = ["expect", "leave_to_python"]


def expect() -> None:
    """End without a traceback at Ctrl-C, if this process is the command's."""
    given = sys.orig_argv
    as_module = "-m" in given[:-1] and given[given.index("-m") + 1] == "colonnade"
    ours = as_module or Path(sys.argv[0]).name == "colonnade"
    if ours and signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, lambda *_: os._exit(128 + signal.SIGINT))


def leave_to_python() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
