"""The counts of a run, and its final event."""

from __future__ import annotations

from colonnade.events import (
    BlockDone,
    BlockFailed,
    Event,
    InputTouched,
    Listener,
    RunFinished,
    StoreGrown,
)
from colonnade.store import RunLog, Store

__all__ = ["Tally"]


class Tally:
    """Counts a run's events and passes them on to the listener."""

    def __init__(self, listener: Listener, x: str) -> None:
        self.failures: list[BlockFailed] = []
        self.log = RunLog()
        self._listener = listener
        self._x = x
        self._touched = False
        self._computed = self._bytes = self._peak_memory = self._new = self._overflowed = 0

    def __call__(self, event: Event) -> None:
        """Count an event, and pass it on."""
        if isinstance(event, BlockDone):
            self._computed += 1
            self._bytes += event.bytes_written
            self._peak_memory = max(self._peak_memory, event.peak_memory)
            self._overflowed += event.nonfinite_results
            if event.touched and not self._touched:
                self._touched = True
                self(InputTouched(self._x))
        elif isinstance(event, BlockFailed):
            self.failures.append(event)
        elif isinstance(event, StoreGrown):
            self._new = event.columns - event.columns_before
        self.log(event)
        self._listener(event)

    def finished(self, path: str, store: Store, seconds: float) -> RunFinished:
        """Report the run's end; messages call its store `path`."""
        record = store.record
        nonfinite, results = record.nonfinite, record.nonfinite_results
        if results is None:
            results = store.nonfinite_results()
        return RunFinished(
            store=path,
            state=record.state,
            columns=store.grid.columns,
            blocks=store.grid.blocks,
            blocks_computed=self._computed,
            blocks_failed=len(self.failures),
            bytes_written=self._bytes,
            nonfinite=store.nonfinite() if nonfinite is None else nonfinite,
            seconds=seconds,
            peak_memory=self._peak_memory,
            columns_new=self._new,
            nonfinite_results=self._overflowed if results is None else results,
            nonfinite_statistics=record.nonfinite_statistics,
        )
