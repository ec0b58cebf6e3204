"""The records that a store keeps of its runs: where they ran, how much they did, and how fast."""

from __future__ import annotations

import socket
import time

from pydantic import BaseModel, ConfigDict

from colonnade.events import BlockDone, BlockFailed, ClusterReady, Event
from colonnade.formatting import now

__all__ = ["RunLog", "RunRecord"]

# Columns are counted in this many intervals, whose width doubles when a run outlasts them
_INTERVALS = 64
_SHORTEST = 0.25


class RunRecord(BaseModel):
    """Record of one run. Times in seconds, sizes in bytes.

    Attributes
    ----------
    seconds_read, seconds_compute, seconds_write
        Summed over the blocks, which threads process in parallel.
    peak_memory
        Largest resident set of any worker.
    touched
        Whether X was written to during the run without a change of its fingerprint.
    interval, columns_by_interval
        Seconds of an interval, and columns finished in each, from the run's start on.
    """

    model_config = ConfigDict(frozen=True)
    started: str
    seconds: float
    host: str
    cluster: str
    workers: int
    threads: int
    blocks: int
    failed: int
    columns: int
    bytes: int
    seconds_read: float
    seconds_compute: float
    seconds_write: float
    peak_memory: int
    interval: float
    columns_by_interval: tuple[int, ...]
    touched: bool = False


class RunLog:
    """Collect a run's events in constant memory, and make its record."""

    def __init__(self) -> None:
        self._started = now()
        self._clock = time.monotonic()
        self._ready: ClusterReady | None = None
        self._blocks = self._failed = self._columns = self._bytes = self._peak_memory = 0
        self._read = self._compute = self._write = 0.0
        self._interval = _SHORTEST
        self._by_interval = [0] * _INTERVALS
        self._touched = False

    def __call__(self, event: Event) -> None:
        """Count an event of the run."""
        if isinstance(event, ClusterReady):
            self._ready = event
        elif isinstance(event, BlockFailed):
            self._failed += 1
        elif isinstance(event, BlockDone):
            self._blocks += 1
            self._columns += event.columns
            self._bytes += event.bytes_written
            self._read += event.seconds_read
            self._compute += event.seconds_compute
            self._write += event.seconds_write
            self._peak_memory = max(self._peak_memory, event.peak_memory)
            self._touched = self._touched or event.touched
            self._count(time.monotonic() - self._clock, event.columns)

    def _count(self, seconds: float, columns: int) -> None:
        while seconds >= self._interval * _INTERVALS:
            pairs = zip(self._by_interval[::2], self._by_interval[1::2], strict=True)
            self._by_interval = [a + b for a, b in pairs] + [0] * (_INTERVALS // 2)
            self._interval *= 2
        self._by_interval[int(seconds / self._interval)] += columns

    def record(self) -> RunRecord:
        """Return the record of the run from its start until now."""
        seconds = time.monotonic() - self._clock
        ready = self._ready
        return RunRecord(
            started=self._started,
            seconds=round(seconds, 3),
            host=socket.gethostname(),
            cluster="" if ready is None else ready.kind,
            workers=0 if ready is None else ready.workers,
            threads=0 if ready is None else ready.threads,
            blocks=self._blocks,
            failed=self._failed,
            columns=self._columns,
            bytes=self._bytes,
            seconds_read=round(self._read, 3),
            seconds_compute=round(self._compute, 3),
            seconds_write=round(self._write, 3),
            peak_memory=self._peak_memory,
            interval=self._interval,
            columns_by_interval=tuple(self._by_interval[: int(seconds / self._interval) + 1]),
            touched=self._touched,
        )
