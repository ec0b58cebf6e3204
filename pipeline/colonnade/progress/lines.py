"""Plain lines of progress, at intervals."""

from __future__ import annotations

import time

from rich.console import Console

from colonnade.events import BlockChecked, BlockDone, Event, RunFinished
from colonnade.progress.meter import Meter
from colonnade.progress.telling import Few, describe

__all__ = ["Lines"]

# Seconds between two lines of progress
_EVERY = 5.0


class Lines:
    """Prints each event as a line on a console; of finished blocks, only the progress."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._meter = Meter()
        self._few = Few()
        self._next = 0.0
        self._next_checked = time.monotonic() + _EVERY

    def __call__(self, event: Event) -> None:
        """Print an event, or count it."""
        self._meter.count(event)
        if isinstance(event, BlockChecked):
            if time.monotonic() >= self._next_checked:
                self._next_checked = time.monotonic() + _EVERY
                self._say(describe(event))
        elif not isinstance(event, BlockDone | RunFinished):
            if self._few.lets(event):
                self._say(describe(event))
        elif isinstance(event, BlockDone) and time.monotonic() >= self._next:
            self._next = time.monotonic() + _EVERY
            meter = self._meter
            done = meter.before + meter.columns
            self._say(
                f"{done:,} of {meter.total:,} columns ({done / meter.total:.0%}), "
                f"{meter.rates}, {meter.left:.0f} s left"
            )

    def end(self) -> None:
        """Print how many events were left out."""
        for line in self._few.rest():
            self._say(line)

    def _say(self, line: str) -> None:
        self._console.print(line, soft_wrap=True, highlight=False, markup=False)
