"""The input matrix X: `open_columns` opens it with the reader of its format."""

from colonnade.inputs.base import InputMatrix
from colonnade.inputs.opening import open_columns

__all__ = [
    "InputMatrix",
    "open_columns",
]
