"""The base of all readers of X: ranges of columns, selected features, a fingerprint."""

from __future__ import annotations

import hashlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from colonnade.errors import one_line
from colonnade.inputs.name_matching import carry_nothing
from colonnade.inputs.sampling import ReadUnit, Sample, samples

__all__ = ["InputMatrix", "MatrixReader", "Orientation", "Selection", "Stamps"]

Orientation = Literal["features_by_columns", "columns_by_features"]

# Largest X that is fingerprinted whole; a larger one is sampled
_WHOLE_BYTES = 32 * 2**20


Stamps = dict[str, Any]
"""Path -> a value that changes when the file is written; comparable within one process only."""


@dataclass(frozen=True)
class Selection:
    """Which arrays, dimensions and features of a path form X: the job's section `input`."""

    arrays: tuple[str, ...] = ()
    orientation: Orientation | None = None
    features_dim: str | None = None
    column_dims: tuple[str, ...] | None = None
    features: tuple[int | str, ...] | None = None

    @property
    def by_columns(self) -> bool:
        """Whether a stored matrix is X itself, not its transpose."""
        return self.orientation != "columns_by_features"

    @property
    def named(self) -> tuple[str, ...]:
        """Dimensions that are selected by name."""
        return (*((self.features_dim,) if self.features_dim else ()), *(self.column_dims or ()))


@dataclass(frozen=True)
class MatrixReader(ABC):
    """A stored matrix, read as features × columns; each format has a subclass.

    Attributes
    ----------
    path
        Path or URL.
    shape
        (features, columns).
    dtype
        Type of the values read: the stored type, unless they are packed or the format has no types.
    """

    path: str
    shape: tuple[int, int]
    dtype: np.dtype[Any]

    @property
    @abstractmethod
    def storage(self) -> dict[str, Any]:
        """How the matrix is stored, as plain values: its format, and any chunks and codecs."""

    @property
    @abstractmethod
    def piece(self) -> ReadUnit:
        """The smallest unit of a read."""

    @abstractmethod
    def window(self, features: slice, start: int, stop: int) -> NDArray[Any]:
        """Read adjacent features of a range of columns: (features, stop - start)."""

    @abstractmethod
    def check(self) -> None:
        """Raise if the file no longer exists, or has changed since it was opened."""

    @abstractmethod
    def stamps(self, start: int, stop: int) -> Stamps:
        """Return, at little cost, stamps that change when these columns are written to.

        Raises
        ------
        OSError
            A file no longer exists.
        """

    @property
    def described(self) -> str:
        """The shape, for messages."""
        return f"{self.shape}"

    @property
    def feature_names(self) -> tuple[str, ...] | None:
        """Names of the features, if the file has them."""
        return None

    @property
    def all_names(self) -> tuple[str, ...] | None:
        """Names of all features in the file, selected or not."""
        return self.feature_names

    @property
    def chunk_columns(self) -> int:
        """Largest number of columns that must be read to get a single one."""
        return 1

    @property
    def copies(self) -> int:
        """Largest number of copies of the read columns in memory at once."""
        return 1

    def span(self, start: int, stop: int) -> tuple[int, int]:
        """Extend a range of columns to whole chunks."""
        chunk = self.chunk_columns
        return start // chunk * chunk, min(-(-stop // chunk) * chunk, self.shape[1])

    def fetch(self, features: tuple[int, ...] | None, start: int, stop: int) -> NDArray[Any]:
        """Read features (None: all) of a range of columns into a new array."""
        if features is None:
            return self.window(slice(0, self.shape[0]), start, stop)
        values = np.empty((len(features), stop - start), self.dtype)
        order = np.argsort(features)
        wanted = np.asarray(features)[order]
        # Read features in the same chunk, or in adjacent ones, with one call
        bands = wanted // self.piece.features
        for places in np.split(np.arange(len(wanted)), np.flatnonzero(np.diff(bands) > 1) + 1):
            first = int(wanted[places[0]])
            read = self.window(slice(first, int(wanted[places[-1]]) + 1), start, stop)
            values[order[places]] = read[wanted[places] - first]
        return values


@dataclass(frozen=True, slots=True)
class _Window:
    """Values of adjacent columns, (n, …), from column `first` on."""

    first: int
    values: NDArray[Any]

    @property
    def end(self) -> int:
        """Index of the column after the last one."""
        return self.first + int(self.values.shape[1])


@dataclass(frozen=True)
class InputMatrix:
    """X, n × p: a range of columns of a reader, with all or some of its features.

    Reading any part of a chunk decodes the whole chunk. If a chunk spans several blocks, the thread
    keeps it until it has read the last of its columns.

    Attributes
    ----------
    first, p
        X's first column, as an index into the source, and the number of columns.
    features
        X's features in order, as indices into the source's; None for all of them.
    """

    source: MatrixReader
    first: int
    p: int
    features: tuple[int, ...] | None = None
    _kept: threading.local = field(default_factory=threading.local, repr=False, compare=False)

    @property
    def path(self) -> str:
        """Path or URL."""
        return self.source.path

    @property
    def n(self) -> int:
        """Number of features: the rows of X."""
        return self.source.shape[0] if self.features is None else len(self.features)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the array that `read` returns."""
        return self.source.dtype

    @property
    def chunk_columns(self) -> int:
        """Largest number of columns that must be read to get a single one."""
        return self.source.chunk_columns

    @property
    def copies(self) -> int:
        """Largest number of copies of the read columns in memory at once."""
        # A read may include unselected features, which are copied out afterwards
        return self.source.copies + (self.features is not None)

    @property
    def storage(self) -> dict[str, Any]:
        """How X is stored, and which columns and features are selected, as plain values."""
        said = self.source.storage
        if (self.first, self.p) != (0, self.source.shape[1]):
            said["selected_columns"] = [self.first, self.first + self.p]
        if self.features is not None:
            said["selected_features"] = list(self.features)
        return said

    @property
    def feature_names(self) -> tuple[str, ...] | None:
        """Names of the features, (n,), if the file has them."""
        names = self.source.feature_names
        if names is None or self.features is None:
            return names
        return tuple(names[i] for i in self.features)

    @property
    def numbered(self) -> bool:
        """Whether the file's names only number the features, as libraries do by default."""
        return carry_nothing(self.source.all_names or ())

    @property
    def described(self) -> str:
        """The shape, for messages."""
        if (self.n, self.p) == self.source.shape:
            return self.source.described
        return f"({self.n}, {self.p}) chosen from {self.source.described}"

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Read columns `start` to `stop` into a new array, (n, stop - start).

        Raises
        ------
        OSError, ValueError
            The file no longer exists, is damaged, or has changed since it was opened.
        """
        with self._telling():
            return self._columns(self.first + start, self.first + stop)

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, MemoryError):
            raise
        # Damaged headers and chunks can raise any exception, depending on the codec
        except Exception as error:
            # Failures of the disk or network have an errno: pass them on
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise ValueError(f"{self.path} cannot be read: {one_line(error)}") from error

    def _columns(self, start: int, stop: int) -> NDArray[Any]:
        """Read columns of the source, and keep the last chunk if it extends past them."""
        source = self.source
        if source.chunk_columns == 1 or start == stop:
            return source.fetch(self.features, start, stop)
        kept: _Window | None = getattr(self._kept, "window", None)
        parts, at = [], max(source.span(start, start + 1)[0], self.first)
        if kept is not None and kept.first <= start < kept.end:
            # Detect a deleted or changed file even when its values are cached
            source.check()
            parts.append(kept.values[:, start - kept.first : stop - kept.first])
            at = kept.end
        if at < stop:
            end = min(source.span(stop - 1, stop)[1], self.first + self.p)
            values = source.fetch(self.features, at, end)
            parts.append(values[:, max(start - at, 0) : stop - at])
            last = max(source.span(end - 1, end)[0], at)
            # Copy: a view would keep the whole array in memory
            kept = _Window(last, values if last == at else values[:, last - at :].copy())
        self._kept.window = kept if kept is not None and stop < kept.end else None
        return np.concatenate(parts, axis=1, dtype=self.dtype)

    def stamps(self, start: int = 0, stop: int | None = None) -> Stamps:
        """Return, at little cost, stamps that change when columns are written to.

        The stamp of a Zarr array covers its metadata alone: rewritten chunks go unnoticed.

        Raises
        ------
        OSError, ValueError
            As for `read`.
        """
        stop = self.p if stop is None else stop
        with self._telling():
            return self.source.stamps(self.first + start, self.first + stop)

    def is_compared_whole(self, p: int) -> bool:
        """Return whether the fingerprint of the first `p` columns covers all their values."""
        return self.n * p * self.dtype.itemsize <= _WHOLE_BYTES

    def fingerprint(self, p: int | None = None) -> str:
        """Return the sha256 of the shape, dtype and values of X, or of its first `p` columns.

        Up to 32 MiB, the hash covers all values, so that the same X in another file, format or
        orientation has the same fingerprint. A larger X is sampled: 64 evenly spread columns,
        including the first and the last, if their chunks take at most 256 MiB or are at most two;
        otherwise groups of adjacent columns, and possibly only some of their features. Appending
        columns to X leaves the fingerprint of its first `p` columns unchanged.

        Raises
        ------
        OSError, ValueError
            As for `read`.
        """
        p = self.p if p is None else p
        canonical = self.dtype.newbyteorder("<")
        digest = hashlib.sha256(f"{self.n} {p} {canonical.str}".encode())

        def add(values: NDArray[Any]) -> None:
            digest.update(values.T.astype(canonical, copy=False).tobytes())

        if self.is_compared_whole(p):
            add(self.read(0, p))
        else:
            for sample in samples(self.n, p, self._piece):
                with self._telling():
                    add(self._pick(sample))
        return f"sha256:{digest.hexdigest()}"

    @property
    def _piece(self) -> ReadUnit:
        piece = self.source.piece
        # A selection need not align with the chunks: a chunk per feature, two per column group
        features = piece.features if self.features is None else 1
        across = 1 if self.first % piece.columns == 0 else 2
        return ReadUnit(features, piece.columns, piece.bytes * across)

    def _pick(self, sample: Sample) -> NDArray[Any]:
        """Read a sample: (features, columns)."""
        wanted = slice(sample.start, sample.stop)
        first, last = self.first + sample.columns[0], self.first + sample.columns[-1] + 1
        if self.features is None:
            values = self.source.window(wanted, first, last)
        else:
            values = self.source.fetch(self.features[wanted], first, last)
        return values[:, np.asarray(sample.columns) - sample.columns[0]]
