"""Progress and rates of a run."""

from __future__ import annotations

import time

from colonnade.events import BlockDone, ClusterReady, Event, RunStarted

__all__ = ["Meter"]


class Meter:
    """Columns and bytes of this run, and when its first block was started."""

    def __init__(self) -> None:
        self.total = 0
        self.before = 0
        self.columns = 0
        self.bytes = 0
        self.since = time.monotonic()

    def count(self, event: Event) -> None:
        """Take note of an event."""
        if isinstance(event, RunStarted):
            self.total, self.before = event.columns, event.columns_done
        elif isinstance(event, ClusterReady):
            self.since = time.monotonic()
        elif isinstance(event, BlockDone):
            self.columns += event.columns
            self.bytes += event.bytes_written

    @property
    def elapsed(self) -> float:
        """Seconds since the first block was started."""
        return max(time.monotonic() - self.since, 1e-9)

    @property
    def left(self) -> float:
        """Estimated seconds to the end, at the rate so far."""
        missing = self.total - self.before - self.columns
        return missing * self.elapsed / self.columns if self.columns else float("inf")

    @property
    def rates(self) -> str:
        """The rates so far, as text."""
        columns, gigabytes = self.columns / self.elapsed, self.bytes / self.elapsed / 1e9
        return f"{columns:,.0f} columns/s, {gigabytes:.2f} GB/s"
