"""What every queue's hand-over has in common."""

from __future__ import annotations

from typing import Protocol

__all__ = ["PATIENCE", "POLL", "Handover"]

POLL = 2.0
"""Seconds between two questions to a queue."""
PATIENCE = 60
"""Questions in a row that a queue may leave without an answer."""


class Handover(Protocol):
    """A job as a queue takes it."""

    @property
    def text(self) -> str:
        """What is handed over, as the queue's own tools would take it."""
        ...

    def submit(self) -> str:
        """Hand it over, and return the queue's id of the job."""
        ...

    def log(self, job_id: str) -> str:
        """Tell where the run's log is."""
        ...

    def follow(self, job_id: str) -> int | None:
        """Wait until the job has ended; return the run's exit status, if it left one."""
        ...
