"""The plan of a run, as a value to look at and to run: pure arithmetic."""

from colonnade.planning.plan import (
    TASKS_PER_SECOND,
    Calibration,
    Capacity,
    Feature,
    Plan,
    Work,
)

__all__ = [
    "TASKS_PER_SECOND",
    "Calibration",
    "Capacity",
    "Feature",
    "Plan",
    "Work",
]
