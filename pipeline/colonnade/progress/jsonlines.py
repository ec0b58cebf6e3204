"""JSON lines: one event per line, for programs."""

from __future__ import annotations

import json
import math
import re
import signal
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any, TextIO

from colonnade.errors import has_credentials, sanitize
from colonnade.events import BlockDone, Event, Stopping
from colonnade.formatting import now
from colonnade.limits import EVENT_CHARACTERS
from colonnade.progress.telling import forgiving

__all__ = ["JsonLines"]


class JsonLines:
    """Writes each event as a line of JSON: `time` (UTC), `event`, and the event's own fields."""

    def __init__(self, file: TextIO) -> None:
        self._file = forgiving(file)

    def __call__(self, event: Event) -> None:
        """Write an event."""
        values = {field.name: getattr(event, field.name) for field in fields(event)}
        if isinstance(event, Stopping):
            values["signal"] = signal.Signals(values.pop("signum")).name
        if isinstance(event, BlockDone):
            values |= {key: _time(values[key]) for key in ("started", "ended")}
        self._write(_snake(type(event).__name__), values)

    def error(self, kind: str, message: str, exit_status: int) -> None:
        """Write the error that ends the command."""
        self._write("error", {"error": kind, "message": message, "exit_status": exit_status})

    def _write(self, event: str, values: dict[str, Any]) -> None:
        line = {"time": now("milliseconds"), "event": event}
        line |= {key: _plain(value) for key, value in values.items()}
        self._file.write(json.dumps(line, allow_nan=False) + "\n")
        self._file.flush()


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    # Events may repeat URLs: leave out credentials in them
    if isinstance(value, str) and (has_credentials(value) or len(value) > EVENT_CHARACTERS):
        return sanitize(value, EVENT_CHARACTERS)
    return value


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
