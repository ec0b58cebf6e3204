"""Layers from arrays alone, whose matrices are (out, in) or (in, out)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import count, pairwise
from typing import Any

from numpy.typing import NDArray

from colonnade.errors import NetworkError
from colonnade.weights.choice import NoWayError, choose
from colonnade.weights.steps import Dense, Sigma, Step

__all__ = ["steps_of_arrays"]


def steps_of_arrays(
    arrays: Mapping[str, NDArray[Any]], names: Mapping[str, str] | None, *, in_by_out: bool
) -> list[Step]:
    """Find the layers among the arrays of a file, and tell that nonlinearities lie in between.

    All matrices are stored in one layout. Shapes tell which; where they fit both, `in_by_out`
    does.

    Raises
    ------
    NetworkError
        Which array is which cannot be told.
    """
    straight = dict(arrays)
    turned = {name: array.T for name, array in arrays.items()}
    kept: list[Dense] = []
    problem: NetworkError | None = None
    for layout in (turned, straight) if in_by_out else (straight, turned):
        try:
            layers = list(_layers(choose(layout, dict(names) if names else None)))
        except NoWayError as error:
            # told as the file holds it
            problem = error if layout is straight or problem is None else problem
            continue
        if _fit(layers):
            return _between(layers)
        kept = kept if kept and layout is turned else layers
    if kept:
        return _between(kept)
    raise problem or NetworkError("it holds no layer.")


def _layers(found: Mapping[str, NDArray[Any]]) -> Iterator[Dense]:
    for i in count(1):
        if f"W{i}" not in found:
            return
        yield Dense(found[f"W{i}"], found.get(f"b{i}"))


def _fit(layers: list[Dense]) -> bool:
    return all(
        layer.W.ndim == 2 and (layer.b is None or layer.b.shape == layer.W.shape[:1])
        for layer in layers
    ) and all(after.W.shape[1] == before.W.shape[0] for before, after in pairwise(layers))


def _between(layers: list[Dense]) -> list[Step]:
    steps: list[Step] = []
    for layer in layers:
        steps += [Sigma(None)] * bool(steps)
        steps.append(layer)
    return steps
