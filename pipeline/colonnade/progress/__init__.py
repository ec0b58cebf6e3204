"""Show a run's events: a bar on a terminal, plain lines elsewhere; JSON lines; metrics."""

from colonnade.progress.jsonlines import JsonLines
from colonnade.progress.log import LOGS, listening
from colonnade.progress.metrics import measuring
from colonnade.progress.telling import describe, forgiving

__all__ = [
    "LOGS",
    "JsonLines",
    "describe",
    "forgiving",
    "listening",
    "measuring",
]
