"""Report on a store in one self-contained page: the job, its speed, and the Jacobians."""

from colonnade.reporting.page import (
    report,
)

__all__ = [
    "report",
]
