"""Show a run's events: a bar on a terminal, plain lines elsewhere; JSON lines; metrics."""

from colonnade.progress.log import (
    LOGS,
    JsonLines,
    describe,
    forgiving,
    listening,
    measuring,
)

__all__ = [
    "LOGS",
    "JsonLines",
    "describe",
    "forgiving",
    "listening",
    "measuring",
]
