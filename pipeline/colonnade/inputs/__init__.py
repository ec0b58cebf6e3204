"""Where X comes from: one small reader a format, behind `open_columns`."""

from colonnade.inputs.opening import (
    InputMatrix,
    open_columns,
)

__all__ = [
    "InputMatrix",
    "open_columns",
]
