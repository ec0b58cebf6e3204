"""A store as one self-contained page: what was run, how fast, and what the Jacobians look like."""

from colonnade.reporting.page import (
    report,
)

__all__ = [
    "report",
]
