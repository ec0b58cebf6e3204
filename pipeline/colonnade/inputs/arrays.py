"""X from arrays of any number of dimensions: some of these are its columns, one its features."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from colonnade.errors import listed
from colonnade.inputs.base import MatrixReader, Selection, Stamps
from colonnade.inputs.packing import Packing
from colonnade.inputs.sampling import ReadUnit
from colonnade.storage.npy.file import PAGE

__all__ = ["Box", "Stacked", "Stored", "Variable"]

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

    @abstractmethod
    def stamps(self) -> Stamps:
        """Tell by what it is noticed that somebody has written to it."""

    def require(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        """Raise ValueError where what is there now has not the shape and type that it had."""
        if (shape, dtype) != (self.shape, self.dtype):
            raise ValueError(
                f"it has changed: it was {self.shape} {self.dtype}, and is {shape} {dtype}"
            )

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
    def piece(self) -> ReadUnit:
        """Features and columns of one chunk that lie next to each other."""
        features, chunks = self.chunk
        together = 1
        for length, chunk in zip(reversed(self.lengths), reversed(chunks), strict=True):
            together *= min(chunk, length)
            if chunk < length:
                break
        size = math.prod(self.stored.chunks or ()) * self.stored.dtype.itemsize
        return ReadUnit(features, together, max(size, PAGE))

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
class Stacked(MatrixReader):
    """X from one array, or from several whose features lie below each other."""

    variables: tuple[Variable, ...]
    wanted: Selection
    names: tuple[str, ...] | None

    @property
    def described(self) -> str:
        """The shapes as they are stored, and how they are read."""
        if self.wanted.named or len(self.variables) > 1:
            told = [f"{v.stored.name} {v.stored.shape}" for v in self.variables]
            return f"{self.shape} of {listed(told)}"
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
    def piece(self) -> ReadUnit:
        """The least of what is read at once, and the most bytes that it takes."""
        pieces = [variable.piece for variable in self.variables]
        return ReadUnit(
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

    def stamps(self, start: int, stop: int) -> Stamps:  # noqa: ARG002 (chunks have none)
        """Stamp the arrays."""
        found: Stamps = {}
        for variable in self.variables:
            found |= variable.stored.stamps()
        return found

    def check(self) -> None:
        """Look at the arrays again."""
        for variable in self.variables:
            variable.stored.check()


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
