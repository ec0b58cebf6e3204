"""Read the labels along a dimension as texts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from colonnade.limits import LABEL_BYTES, LABELS

__all__ = ["labels"]


def labels(length: int, dtype: np.dtype[Any], read: Callable[[], Any]) -> tuple[str, ...] | None:
    """Read a coordinate's labels; return None if they are too many, too long or of another type."""
    if length > LABELS or dtype.itemsize > LABEL_BYTES:
        return None
    if dtype.kind in "UT":
        return tuple(str(value) for value in read())
    if dtype.kind == "S":
        return tuple(bytes(value).decode(errors="replace") for value in read())
    if dtype.kind in "iu":
        return tuple(str(int(value)) for value in read())
    if dtype.kind == "f":
        return tuple(_number(value) for value in read())
    return None


def _number(value: Any) -> str:
    """Format a number with the digits that its type has: 0.1, not 0.10000000149; 850, not 850.0."""
    return repr(float(str(value))).removesuffix(".0")
