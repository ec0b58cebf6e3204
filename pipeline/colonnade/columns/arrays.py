"""X from arrays of any number of dimensions: some of these are its columns, one its features."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from colonnade.columns.base import Source, Wanted
from colonnade.columns.packing import Packing, find_packing
from colonnade.errors import InputError, shown
from colonnade.matrix import check_dtype, check_matrix
from colonnade.npyfile import PAGE
from colonnade.sampling import Piece

__all__ = ["Stacked", "Stored", "Variable", "choose", "stack"]

# A chunk is decoded whole for a single column, and with it all chunks that hold parts of the same
# columns and of those between them
MOST_CHUNK_BYTES = 2**31

Box = tuple[slice, ...]


@dataclass(frozen=True)
class Stored(ABC):
    """An array of a file, of any number of dimensions.

    Attributes
    ----------
    chunks
        What is read for a single number; None where it lies number by number.
    dims
        Names of its dimensions, as far as they have any.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: tuple[int, ...] | None
    dims: tuple[str | None, ...]
    attributes: Mapping[str, Any]

    @abstractmethod
    def read(self, box: Box) -> NDArray[Any]:
        """Read a part of it, as it is stored."""

    @abstractmethod
    def check(self) -> None:
        """Raise where it has gone or changed."""

    @property
    @abstractmethod
    def storage(self) -> dict[str, Any]:
        """How it is stored."""


@dataclass(frozen=True)
class Variable:
    """An array as features of X.

    Attributes
    ----------
    features
        Its axis of features; None: the array is one feature.
    columns
        Its axes of columns, in the order in which they are stacked, the last the fastest.
    """

    stored: Stored
    features: int | None
    columns: tuple[int, ...]
    packing: Packing | None

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of its numbers."""
        return self.packing.dtype if self.packing else self.stored.dtype

    @property
    def count(self) -> int:
        """How many features it is."""
        return 1 if self.features is None else self.stored.shape[self.features]

    @property
    def lengths(self) -> tuple[int, ...]:
        """Of the dimensions of its columns."""
        return tuple(self.stored.shape[axis] for axis in self.columns)

    @cached_property
    def chunk(self) -> tuple[int, tuple[int, ...]]:
        """Features, and columns in each of their dimensions, that are read at once."""
        chunks = self.stored.chunks or (1,) * len(self.stored.shape)
        features = 1 if self.features is None else chunks[self.features]
        return features, tuple(chunks[axis] for axis in self.columns)

    @cached_property
    def grid(self) -> tuple[int, int]:
        """Columns of which no chunk holds others as well, and after how many that begins anew."""
        lengths, chunks = self.lengths, self.chunk[1]
        for axis, (length, chunk) in enumerate(zip(lengths, chunks, strict=True)):
            if min(chunk, length) > 1:
                inner = math.prod(lengths[axis + 1 :])
                return min(chunk, length) * inner, length * inner
        return 1, 1

    @cached_property
    def piece(self) -> Piece:
        """Features and columns of one chunk that lie next to each other."""
        features, chunks = self.chunk
        together = 1
        for length, chunk in zip(reversed(self.lengths), reversed(chunks), strict=True):
            together *= min(chunk, length)
            if chunk < length:
                break
        size = math.prod(self.stored.chunks or ()) * self.stored.dtype.itemsize
        return Piece(features, together, max(size, PAGE))

    def window(self, features: slice, start: int, stop: int) -> NDArray[Any]:
        """Read some of its features, of columns: (features, stop - start)."""
        axes = self.columns if self.features is None else (self.features, *self.columns)
        order = tuple(sorted(axes).index(axis) for axis in axes)
        parts = []
        for box in _boxes(self.lengths, start, stop):
            place: dict[int, slice] = dict(zip(self.columns, box, strict=True))
            if self.features is not None:
                place[self.features] = features
            read = self.stored.read(tuple(place[axis] for axis in range(len(place))))
            parts.append(read.transpose(order).reshape(features.stop - features.start, -1))
        if not parts:
            parts = [np.empty((features.stop - features.start, 0), self.stored.dtype)]
        values = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
        return self.packing.unpack(values) if self.packing else values


@dataclass(frozen=True)
class Stacked(Source):
    """X from one array, or from several whose features lie below each other."""

    variables: tuple[Variable, ...]
    wanted: Wanted
    names: tuple[str, ...] | None

    @property
    def described(self) -> str:
        """The shapes as they are stored, and how they are read."""
        if self.wanted.named or len(self.variables) > 1:
            told = [f"{v.stored.name} {v.stored.shape}" for v in self.variables]
            return f"{self.shape} of {_listed(told)}"
        way = "features_by_columns" if self.wanted.by_columns else "columns_by_features"
        return f"{self.variables[0].stored.shape}, read as {way}"

    @property
    def feature_names(self) -> tuple[str, ...] | None:
        """Names of the features, where the file tells them."""
        return self.names

    @property
    def storage(self) -> dict[str, Any]:
        """What the file says of chunks and codecs, and which dimensions are what."""
        said = [v.stored.storage | (v.packing.said if v.packing else {}) for v in self.variables]
        found = said[0]
        if len(said) > 1:
            found = {"format": said[0]["format"], "arrays": said}
        if self.wanted.named:
            dims = self.variables[0].stored.dims
            found["column_dims"] = [dims[axis] for axis in self.variables[0].columns]
            found["features_dim"] = self.wanted.features_dim
        return found

    @property
    def chunk_columns(self) -> int:
        """Columns of the widest chunks, and of those that hold parts of the same columns."""
        return max(variable.grid[0] for variable in self.variables)

    @property
    def copies(self) -> int:
        """The array; as it is packed, or before it is put to others."""
        joined = len(self.variables) > 1
        return 1 + (joined or any(v.packing or len(v.columns) > 1 for v in self.variables))

    @property
    def piece(self) -> Piece:
        """The least of what is read at once, and the most bytes that it takes."""
        pieces = [variable.piece for variable in self.variables]
        return Piece(
            min(piece.features for piece in pieces),
            min(piece.columns for piece in pieces),
            max(piece.bytes for piece in pieces),
        )

    def span(self, start: int, stop: int) -> tuple[int, int]:
        """Columns that are read together with these: whole chunks."""
        unit, period = max(variable.grid for variable in self.variables)
        lo = start // period * period + start % period // unit * unit
        last = (stop - 1) % period // unit * unit + unit
        return lo, (stop - 1) // period * period + min(last, period)

    def window(self, features: slice, start: int, stop: int) -> NDArray[Any]:
        """Read neighbouring features of some columns."""
        if len(self.variables) == 1:
            return self.variables[0].window(features, start, stop)
        values = np.empty((features.stop - features.start, stop - start), self.dtype)
        ends = list(accumulate(variable.count for variable in self.variables))
        for variable, end in zip(self.variables, ends, strict=True):
            first = end - variable.count
            lo, hi = max(features.start, first), min(features.stop, end)
            if lo < hi:
                read = variable.window(slice(lo - first, hi - first), start, stop)
                values[lo - features.start : hi - features.start] = read
        return values

    def check(self) -> None:
        """Look at the arrays again."""
        for variable in self.variables:
            variable.stored.check()


def choose(
    path: str,
    held: Callable[[], Iterable[str]],
    get: Callable[[str], Stored | None],
    wanted: Wanted,
    *,
    kind: str,
) -> list[Stored]:
    """Choose the arrays that are X from those of a file.

    Parameters
    ----------
    held
        Lists the names of the arrays that it holds.
    get
        Finds one by its name, or by its path; None where there is none.
    kind
        What holds them, for the error's text.

    Raises
    ------
    InputError
        One that is asked for is not there, or which is meant cannot be told.
    """
    found = []
    for name in wanted.arrays:
        array = get(name)
        if array is None:
            problem = f"there is no array {shown(name)!r}"
            break
        found.append(array)
    else:
        if found:
            return found
        could = [
            a for a in (get(name) for name in held()) if a is not None and _could_be(a, wanted)
        ]
        if len(could) == 1:
            return could
        problem = f"{len(could) or 'none'} of its arrays could be X; name it with input.array"
    told = []
    for name in sorted(held()):
        array = get(name)
        told += [] if array is None else [f"{name} {_dimensions(array)}"]
    raise InputError(f"{path}: {problem}; the {kind} holds {_listed(told) or 'no array'}.")


def stack(
    path: str,
    arrays: Sequence[Stored],
    wanted: Wanted,
    label: Callable[[str], Sequence[str] | None] = lambda _: None,
) -> Stacked:
    """Make X of arrays.

    Parameters
    ----------
    label
        Tells what the file has as labels along a dimension, if anything.

    Raises
    ------
    InputError
        They are no numbers, or their dimensions are not those of X.
    """
    variables = [_variable(path, array, wanted) for array in arrays]
    lengths = {variable.lengths for variable in variables}
    if len(lengths) > 1:
        told = [f"{a.name} {_dimensions(a)}" for a in arrays]
        raise InputError(f"{path}: the arrays have different columns: {_listed(told)}.")
    p, n = math.prod(lengths.pop()), sum(variable.count for variable in variables)
    dtype = np.result_type(*(v.dtype for v in variables)) if len(variables) > 1 else (
        variables[0].dtype
    )  # fmt: skip
    shape = check_matrix((n, p), dtype, f"{path}: ")
    for variable in variables:
        _check_chunks(path, variable)
    return Stacked(path, shape, dtype, tuple(variables), wanted, _names(variables, label))


def _could_be(array: Stored, wanted: Wanted) -> bool:
    return set(wanted.named) <= set(array.dims) if wanted.named else len(array.shape) == 2


def _variable(path: str, array: Stored, wanted: Wanted) -> Variable:
    place = f"{path}: " if len(wanted.arrays) < 2 else f"{path}: {shown(array.name)}: "
    try:
        packing = find_packing(array.dtype, array.attributes)
    except ValueError as error:
        raise InputError(f"{place}{error}.") from error
    if not wanted.named:
        if len(array.shape) != 2 and any(array.dims):
            raise InputError(
                f"{place}X must be a matrix; {shown(array.name)} is {_dimensions(array)}. Say "
                "which dimension holds the features with input.features_dim; the others, or those "
                "of input.column_dims in that order, are stacked to columns."
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
    told = f"{place}{shown(array.name)} is {_dimensions(array)}"
    if absent:
        raise InputError(f"{told}, and has no dimension {', '.join(map(shown, absent))}.")
    if len(set(array.dims)) < len(array.dims):
        raise InputError(f"{told}, and two of its dimensions have one name.")
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
            names = ", ".join(shown(str(array.dims[axis])) for axis in rest)
            raise InputError(f"{told}; input.features_dim and input.column_dims leave out {names}.")
    if not chosen:
        raise InputError(f"{told}, and none of its dimensions is left for the columns.")
    return Variable(array, features_axis, chosen, packing)


def _check_chunks(path: str, variable: Variable) -> None:
    """Raise InputError where the columns of one chunk would take an absurd amount of memory."""
    size = variable.grid[0] * variable.count * variable.dtype.itemsize
    if variable.stored.chunks is not None and len(variable.columns) > 1 and size > MOST_CHUNK_BYTES:
        raise InputError(
            f"{path}: the chunks {variable.stored.chunks} of {shown(variable.stored.name)} hold "
            f"columns that lie far apart: to read one of them once, {size:,} bytes must be held. "
            f"Store it in chunks of 1 along {shown(str(_outermost(variable)))}, or choose another "
            "order of input.column_dims."
        )


def _outermost(variable: Variable) -> str | None:
    axes = [a for a, c in zip(variable.columns, variable.chunk[1], strict=True) if c > 1]
    return variable.stored.dims[axes[0]]


def _names(
    variables: Sequence[Variable],
    label: Callable[[str], Sequence[str] | None],
) -> tuple[str, ...] | None:
    """Name the features by their variables, and by what the file has along their dimension."""
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
    return tuple(names) if len(set(names)) == len(names) else None


def _boxes(lengths: tuple[int, ...], start: int, stop: int) -> list[Box]:
    """Cut a range of columns, of dimensions of these lengths, into boxes, in their order."""
    if start >= stop:
        return []
    if len(lengths) == 1:
        return [(slice(start, stop),)]
    inner = math.prod(lengths[1:])
    found: list[Box] = []
    while start < stop:
        at, offset = divmod(start, inner)
        whole = stop // inner
        if offset == 0 and whole > at:
            found.append((slice(at, whole), *(slice(0, length) for length in lengths[1:])))
            start = whole * inner
            continue
        end = min(stop - at * inner, inner)
        found += [(slice(at, at + 1), *box) for box in _boxes(lengths[1:], offset, end)]
        start = at * inner + end
    return found


def _dimensions(array: Stored) -> str:
    if not any(array.dims):
        return str(array.shape)
    pairs = zip(array.dims, array.shape, strict=True)
    return f"({', '.join(f'{name}: {length}' for name, length in pairs)})"


def _listed(texts: Sequence[str]) -> str:
    told = [shown(text) for text in texts]
    return ", ".join([*told[:12], "…"] if len(told) > 12 else told)
