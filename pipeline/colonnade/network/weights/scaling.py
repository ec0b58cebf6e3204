"""Means and standard deviations from the user: numbers, arrays of the weights file, or files."""

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
    """Scaling of X and Y in training: x → (x − mean)/std, y → std y + mean.

    Each is a number, a sequence of numbers, the name of an array in the weights file, or the path
    of a .npy file.
    """

    input_mean: Given = None
    input_std: Given = None
    output_mean: Given = None
    output_std: Given = None

    def names(self) -> set[str]:
        """Return the given names of arrays in the weights file."""
        return {g for g in self if isinstance(g, str) and not g.lower().endswith(".npy")}

    def scales(
        self, arrays: Mapping[str, NDArray[Any]], read: Callable[[str, str], NDArray[Any]]
    ) -> tuple[Scale | None, Scale | None]:
        """Return the scalings before and after the network, or None where none is given.

        Parameters
        ----------
        arrays
            The arrays of the weights file.
        read
            Function that reads a .npy file, given the name of the setting and the path.

        Raises
        ------
        NetworkError
            An array does not exist, or its values are not valid means or standard deviations.
        """
        values = {
            key: _numbers(key, given, arrays, read)
            for key, given in self._asdict().items()
            if given is not None
        }

        def message(side: str) -> str:
            return " and ".join(key for key in values if key.startswith(side))

        before = after = None
        if message("input"):
            mean, std = values.get("input_mean", np.zeros(1)), values.get("input_std", np.ones(1))
            before = Scale(1 / std, -mean / std, message("input"))
        if message("output"):
            mean, std = values.get("output_mean", np.zeros(1)), values.get("output_std", np.ones(1))
            after = Scale(std, mean, message("output"))
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
            raise NetworkError(
                f"{key}: the weights' file holds no array {sanitize(repr(given))}; give numbers, "
                "the name of an array in that file, or the path of a .npy file."
            )
    try:
        found = np.asarray(given)
    except ValueError as error:
        raise NetworkError(f"{key} is not an array of numbers: {error}") from error
    # A matrix with a single row or column is a vector too
    if found.dtype.kind not in "iuf" or found.size < 1 or found.size != max(found.shape, default=1):
        raise NetworkError(
            f"{key} is {found.dtype} of the shape {found.shape}; it must be a real number, or a "
            "vector of them."
        )
    found = found.reshape(-1).astype(np.float64)
    if not np.all(np.isfinite(found)) or (key.endswith("std") and not np.all(found > 0)):
        raise NetworkError(f"{key} must be finite{', and above 0' * key.endswith('std')}.")
    return found
