"""Choose the arrays of a file that form X, and the roles of their dimensions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from colonnade.errors import InputError, listed, sanitize
from colonnade.inputs.arrays import Stacked, Stored, Variable
from colonnade.inputs.base import Selection
from colonnade.inputs.matrix import check_dtype, check_matrix
from colonnade.inputs.packing import find_packing
from colonnade.limits import CHUNK_BYTES

__all__ = ["choose", "stack"]

# Number of candidate arrays that a message names
_FEW = 5


def choose(
    path: str,
    held: Callable[[], Iterable[str]],
    get: Callable[[str], Stored | None],
    wanted: Selection,
    *,
    kind: str,
) -> list[Stored]:
    """Choose the arrays of a file that form X.

    Parameters
    ----------
    held
        Function that lists the names of the arrays in the file.
    get
        Function that returns an array by name or path; None if it does not exist.
    kind
        Kind of container, for messages.

    Raises
    ------
    InputError
        A requested array does not exist, or the choice is ambiguous.
    """
    found = []
    for name in wanted.arrays:
        array = get(name)
        if array is None:
            problem = f"there is no array {sanitize(name)!r}"
            break
        found.append(array)
    else:
        if found:
            return found
        arrays = [a for a in map(get, held()) if a is not None]
        could = [a for a in arrays if _could_be(a, wanted)]
        if len(could) == 1:
            return could
        problem = _which(could, arrays, wanted)
    described = []
    for name in sorted(held()):
        array = get(name)
        described += [] if array is None else [f"{name} {_dimensions(array)}"]
    raise InputError(f"{path}: {problem}; the {kind} holds {listed(described) or 'no array'}.")


def _which(could: Sequence[Stored], held: Iterable[Stored], wanted: Selection) -> str:
    """Describe why the choice fails, and which settings resolve it."""
    if could:
        names = sorted(array.name for array in could)
        few = ", ".join(map(sanitize, names[:_FEW])) + ", …" * (len(names) > _FEW)
        message = (
            f"{len(names)} of its arrays could be X ({few}); name it with input.array, or several "
            f"as a list, [{', '.join(map(sanitize, names[:3]))}]"
        )
    elif wanted.named:
        return (
            f"none of its arrays has the dimensions {', '.join(map(sanitize, wanted.named))} that "
            "input.features_dim and input.column_dims name"
        )
    else:
        message = "none of its arrays could be X; name it with input.array"
    # With more than two dimensions, an array's name does not say which are the columns
    if not wanted.named and any(len(array.shape) > 2 and any(array.dims) for array in held):
        message += (
            ", and if it has more than two dimensions, name that of the features with "
            "input.features_dim or those of the columns with input.column_dims"
        )
    return message


def stack(
    path: str,
    arrays: Sequence[Stored],
    wanted: Selection,
    label: Callable[[str], Sequence[str] | None] = lambda _: None,
) -> Stacked:
    """Build X from arrays.

    Parameters
    ----------
    label
        Function that returns the labels along a dimension, or None.

    Raises
    ------
    InputError
        An array is not numeric, or its dimensions do not match those of X.
    """
    variables = [_variable(path, array, wanted) for array in arrays]
    lengths = {variable.lengths for variable in variables}
    if len(lengths) > 1:
        described = [f"{a.name} {_dimensions(a)}" for a in arrays]
        raise InputError(
            f"{path}: the arrays have different columns: {listed(described)}. All dimensions "
            "except that of the features must have the same lengths."
        )
    p, n = math.prod(lengths.pop()), sum(variable.count for variable in variables)
    dtype = np.result_type(*(v.dtype for v in variables)) if len(variables) > 1 else (
        variables[0].dtype
    )  # fmt: skip
    shape = check_matrix((n, p), dtype, f"{path}: ")
    for variable in variables:
        _check_chunks(path, variable)
    return Stacked(path, shape, dtype, tuple(variables), wanted, _names(variables, label))


def _could_be(array: Stored, wanted: Selection) -> bool:
    return set(wanted.named) <= set(array.dims) if wanted.named else len(array.shape) == 2


def _variable(path: str, array: Stored, wanted: Selection) -> Variable:
    place = f"{path}: " if len(wanted.arrays) < 2 else f"{path}: {sanitize(array.name)}: "
    try:
        packing = find_packing(array.dtype, array.attributes)
    except ValueError as error:
        raise InputError(f"{place}{error}.") from error
    if not wanted.named:
        if len(array.shape) != 2 and any(array.dims):
            raise InputError(
                f"{place}X must be a matrix; {sanitize(array.name)} is {_dimensions(array)}. Name "
                "the dimension of the features with input.features_dim; the others, or those of "
                "input.column_dims in that order, are stacked to columns."
            )
        check_matrix(array.shape, array.dtype, place)
        features, columns = (0, 1) if wanted.by_columns else (1, 0)
        return Variable(array, features, (columns,), packing)
    check_dtype(array.dtype, place)
    several = len(wanted.arrays) > 1
    absent = [
        name
        for name in wanted.named
        if name not in array.dims and not (several and name == wanted.features_dim)
    ]
    message = f"{place}{sanitize(array.name)} is {_dimensions(array)}"
    if absent:
        raise InputError(
            f"{message}, and has no dimension {', '.join(map(sanitize, absent))}; correct "
            "input.features_dim or input.column_dims."
        )
    if len(set(array.dims)) < len(array.dims):
        raise InputError(f"{message}, and two of its dimensions have the same name; rename one.")
    axes = {name: axis for axis, name in enumerate(array.dims)}
    rest = [axis for name, axis in axes.items() if name not in wanted.named]
    features_axis = axes.get(wanted.features_dim or "")
    if wanted.column_dims is None:
        chosen = tuple(rest)
    else:
        chosen = tuple(axes[name] for name in wanted.column_dims)
        if wanted.features_dim is None and len(rest) == 1:
            features_axis = rest.pop()
        if rest:
            names = ", ".join(sanitize(str(array.dims[axis])) for axis in rest)
            raise InputError(
                f"{message}; input.features_dim and input.column_dims leave out {names}. Add the "
                "missing dimensions to input.column_dims."
            )
    if not chosen:
        raise InputError(
            f"{message}, and none of its dimensions is left for the columns; X needs at least one."
        )
    return Variable(array, features_axis, chosen, packing)


def _check_chunks(path: str, variable: Variable) -> None:
    """Raise InputError if the columns that share one chunk would take too much memory."""
    size = variable.grid[0] * variable.count * variable.dtype.itemsize
    if variable.stored.chunks is not None and len(variable.columns) > 1 and size > CHUNK_BYTES:
        raise InputError(
            f"{path}: the chunks {variable.stored.chunks} of {sanitize(variable.stored.name)} hold "
            f"columns that lie far apart: to read a chunk only once, {size:,} bytes must be held. "
            f"Store it in chunks of 1 along {sanitize(str(_outermost(variable)))}, or choose "
            "another order of input.column_dims."
        )


def _outermost(variable: Variable) -> str | None:
    axes = [a for a, c in zip(variable.columns, variable.chunk[1], strict=True) if c > 1]
    return variable.stored.dims[axes[0]]


def _names(
    variables: Sequence[Variable],
    label: Callable[[str], Sequence[str] | None],
) -> tuple[str, ...] | None:
    """Name the features by their variables, and by the file's labels along their dimension."""
    names: list[str] = []
    for variable in variables:
        axis = variable.features
        if axis is None:
            names.append(variable.stored.name)
            continue
        dim = variable.stored.dims[axis]
        labels = None if dim is None else label(dim)
        if labels is None or len(labels) != variable.count:
            labels = None if len(variables) == 1 else [str(i) for i in range(variable.count)]
        if labels is None:
            return None
        alone = len(variables) == 1
        names += [each if alone else f"{variable.stored.name}[{each}]" for each in labels]
    return tuple(names)


def _dimensions(array: Stored) -> str:
    if not any(array.dims):
        return str(array.shape)
    pairs = zip(array.dims, array.shape, strict=True)
    return f"({', '.join(f'{name}: {length}' for name, length in pairs)})"
