"""Show a run's events: a bar on a terminal, plain lines elsewhere; JSON lines; metrics."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from colonnade.events import Listener
from colonnade.progress.bar import bar
from colonnade.progress.jsonlines import JsonLines
from colonnade.progress.lines import Lines
from colonnade.progress.telling import forgiving

__all__ = [
    "LOGS",
    "listening",
]

LOGS = ("auto", "bar", "plain", "json")
"""Ways to show a run on stderr; auto is a bar on a terminal, and plain lines elsewhere."""


@contextmanager
def listening(log: str = "auto") -> Iterator[Listener]:
    """Yield a listener that shows a run on stderr, in one of the ways of `LOGS`."""
    if log == "json":
        yield JsonLines(sys.stderr)
        return
    console = Console(file=forgiving(sys.stderr), force_terminal=True if log == "bar" else None)
    if console.is_terminal and log != "plain":
        with bar(console) as listener:
            yield listener
        return
    lines = Lines(console)
    try:
        yield lines
    finally:
        lines.end()
