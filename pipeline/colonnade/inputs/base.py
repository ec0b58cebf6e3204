"""What all readers of X share: a range of columns, the features that are wanted, a fingerprint."""

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
from colonnade.inputs.pairing import carry_nothing
from colonnade.inputs.sampling import ReadUnit, Sample, samples

__all__ = ["InputMatrix", "MatrixReader", "Orientation", "Selection", "Stamps"]

Orientation = Literal["features_by_columns", "columns_by_features"]

# X up to this size is fingerprinted whole, larger ones by samples
_WHOLE_BYTES = 32 * 2**20


Stamps = dict[str, Any]
"""Path -> what changes when the file there is written to; compared within a process alone."""


@dataclass(frozen=True)
class Selection:
    """What of that which lies at a path is meant, as the job's section `input` has it."""

    arrays: tuple[str, ...] = ()
    orientation: Orientation | None = None
    features_dim: str | None = None
    column_dims: tuple[str, ...] | None = None
    features: tuple[int | str, ...] | None = None

    @property
    def by_columns(self) -> bool:
        """Whether a matrix is X rather than its transpose."""
        return self.orientation != "columns_by_features"

    @property
    def named(self) -> tuple[str, ...]:
        """Dimensions that are asked for by name."""
        return (*((self.features_dim,) if self.features_dim else ()), *(self.column_dims or ()))


@dataclass(frozen=True)
class MatrixReader(ABC):
    """A matrix on a disk, as the mathematics have it: one small class a format.

    Attributes
    ----------
    path
        Where it is.
    shape
        Features and columns.
    dtype
        Of what is read: as it is stored, unless it is packed or has no type of its own.
    """

    path: str
    shape: tuple[int, int]
    dtype: np.dtype[Any]

    @property
    @abstractmethod
    def storage(self) -> dict[str, Any]:
        """How it is stored, as plain values: the format, and chunks and codecs where it has any."""

    @property
    @abstractmethod
    def piece(self) -> ReadUnit:
        """What is read for the sake of a single number."""

    @abstractmethod
    def window(self, features: slice, start: int, stop: int) -> NDArray[Any]:
        """Read neighbouring features of some columns: (features, stop - start)."""

    @abstractmethod
    def check(self) -> None:
        """Raise where it has gone, or is no longer what it was when it was opened."""

    @abstractmethod
    def stamps(self, start: int, stop: int) -> Stamps:
        """Tell, at little cost, by what it is noticed that somebody has written to these columns.

        Raises
        ------
        OSError
            A file has gone.
        """

    @property
    def described(self) -> str:
        """Its shape, in words for who finds that it does not fit."""
        return f"{self.shape}"

    @property
    def feature_names(self) -> tuple[str, ...] | None:
        """Names of its features, where it has any."""
        return None

    @property
    def all_names(self) -> tuple[str, ...] | None:
        """Names of all features of the file, also of those that are not wanted."""
        return self.feature_names

    @property
    def chunk_columns(self) -> int:
        """Columns that are read at the least, in the largest case."""
        return 1

    @property
    def copies(self) -> int:
        """How often the columns that are read are in memory at the most."""
        return 1

    def span(self, start: int, stop: int) -> tuple[int, int]:
        """Columns that are read together with these: whole chunks."""
        chunk = self.chunk_columns
        return start // chunk * chunk, min(-(-stop // chunk) * chunk, self.shape[1])

    def fetch(self, features: tuple[int, ...] | None, start: int, stop: int) -> NDArray[Any]:
        """Read these features, all of them by default, of columns: an array of its own."""
        if features is None:
            return self.window(slice(0, self.shape[0]), start, stop)
        values = np.empty((len(features), stop - start), self.dtype)
        order = np.argsort(features)
        wanted = np.asarray(features)[order]
        # What lies in one chunk, or in neighbouring ones, is read at once
        bands = wanted // self.piece.features
        for places in np.split(np.arange(len(wanted)), np.flatnonzero(np.diff(bands) > 1) + 1):
            first = int(wanted[places[0]])
            read = self.window(slice(first, int(wanted[places[-1]]) + 1), start, stop)
            values[order[places]] = read[wanted[places] - first]
        return values


@dataclass(frozen=True, slots=True)
class _Window:
    """Columns of X from `first` on, (n, …)."""

    first: int
    values: NDArray[Any]

    @property
    def end(self) -> int:
        """The column after its last."""
        return self.first + int(self.values.shape[1])


@dataclass(frozen=True)
class InputMatrix:
    """X, n × p: columns of a source, all of its features or some.

    A chunk is decoded whole, however little of it is asked for. Where it holds the columns of
    several blocks, a thread keeps it until it has been asked for the last of them.

    Attributes
    ----------
    first, p
        The source's column that is X's first, and how many there are.
    features
        The source's features, in the order of X's; None: all of them.
    """

    source: MatrixReader
    first: int
    p: int
    features: tuple[int, ...] | None = None
    _kept: threading.local = field(default_factory=threading.local, repr=False, compare=False)

    @property
    def path(self) -> str:
        """Where it is."""
        return self.source.path

    @property
    def n(self) -> int:
        """Features: the rows of X."""
        return self.source.shape[0] if self.features is None else len(self.features)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of what `read` returns."""
        return self.source.dtype

    @property
    def chunk_columns(self) -> int:
        """Columns that are read from the disk at the least."""
        return self.source.chunk_columns

    @property
    def copies(self) -> int:
        """How often the columns that are read are in memory at the most."""
        # Neighbours of the features that are wanted are read, and then left out
        return self.source.copies + (self.features is not None)

    @property
    def storage(self) -> dict[str, Any]:
        """How it is stored, and which part of what is stored it is, as plain values."""
        said = self.source.storage
        if (self.first, self.p) != (0, self.source.shape[1]):
            said["selected_columns"] = [self.first, self.first + self.p]
        if self.features is not None:
            said["selected_features"] = list(self.features)
        return said

    @property
    def feature_names(self) -> tuple[str, ...] | None:
        """Names of the features, (n,), where a table or a dataset tells them."""
        names = self.source.feature_names
        if names is None or self.features is None:
            return names
        return tuple(names[i] for i in self.features)

    @property
    def numbered(self) -> bool:
        """Whether the file's names only number its features, as where nobody has named them."""
        return carry_nothing(self.source.all_names or ())

    @property
    def described(self) -> str:
        """Its shape, in words for who finds that it does not fit."""
        if (self.n, self.p) == self.source.shape:
            return self.source.described
        return f"({self.n}, {self.p}) chosen from {self.source.described}"

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Read columns `start` to `stop`: (n, stop - start), an array of its own.

        Raises
        ------
        OSError, ValueError
            The file has gone, is damaged, or is no longer what it was when it was opened.
        """
        with self._telling():
            return self._columns(self.first + start, self.first + stop)

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, MemoryError):
            raise
        # Damaged headers, and the codecs of damaged chunks, raise whatever they please
        except Exception as error:
            # A disk or a network that fails has a number
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise ValueError(f"{self.path} cannot be read: {one_line(error)}") from error

    def _columns(self, start: int, stop: int) -> NDArray[Any]:
        """Read columns of the source, and keep a chunk that reaches beyond them."""
        source = self.source
        if source.chunk_columns == 1 or start == stop:
            return source.fetch(self.features, start, stop)
        kept: _Window | None = getattr(self._kept, "window", None)
        parts, at = [], max(source.span(start, start + 1)[0], self.first)
        if kept is not None and kept.first <= start < kept.end:
            # What has gone since is noticed all the same
            source.check()
            parts.append(kept.values[:, start - kept.first : stop - kept.first])
            at = kept.end
        if at < stop:
            end = min(source.span(stop - 1, stop)[1], self.first + self.p)
            values = source.fetch(self.features, at, end)
            parts.append(values[:, max(start - at, 0) : stop - at])
            last = max(source.span(end - 1, end)[0], at)
            # A copy, or the view would keep all of the values
            kept = _Window(last, values if last == at else values[:, last - at :].copy())
        self._kept.window = kept if kept is not None and stop < kept.end else None
        return np.concatenate(parts, axis=1, dtype=self.dtype)

    def stamps(self, start: int = 0, stop: int | None = None) -> Stamps:
        """Tell, at little cost, by what it is noticed that somebody has written to columns.

        Chunks of a Zarr array that are written anew are not noticed: its metadata are looked at.

        Raises
        ------
        OSError, ValueError
            As for `read`.
        """
        stop = self.p if stop is None else stop
        with self._telling():
            return self.source.stamps(self.first + start, self.first + stop)

    def is_compared_whole(self, p: int) -> bool:
        """Whether the fingerprint of the first `p` columns is of all their values."""
        return self.n * p * self.dtype.itemsize <= _WHOLE_BYTES

    def fingerprint(self, p: int | None = None) -> str:
        """Name X, or its first `p` columns, by content: sha256 over shape, dtype and values.

        All values where X has up to 32 MiB: the same X in another file, format or orientation has
        the same fingerprint. Else those of 64 columns spread evenly over it, the first and the last
        among them, as far as they lie in 256 MiB of chunks, or in two; where they do not, of
        columns that lie together, and of a part of the features. The first columns of an X that
        has grown have the fingerprint that it had.

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
        # A selection may lie across the chunks: each feature in its own, the columns in two
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
