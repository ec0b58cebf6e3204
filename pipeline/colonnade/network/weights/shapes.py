"""Check that arrays have the shapes and types of a network."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from colonnade.errors import NetworkError
from colonnade.network.weights.choice import SHAPES, described

__all__ = ["as_array", "check_shapes", "common_dtype"]


def as_array(name: str, given: ArrayLike | None) -> NDArray[Any]:
    """Convert to an array; raise NetworkError if that fails."""
    try:
        return np.asarray(given)
    except ValueError as error:
        raise NetworkError(f"{name} is not an array of numbers: {error}") from error


def check_shapes(arrays: Mapping[str, NDArray[Any]], count: int) -> None:
    """Raise NetworkError unless the arrays, W1 to W<count> and biases, form a chain of layers."""
    weights = [arrays[f"W{i}"] for i in range(1, count + 1)]
    matrices = count > 0 and all(W.ndim == 2 and min(W.shape) > 0 for W in weights)
    if (
        matrices
        and all(after.shape[1] == before.shape[0] for before, after in pairwise(weights))
        and all(
            array.shape == arrays[f"W{name[1:]}"].shape[:1]
            for name, array in arrays.items()
            if name[0] == "b"
        )
    ):
        return
    hints = []
    for i, (before, after) in enumerate(pairwise(weights), start=1):
        if before.ndim == after.ndim == 2 and after.shape[1] != before.shape[0]:
            hints.append(
                f"W{i + 1} has {after.shape[1]} columns where W{i} has {before.shape[0]} rows "
                "(hidden units)"
            )
            if after.shape[0] == before.shape[1]:
                hints.append("both may be stored input × output: transpose them")
    hint = f" {'; '.join(hints)}." if hints else ""
    raise NetworkError(
        f"these shapes are not those of a network: {described(arrays) or 'no layer'}; "
        f"expected {SHAPES}, none of them empty.{hint}"
    )


def common_dtype(arrays: Mapping[str, NDArray[Any]]) -> np.dtype[Any]:
    """Return float32 or float64 for all arrays; NetworkError if one does not hold real numbers."""
    for name, array in arrays.items():
        if array.dtype.kind not in "iuf" or array.dtype.itemsize > 8:
            raise NetworkError(
                f"{name} is of type {array.dtype}; weights must be real numbers of up to 64 bits."
            )
    return np.result_type(np.float32, *(array.dtype for array in arrays.values()))
