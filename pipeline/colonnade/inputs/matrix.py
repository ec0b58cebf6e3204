"""Checks of X that apply to all formats."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from colonnade.errors import InputError
from colonnade.limits import X_BYTES

__all__ = ["check_dtype", "check_matrix", "nonfinite"]


def check_dtype(dtype: np.dtype[Any], place: str = "") -> None:
    """Raise InputError for a type other than booleans and real numbers of up to 64 bits.

    `place` is a prefix of the message.
    """
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise InputError(
            f"{place}X is of type {dtype}; it must hold real numbers of up to 64 bits."
        )


def check_matrix(shape: tuple[int, ...], dtype: np.dtype[Any], place: str) -> tuple[int, int]:
    """Return the shape; raise InputError unless it is of a non-empty matrix of real numbers."""
    if len(shape) != 2 or min(shape) < 1:
        raise InputError(f"{place}X must be a matrix that is not empty; its shape is {shape}.")
    check_dtype(dtype, place)
    if math.prod(shape) * dtype.itemsize >= X_BYTES:
        raise InputError(f"{place}X of the shape {shape} would take more than 8 EiB.")
    return shape[0], shape[1]


def nonfinite(X: NDArray[Any]) -> NDArray[np.intp]:
    """Return the columns of X, (n, B), that hold NaN or an infinity, in ascending order."""
    if X.dtype.kind != "f":
        return np.empty(0, np.intp)
    return np.flatnonzero(~np.isfinite(X).all(axis=0))
