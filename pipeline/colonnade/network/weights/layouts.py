"""Find the layers in a file that holds only arrays, with matrices (out, in) or (in, out)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import count, pairwise
from typing import Any, Literal, get_args

from numpy.typing import NDArray

from colonnade.errors import NetworkError
from colonnade.network.weights.choice import NoWayError, choose
from colonnade.network.weights.steps import Dense, Sigma, Step

__all__ = ["MATRICES", "Matrices", "steps_of_arrays"]

Matrices = Literal["in_by_out", "out_by_in"]
MATRICES: tuple[Matrices, ...] = get_args(Matrices)
"""Allowed storage orders of matrices."""

# The last part of a name: Dense_0/kernel, params.Dense_0.kernel, dense/kernel:0, fc1.weight
_LAST = re.compile(r"(?:^|[^A-Za-z])(kernel|weight)(?::[0-9]+)?['\"\])]*$", re.IGNORECASE)


def steps_of_arrays(
    arrays: Mapping[str, NDArray[Any]],
    names: Mapping[str, str] | None,
    matrices: Matrices | None = None,
    *,
    in_by_out: bool,
) -> list[Step]:
    """Return the layers among the arrays of a file, with unknown activations between them.

    `matrices` states the storage order. Without it, the array names decide: a kernel (Flax, Keras)
    is (in, out), a weight (PyTorch) is (out, in), and other names follow the format's convention,
    `in_by_out`. If the shapes fit only in another order, that one is taken.

    Raises
    ------
    NetworkError
        The arrays cannot be assigned to layers, or the shapes do not fit `matrices`.
    """
    straight = dict(arrays)
    turned = {name: array.T for name, array in arrays.items()}
    chosen = dict(names) if names else None
    if matrices is not None:
        try:
            layers = list(_layers(choose(turned if matrices == "in_by_out" else straight, chosen)))
        except NoWayError as error:
            raise NetworkError(f"with network.matrices: {matrices}, {error}") from None
        if not _fit(layers):
            raise NetworkError(
                f"with network.matrices: {matrices}, the weights have the shapes (out, in) "
                f"{', '.join(str(layer.W.shape) for layer in layers)}, which do not fit each other "
                "or the biases. Leave out network.matrices, or correct network.names."
            )
        return _between(layers)
    kept: list[Dense] = []
    problem: NetworkError | None = None
    for layout in _layouts(straight, turned, in_by_out=in_by_out):
        try:
            layers = list(_layers(choose(layout, chosen)))
        except NoWayError as error:
            # Prefer the message that shows the shapes as stored
            problem = error if layout is straight or problem is None else problem
            continue
        if _fit(layers):
            return _between(layers)
        kept = kept if kept and layout is turned else layers
    if kept:
        return _between(kept)
    raise problem or NetworkError("the file holds no layer.")


def _layouts(
    straight: dict[str, NDArray[Any]], turned: dict[str, NDArray[Any]], *, in_by_out: bool
) -> list[dict[str, NDArray[Any]]]:
    """Return the possible layouts of a file, the likeliest first."""
    by_name = {
        name: _by_name(name, in_by_out=in_by_out)
        for name, array in straight.items()
        if array.ndim == 2
    }
    others = [turned, straight] if in_by_out else [straight, turned]
    if len({*by_name.values()}) < 2:
        return others if {*by_name.values()} <= {in_by_out} else others[::-1]
    mixed = {n: turned[n] if by_name.get(n) else array for n, array in straight.items()}
    return [mixed, *others]


def _by_name(name: str, *, in_by_out: bool) -> bool:
    """Return whether a matrix is (in, out), by its name or else by the convention."""
    found = _LAST.search(name)
    return in_by_out if found is None else found[1].lower() == "kernel"


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
