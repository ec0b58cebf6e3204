"""The interface that submissions to all queues share."""

from __future__ import annotations

from typing import Protocol

__all__ = ["PATIENCE", "POLL", "Handover"]

POLL = 2.0
"""Seconds between two queries to a queue."""
PATIENCE = 60
"""Number of consecutive queries that a queue may leave unanswered."""


class Handover(Protocol):
    """A job in the form that a queue accepts."""

    @property
    def text(self) -> str:
        """The text to submit, as the queue's own tools accept it."""
        ...

    def submit(self) -> str:
        """Submit the job, and return the queue's id of the job."""
        ...

    def log(self, job_id: str) -> str:
        """Return where the run's log is."""
        ...

    def follow(self, job_id: str) -> int | None:
        """Wait until the job has ended; return the run's exit status, if it left one."""
        ...
