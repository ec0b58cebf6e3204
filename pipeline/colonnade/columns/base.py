"""What all readers of X share: its shape, a range of its columns, and its fingerprint."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from colonnade.errors import reason
from colonnade.labels import Coordinate
from colonnade.sampling import Piece, Sample, samples

__all__ = ["Columns", "Orientation"]

Orientation = Literal["features_by_columns", "columns_by_features"]

# X up to this size is fingerprinted whole, larger ones by samples
_WHOLE_BYTES = 32 * 2**20


@dataclass(frozen=True)
class Columns(ABC):
    """X, n × p, on a disk.

    Attributes
    ----------
    path
        Where it is.
    stored_shape
        (n, p), or (p, n) where `orientation` is columns_by_features.
    dtype
        As it is stored; `read` returns it unchanged.
    """

    path: str
    orientation: Orientation
    stored_shape: tuple[int, int]
    dtype: np.dtype[Any]

    @property
    def n(self) -> int:
        """Features: the rows of X."""
        return self.stored_shape[0 if self.orientation == "features_by_columns" else 1]

    @property
    def p(self) -> int:
        """Columns of X."""
        return self.stored_shape[1 if self.orientation == "features_by_columns" else 0]

    @property
    def chunk_columns(self) -> int:
        """Columns that are read from the disk at the least."""
        return 1

    def coordinate(
        self, dimension: Literal["input", "column"]
    ) -> Coordinate | tuple[str, ...] | str | None:
        """Find what its own store says along a dimension: numbers, or names of inputs.

        None where it says nothing, and a word on why where it cannot be used.
        """
        _ = dimension
        return None

    def beside(self, name: str) -> NDArray[Any] | None:
        """Read another array of its own store; None where there is none."""
        _ = name
        return None

    @property
    @abstractmethod
    def storage(self) -> dict[str, Any]:
        """How it is stored, as plain values: the format, and chunks and codecs where it has any."""

    @property
    @abstractmethod
    def _piece(self) -> Piece:
        """What is read for the sake of a single number."""

    @property
    def copies(self) -> int:
        """How often the columns that are read are in memory at the most."""
        return 1

    @abstractmethod
    def _read(self, window: tuple[slice, slice]) -> NDArray[Any]:
        """Read this window of the matrix as it is stored."""

    @abstractmethod
    def _pick(self, sample: Sample) -> NDArray[Any]:
        """Read a sample: (features, columns)."""

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Read columns `start` to `stop`: (n, stop - start), an array of its own.

        Raises
        ------
        OSError, ValueError
            The file has gone, is damaged, or is no longer what it was when it was opened.
        """
        with self._telling():
            return self._columns(start, stop)

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except (OSError, MemoryError):
            raise
        # Damaged headers, and the codecs of damaged chunks, raise whatever they please
        except Exception as error:
            raise ValueError(f"{self.path} cannot be read: {reason(error)}") from error

    def _columns(self, start: int, stop: int) -> NDArray[Any]:
        return self._oriented(self._read(self._window(slice(None), slice(start, stop))))

    def _check_unchanged(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        if shape != self.stored_shape or dtype != self.dtype:
            raise ValueError(
                f"it has changed: it was {self.stored_shape} {self.dtype}, and is {shape} {dtype}"
            )

    def fingerprint(self) -> str:
        """Name X by its content: sha256 over its shape, its dtype and its values.

        All values where X has up to 32 MiB: the same X in another file, format or orientation has
        the same fingerprint. Else those of 64 columns spread evenly over it, the first and the last
        among them, as far as they lie in 256 MiB of chunks, or in two; where they do not, of
        columns that lie together, and of a part of the features.

        Raises
        ------
        OSError, ValueError
            As for `read`.
        """
        canonical = self.dtype.newbyteorder("<")
        digest = hashlib.sha256(f"{self.n} {self.p} {canonical.str}".encode())

        def add(values: NDArray[Any]) -> None:
            digest.update(values.T.astype(canonical, copy=False).tobytes())

        if self.n * self.p * self.dtype.itemsize <= _WHOLE_BYTES:
            add(self.read(0, self.p))
        else:
            for sample in samples(self.n, self.p, self._piece):
                with self._telling():
                    add(self._pick(sample))
        return f"sha256:{digest.hexdigest()}"

    def _window(self, features: Any, columns: Any) -> tuple[Any, Any]:
        """Where features and columns of X lie in the matrix as it is stored."""
        by_columns = self.orientation == "features_by_columns"
        return (features, columns) if by_columns else (columns, features)

    def _oriented(self, stored: NDArray[Any]) -> NDArray[Any]:
        return stored if self.orientation == "features_by_columns" else stored.T
