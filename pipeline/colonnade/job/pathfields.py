"""Fields in output.path, such as {date}: a store a night."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime

__all__ = ["FIELD", "KNOWN", "VARIABLE", "moment", "value"]

VARIABLE = "COLONNADE_DATE"
"""The environment's variable that says which night it is, where it is not today's."""

FIELD = r"\{[^{}]*\}"
KNOWN = r"\$\{[^{}]*\}|\{\{|\}\}|\{(year|month|day|job|(date|time)(:[^{}]+)?)\}"
"""What braces may be a part of, ${VAR} included; for the JSON Schema."""

_FORMATS = {
    "date": "%Y-%m-%d",
    "time": "%H%M%S",
    "year": "%Y",
    "month": "%m",
    "day": "%d",
}
# What is the same in every locale
_DIRECTIVES = "YmdHMSjGVuy"


def moment() -> datetime:
    """Tell the time that fields stand for, in UTC: `COLONNADE_DATE`, or now.

    Raises
    ------
    ValueError
        What the environment has there is no date.
    """
    given = os.environ.get(VARIABLE)
    if not given:
        return datetime.now(UTC)
    try:
        found = datetime.fromisoformat(given)
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError(
            f"the environment's {VARIABLE} is no date such as 2026-03-01 or 2026-03-01T23:59:00Z"
        ) from None


def value(field: str, when: datetime, job: str | None) -> str:
    """Tell what a field stands for.

    Parameters
    ----------
    field
        As it is written, in braces.
    when
        The time of the run.
    job
        The job file's name without its ending; None where the job is no file.

    Raises
    ------
    ValueError
        It is not known, or its format is not.
    """
    name, colon, form = field[1:-1].partition(":")
    if name == "job" and not colon:
        if job is None:
            raise ValueError("{job} is a job file's name, and this job is no file")
        return job
    if name not in _FORMATS or (colon and name not in ("date", "time")):
        known = ", ".join(f"{{{known}}}" for known in (*_FORMATS, "job"))
        raise ValueError(
            f"known: {known}, and {{date:%Y/%m/%d}} or the like; a brace itself is written twice"
        )
    form = form if colon else _FORMATS[name]
    if not form or re.sub(rf"%[{_DIRECTIVES}]", "", form).count("%"):
        raise ValueError(f"a format has {', '.join('%' + d for d in _DIRECTIVES)}")
    return when.strftime(form)
