"""X from N-dimensional arrays: one dimension holds the features, the others form the columns."""

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
    """An N-dimensional array in a file.

    Attributes
    ----------
    chunks
        Shape of a chunk, the smallest unit of a read; None for a contiguous array.
    dims
        Name of each dimension; None if it has no name.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: tuple[int, ...] | None
    dims: tuple[str | None, ...]
    attributes: Mapping[str, Any]

    @abstractmethod
    def read(self, box: Box) -> NDArray[Any]:
        """Read a part of the array, in its stored type."""

    @abstractmethod
    def check(self) -> None:
        """Raise if the array no longer exists or has changed."""

    @abstractmethod
    def stamps(self) -> Stamps:
        """Return stamps that change when the array is written to."""

    def require(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        """Raise ValueError if the shape and type of the array are no longer the original ones."""
        if (shape, dtype) != (self.shape, self.dtype):
            raise ValueError(
                f"the array has changed: it was {self.shape} {self.dtype}, and is now {shape} "
                f"{dtype}; leave X unchanged while it is read"
            )

    @property
    @abstractmethod
    def storage(self) -> dict[str, Any]:
        """Format, chunks and codecs, as plain values."""


@dataclass(frozen=True)
class Variable:
    """An array that holds features of X.

    Attributes
    ----------
    features
        Axis of the features; None if the array is a single feature.
    columns
        Axes that are stacked to columns, in this order; the last one varies fastest.
    """

    stored: Stored
    features: int | None
    columns: tuple[int, ...]
    packing: Packing | None

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the numbers, after unpacking."""
        return self.packing.dtype if self.packing else self.stored.dtype

    @property
    def count(self) -> int:
        """Number of features."""
        return 1 if self.features is None else self.stored.shape[self.features]

    @property
    def lengths(self) -> tuple[int, ...]:
        """Lengths of the column axes."""
        return tuple(self.stored.shape[axis] for axis in self.columns)

    @cached_property
    def chunk(self) -> tuple[int, tuple[int, ...]]:
        """Shape of a chunk: its features, and its length along each column axis."""
        chunks = self.stored.chunks or (1,) * len(self.stored.shape)
        features = 1 if self.features is None else chunks[self.features]
        return features, tuple(chunks[axis] for axis in self.columns)

    @cached_property
    def grid(self) -> tuple[int, int]:
        """Size of the column groups that share no chunk, and the period at which they restart."""
        lengths, chunks = self.lengths, self.chunk[1]
        for axis, (length, chunk) in enumerate(zip(lengths, chunks, strict=True)):
            if min(chunk, length) > 1:
                inner = math.prod(lengths[axis + 1 :])
                return min(chunk, length) * inner, length * inner
        return 1, 1

    @cached_property
    def piece(self) -> ReadUnit:
        """Features and adjacent columns that one chunk holds, and the bytes of a read."""
        features, chunks = self.chunk
        together = 1
        for length, chunk in zip(reversed(self.lengths), reversed(chunks), strict=True):
            together *= min(chunk, length)
            if chunk < length:
                break
        size = math.prod(self.stored.chunks or ()) * self.stored.dtype.itemsize
        return ReadUnit(features, together, max(size, PAGE))

    def window(self, features: slice, start: int, stop: int) -> NDArray[Any]:
        """Read features of a range of columns: (features, stop - start)."""
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
    """X from one array, or from several whose features are concatenated."""

    variables: tuple[Variable, ...]
    wanted: Selection
    names: tuple[str, ...] | None

    @property
    def described(self) -> str:
        """Stored shapes, and how they are read, for messages."""
        if self.wanted.named or len(self.variables) > 1:
            texts = [f"{v.stored.name} {v.stored.shape}" for v in self.variables]
            return f"{self.shape} from {listed(texts)}"
        way = "features_by_columns" if self.wanted.by_columns else "columns_by_features"
        return f"{self.variables[0].stored.shape}, read as {way}"

    @property
    def feature_names(self) -> tuple[str, ...] | None:
        """Names of the features, if the file has them."""
        return self.names

    @property
    def storage(self) -> dict[str, Any]:
        """Format, chunks and codecs, and the dimensions of the features and columns."""
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
        """Size of the largest group of columns that share chunks."""
        return max(variable.grid[0] for variable in self.variables)

    @property
    def copies(self) -> int:
        """One, or two where the arrays are unpacked, reshaped or joined."""
        joined = len(self.variables) > 1
        return 1 + (joined or any(v.packing or len(v.columns) > 1 for v in self.variables))

    @property
    def piece(self) -> ReadUnit:
        """The smallest read unit of the arrays, with the most bytes that one takes."""
        pieces = [variable.piece for variable in self.variables]
        return ReadUnit(
            min(piece.features for piece in pieces),
            min(piece.columns for piece in pieces),
            max(piece.bytes for piece in pieces),
        )

    def span(self, start: int, stop: int) -> tuple[int, int]:
        """Extend a range of columns to whole groups that share chunks."""
        unit, period = max(variable.grid for variable in self.variables)
        lo = start // period * period + start % period // unit * unit
        last = (stop - 1) % period // unit * unit + unit
        return lo, (stop - 1) // period * period + min(last, period)

    def window(self, features: slice, start: int, stop: int) -> NDArray[Any]:
        """Read adjacent features of a range of columns."""
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

    def stamps(self, start: int, stop: int) -> Stamps:  # noqa: ARG002 (chunks have no stamps)
        """Return the stamps of the arrays."""
        found: Stamps = {}
        for variable in self.variables:
            found |= variable.stored.stamps()
        return found

    def check(self) -> None:
        """Raise if an array no longer exists or has changed."""
        for variable in self.variables:
            variable.stored.check()


def _boxes(lengths: tuple[int, ...], start: int, stop: int) -> list[Box]:
    """Split a range of flat column indices into boxes of the column axes, in order."""
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
