"""Fields in output.path, such as {date}, which gives a new store each day."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime

__all__ = ["FIELD", "KNOWN", "VARIABLE", "moment", "value"]

VARIABLE = "COLONNADE_DATE"
"""Environment variable with the time that fields stand for, if it is not the current time."""

FIELD = r"\{[^{}]*\}"
KNOWN = r"\$\{[^{}]*\}|\{\{|\}\}|\{(year|month|day|job|(date|time)(:[^{}]+)?)\}"
"""Texts that may contain braces, including ${VAR}; for the JSON Schema."""

_FORMATS = {
    "date": "%Y-%m-%d",
    "time": "%H%M%S",
    "year": "%Y",
    "month": "%m",
    "day": "%d",
}
# Directives with the same result in every locale
_DIRECTIVES = "YmdHMSjGVuy"


def moment() -> datetime:
    """Return the time that fields stand for, in UTC: `COLONNADE_DATE`, or now.

    Raises
    ------
    ValueError
        The value of `COLONNADE_DATE` is not a date.
    """
    given = os.environ.get(VARIABLE)
    if not given:
        return datetime.now(UTC)
    try:
        found = datetime.fromisoformat(given)
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError(
            f"the environment variable {VARIABLE} is not a date; set it to one such as 2026-03-01 "
            "or 2026-03-01T23:59:00Z, or unset it"
        ) from None


def value(field: str, when: datetime, job: str | None) -> str:
    """Return the text that a field stands for.

    Parameters
    ----------
    field
        The field as written, with braces.
    when
        The time of the run.
    job
        The job file's name without its suffix; None if the job is not a file.

    Raises
    ------
    ValueError
        The field or its format is unknown.
    """
    name, colon, form = field[1:-1].partition(":")
    if name == "job" and not colon:
        if job is None:
            raise ValueError(
                "{job} is a job file's name, but this job is not a file; write the name itself"
            )
        return job
    if name not in _FORMATS or (colon and name not in ("date", "time")):
        known = ", ".join(f"{{{known}}}" for known in (*_FORMATS, "job"))
        raise ValueError(
            f"known: {known}, and formats such as {{date:%Y/%m/%d}}; write a literal brace twice"
        )
    form = form if colon else _FORMATS[name]
    if not form or re.sub(rf"%[{_DIRECTIVES}]", "", form).count("%"):
        raise ValueError(f"a format may use {', '.join('%' + d for d in _DIRECTIVES)}")
    return when.strftime(form)
