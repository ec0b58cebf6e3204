"""Assign a file's arrays to W1, b1, W2, b2 and so on, by name or by shape."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import count, islice
from typing import Any

from numpy.typing import NDArray

from colonnade.errors import NetworkError, listed, sanitize
from colonnade.limits import UNNAMED_LAYERS

__all__ = ["SHAPES", "NoWayError", "array_names", "choose", "described"]

SHAPES = "W1 (m, n), b1 (m,), W2 (q, m), b2 (q,), or more layers of that kind"
_REMEDY = "Say which is which with network.names: {W1: …, b1: …, W2: …, b2: …}."
_SCALING = (
    "A scaling of X is named with network.input_mean and network.input_std, one of Y with "
    "network.output_mean and network.output_std."
)


class NoWayError(NetworkError):
    """No assignment of a file's arrays to layers fits their shapes."""


def array_names(layers: int) -> tuple[str, ...]:
    """Return the names of the arrays of so many layers: W1, b1, W2, b2, …."""
    return tuple(f"{letter}{i}" for i in range(1, layers + 1) for letter in "Wb")


def described(arrays: Mapping[str, NDArray[Any]]) -> str:
    """List a file's arrays by name, shape and type."""
    return listed(f"{name} {array.shape} {array.dtype}" for name, array in arrays.items())


def choose(
    arrays: dict[str, NDArray[Any]], names: dict[str, str] | None
) -> dict[str, NDArray[Any]]:
    """Select W1, b1, W2, b2 and so on from the arrays of a file."""
    if names is not None:
        known = array_names(_layers(names))
        if not known or not set(known[::2]) <= set(names) <= set(known):
            raise NetworkError(
                f"network.names gives {listed(names)}; it must give W1, W2 and so on without a "
                "gap, and may give their b1, b2 and so on."
            )
        absent = [
            f"{key} = {sanitize(name)!r}" for key, name in names.items() if name not in arrays
        ]
        if absent:
            raise NetworkError(
                f"network.names asks for {', '.join(absent)}; the file holds {listed(arrays)}."
            )
        return {key: arrays[names[key]] for key in known if key in names}
    known = array_names(_layers(arrays))
    if not known:
        return _choose_by_shape(arrays)
    # Scalars, such as a count of training steps, are not part of a network
    more = {name for name, array in arrays.items() if name not in known and array.ndim > 0}
    if len(known) == 2 and more:
        return _choose_by_shape(arrays)
    if not more:
        return {name: arrays[name] for name in known if name in arrays}
    raise NetworkError(
        f"besides W1 to {known[-1]} there is {listed(sorted(more))}: another layer, a scaling, "
        "or a bias under another name? Ignoring it could change the network. "
        f"The file holds {described(arrays)}. {_SCALING} {_REMEDY}"
    )


def _layers(names: Iterable[str]) -> int:
    """Count the weights W1, W2 and so on, up to the first gap."""
    known = set(names)
    return next(i for i in count() if f"W{i + 1}" not in known)


def _choose_by_shape(arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    matrices = [name for name, array in arrays.items() if array.ndim == 2]
    vectors = [name for name, array in arrays.items() if array.ndim == 1]
    found = f"The file holds {described(arrays) or 'no array'}."
    if (
        not 0 < len(matrices) <= UNNAMED_LAYERS
        or len(vectors) > len(matrices)
        or len(arrays) != len(matrices) + len(vectors)
    ):
        remedy = f"{_SCALING} {_REMEDY}" if len(vectors) > len(matrices) else _REMEDY
        raise NetworkError(
            "a network has a matrix for each layer, two with one hidden layer, and at most as many "
            f"vectors; the arrays of more than {UNNAMED_LAYERS} layers must be named. {found} "
            f"{remedy}"
        )
    ways = list(islice(_ways(arrays, matrices, vectors), 2))
    if len(ways) == 1:
        return {key: arrays[name] for key, name in ways[0].items()}
    if ways:
        raise NetworkError(f"the shapes fit {SHAPES} in more than one way. {found} {_REMEDY}")
    raise NoWayError(f"the shapes fit {SHAPES} in no way. {found} {_REMEDY}")


def _ways(
    arrays: dict[str, NDArray[Any]], matrices: list[str], vectors: list[str]
) -> Iterator[dict[str, str]]:
    """Yield each assignment in which the matrices form a chain and the vectors are its biases."""
    if Counter(arrays[name].shape for name in vectors) - Counter(
        arrays[name].shape[:1] for name in matrices
    ):
        return
    for order in _chains(arrays, [], matrices):
        rows = [arrays[name].shape[0] for name in order]
        weights = {f"W{i}": name for i, name in enumerate(order, start=1)}
        for biases in _biases(arrays, rows, vectors):
            yield weights | {f"b{i + 1}": name for i, name in biases.items()}


def _chains(
    arrays: dict[str, NDArray[Any]], begun: list[str], left: list[str]
) -> Iterator[list[str]]:
    if not left:
        yield begun
    for name in left:
        if not begun or arrays[name].shape[1] == arrays[begun[-1]].shape[0]:
            yield from _chains(arrays, [*begun, name], [other for other in left if other != name])


def _biases(
    arrays: dict[str, NDArray[Any]], rows: list[int], vectors: list[str]
) -> Iterator[dict[int, str]]:
    if not vectors:
        yield {}
        return
    for i, size in enumerate(rows):
        if arrays[vectors[0]].shape == (size,):
            for rest in _biases(arrays, [*rows[:i], -1, *rows[i + 1 :]], vectors[1:]):
                yield {i: vectors[0], **rest}
