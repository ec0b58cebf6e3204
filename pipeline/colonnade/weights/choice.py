"""Which of a file's arrays are W1, b1, W2 and b2: by name, or by shape."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice, permutations
from typing import Any

from numpy.typing import NDArray

from colonnade.errors import NetworkError, shown

__all__ = ["ARRAYS", "SHAPES", "NoWayError", "choose", "described", "listed"]

ARRAYS = ("W1", "b1", "W2", "b2")
"""The names of the four arrays, in files, in stores and in the API."""

SHAPES = "W1 (m, n), b1 (m,), W2 (q, m), b2 (q,)"
_REMEDY = "Say which is which with network.names: {W1: …, b1: …, W2: …, b2: …}."


class NoWayError(NetworkError):
    """The shapes of a file's arrays fit in no way."""


def described(arrays: Mapping[str, NDArray[Any]]) -> str:
    """Tell a file's arrays by name, shape and type."""
    return listed(f"{name} {array.shape} {array.dtype}" for name, array in arrays.items())


def listed(texts: Iterable[str]) -> str:
    """Tell the first of a file's arrays: it may hold any number of them, under any names."""
    told = [shown(text) for text in islice(texts, 13)]
    return ", ".join(told if len(told) < 13 else [*told[:12], "…"])


def choose(
    arrays: dict[str, NDArray[Any]], names: dict[str, str] | None
) -> dict[str, NDArray[Any]]:
    """Find W1, b1, W2, b2 among the arrays of a file."""
    if names is not None:
        if not {"W1", "W2"} <= set(names) <= set(ARRAYS):
            raise NetworkError(
                f"network.names gives {', '.join(names)}; it must give W1 and W2, and may give b1 "
                "and b2."
            )
        absent = [f"{key} = {shown(name)!r}" for key, name in names.items() if name not in arrays]
        if absent:
            raise NetworkError(
                f"network.names asks for {', '.join(absent)}; the file holds {listed(arrays)}."
            )
        return {key: arrays[name] for key, name in names.items()}
    if not {"W1", "W2"} <= set(arrays):
        return _choose_by_shape(arrays)
    # A single number, a count of training steps for one, is no part of any network
    more = {name for name, array in arrays.items() if name not in ARRAYS and array.ndim > 0}
    if not more:
        return {name: arrays[name] for name in ARRAYS if name in arrays}
    raise NetworkError(
        f"besides W1, b1, W2 and b2 there is {listed(sorted(more))}: another layer, a scaling, "
        f"a bias under another name? Without it this would be another network. "
        f"The file holds {described(arrays)}. {_REMEDY}"
    )


def _choose_by_shape(arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    matrices = [name for name, array in arrays.items() if array.ndim == 2]
    vectors = [name for name, array in arrays.items() if array.ndim == 1]
    found = f"The file holds {described(arrays) or 'no array'}."
    if len(matrices) != 2 or len(vectors) > 2 or len(arrays) != len(matrices) + len(vectors):
        raise NetworkError(
            f"a network with one hidden layer has two matrices and up to two vectors. "
            f"{found} {_REMEDY}"
        )
    ways = []
    for first, second in permutations(matrices):
        W1, W2 = arrays[first], arrays[second]
        if W2.shape[1] != W1.shape[0]:
            continue
        for b1, b2 in permutations([*vectors, None, None][:2]):
            fits_b1 = b1 is None or arrays[b1].shape == W1.shape[:1]
            fits_b2 = b2 is None or arrays[b2].shape == W2.shape[:1]
            way = {"W1": first, "b1": b1, "W2": second, "b2": b2}
            if fits_b1 and fits_b2 and way not in ways:
                ways.append(way)
    if len(ways) == 1:
        return {key: arrays[name] for key, name in ways[0].items() if name is not None}
    if ways:
        raise NetworkError(f"the shapes fit {SHAPES} in more than one way. {found} {_REMEDY}")
    raise NoWayError(f"the shapes fit {SHAPES} in no way. {found} {_REMEDY}")
