"""Means and standard deviations that a user gives: numbers, an array of the file, or a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from colonnade.errors import NetworkError, sanitize
from colonnade.network.weights.steps import Scale

__all__ = ["Given", "Scaling"]

Given: TypeAlias = ArrayLike | None


class Scaling(NamedTuple):
    """What the network's X and Y were scaled with: x → (x − mean)/std, y → std y + mean.

    Each is a number, numbers, the name of an array in the weights' file, or a .npy file's path.
    """

    input_mean: Given = None
    input_std: Given = None
    output_mean: Given = None
    output_std: Given = None

    def names(self) -> set[str]:
        """Names of arrays in the weights' file."""
        return {g for g in self if isinstance(g, str) and not g.lower().endswith(".npy")}

    def scales(
        self, arrays: Mapping[str, NDArray[Any]], read: Callable[[str, str], NDArray[Any]]
    ) -> tuple[Scale | None, Scale | None]:
        """Return what comes before the network and what comes after it.

        Parameters
        ----------
        arrays
            Of the weights' file.
        read
            Reads a .npy file, given what it is for and its path.

        Raises
        ------
        NetworkError
            There is no such array, or its numbers are no means and standard deviations.
        """
        values = {
            key: _numbers(key, given, arrays, read)
            for key, given in self._asdict().items()
            if given is not None
        }

        def told(side: str) -> str:
            return " and ".join(key for key in values if key.startswith(side))

        before = after = None
        if told("input"):
            mean, std = values.get("input_mean", np.zeros(1)), values.get("input_std", np.ones(1))
            before = Scale(1 / std, -mean / std, told("input"))
        if told("output"):
            mean, std = values.get("output_mean", np.zeros(1)), values.get("output_std", np.ones(1))
            after = Scale(std, mean, told("output"))
        return before, after


def _numbers(
    key: str,
    given: Any,
    arrays: Mapping[str, NDArray[Any]],
    read: Callable[[str, str], NDArray[Any]],
) -> NDArray[np.float64]:
    if isinstance(given, str):
        if given.lower().endswith(".npy"):
            given = read(key, given)
        elif given in arrays:
            given = arrays[given]
        else:
            raise NetworkError(f"{key}: the weights' file holds no array {sanitize(repr(given))}.")
    try:
        found = np.asarray(given)
    except ValueError as error:
        raise NetworkError(f"{key} is no array of numbers: {error}") from error
    # one row, or one column, of a matrix as well
    if found.dtype.kind not in "iuf" or found.size < 1 or found.size != max(found.shape, default=1):
        raise NetworkError(
            f"{key} is {found.dtype} of the shape {found.shape}; it must be numbers."
        )
    found = found.reshape(-1).astype(np.float64)
    if not np.all(np.isfinite(found)) or (key.endswith("std") and not np.all(found > 0)):
        raise NetworkError(f"{key} must be finite{', and above 0' * key.endswith('std')}.")
    return found
