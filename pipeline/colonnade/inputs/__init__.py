"""Where X comes from: one small reader a format, behind `open_columns`."""

from colonnade.inputs.opening import (
    Columns,
    open_columns,
)

__all__ = [
    "Columns",
    "open_columns",
]
