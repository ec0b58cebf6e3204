"""What tables have in common: a row is a sample, a column a feature with a name."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from colonnade.errors import InputError, sanitize
from colonnade.inputs.base import MatrixReader, Selection
from colonnade.inputs.features import find_features

__all__ = ["Table", "chosen", "numbers", "refuse_arrays"]


@dataclass(frozen=True)
class Table(MatrixReader):
    """X from the rows of a table; it has the features that are wanted and no others.

    Attributes
    ----------
    names
        Of its features.
    selected
        Whether the job names them.
    head
        The names of all of its columns.
    """

    names: tuple[str, ...]
    selected: bool
    head: tuple[str, ...]

    @property
    def storage(self) -> dict[str, Any]:
        """Its format, which its name tells, and which columns are wanted."""
        found: dict[str, Any] = {"format": self.kind}
        return found | ({"selected_features": list(self.names)} if self.selected else {})

    @property
    @abstractmethod
    def kind(self) -> str:
        """Its format; how the rows are put into groups and compressed is no matter."""

    @property
    def described(self) -> str:
        """How many features and rows there are."""
        return f"{self.shape}, of a table of {self.shape[1]:,} rows"

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The names of the columns that are wanted."""
        return self.names

    @property
    def all_names(self) -> tuple[str, ...]:
        """The names in its head."""
        return self.head

    @property
    def copies(self) -> int:
        """The numbers, the table, and the text or the pages that it is made of."""
        return 3

    def window(self, features: slice, start: int, stop: int) -> NDArray[Any]:
        """Read neighbouring features of some rows."""
        return self.fetch(tuple(range(features.start, features.stop)), start, stop)

    def fetch(self, features: tuple[int, ...] | None, start: int, stop: int) -> NDArray[Any]:
        """Read these features of some rows, and no others: (features, rows)."""
        wanted = range(self.shape[0]) if features is None else features
        values = np.empty((len(wanted), stop - start), self.dtype)
        if values.size:
            self._fill(values, [self.names[i] for i in wanted], start, stop)
        return values

    @abstractmethod
    def _fill(self, values: NDArray[Any], names: list[str], start: int, stop: int) -> None:
        """Read features by name into an array, (features, rows)."""


def refuse_arrays(path: str, wanted: Selection) -> None:
    """Raise InputError for settings that say nothing of a table."""
    for key, given in (
        ("array", wanted.arrays),
        ("features_dim", wanted.features_dim),
        ("column_dims", wanted.column_dims),
    ):
        if given:
            raise InputError(
                f"{path}: this is a table; leave out input.{key}, and choose its columns with "
                "input.features."
            )
    if wanted.orientation == "features_by_columns":
        raise InputError(
            f"{path}: the rows of a table are samples (columns_by_features); leave out "
            "input.orientation, or store the table the other way round."
        )


def chosen(path: str, names: Sequence[str], wanted: Selection) -> list[str]:
    """Choose the columns of a table that are wanted as features: all of them by default."""
    if len(set(names)) < len(names):
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise InputError(f"{path}: two columns have the name {sanitize(twice)!r}.")
    found = find_features(path, wanted.features, len(names), tuple(names))
    return list(names) if found is None else [names[i] for i in found]


def numbers(column: pa.ChunkedArray, out: NDArray[Any]) -> None:
    """Copy a column to an array of numbers; what is missing is NaN.

    Raises
    ------
    ValueError
        A value is missing, and there is no NaN among the integers.
    """
    if column.null_count and out.dtype.kind != "f":
        raise ValueError("a value is missing among integers of which none should be")
    at = 0
    for chunk in column.chunks:
        known = chunk
        if chunk.null_count and not pa.types.is_floating(chunk.type):
            known = chunk.cast(pa.from_numpy_dtype(out.dtype), safe=False)
        out[at : at + len(known)] = known.to_numpy(zero_copy_only=False)
        at += len(known)
    if at != len(out):
        raise ValueError(f"{at:,} rows in the place of {len(out):,}")
