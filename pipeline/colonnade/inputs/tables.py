"""The base of the readers of tables: a row is a sample, a column a named feature."""

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
from colonnade.inputs.feature_selection import find_features

__all__ = ["Table", "chosen", "numbers", "refuse_arrays"]


@dataclass(frozen=True)
class Table(MatrixReader):
    """X from the rows of a table; it has only the selected features.

    Attributes
    ----------
    names
        Names of the selected features.
    selected
        Whether the job selects features.
    head
        Names of all columns of the table.
    """

    names: tuple[str, ...]
    selected: bool
    head: tuple[str, ...]

    @property
    def storage(self) -> dict[str, Any]:
        """The format, and the selected columns if the job selects any."""
        found: dict[str, Any] = {"format": self.kind}
        return found | ({"selected_features": list(self.names)} if self.selected else {})

    @property
    @abstractmethod
    def kind(self) -> str:
        """The format; row groups and compression are omitted, since X does not depend on them."""

    @property
    def described(self) -> str:
        """The shape, for messages."""
        return f"{self.shape}, from a table of {self.shape[1]:,} rows"

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the selected columns."""
        return self.names

    @property
    def all_names(self) -> tuple[str, ...]:
        """Names of all columns of the table."""
        return self.head

    @property
    def copies(self) -> int:
        """The numbers, the table, and the text or pages from which it is decoded."""
        return 3

    def window(self, features: slice, start: int, stop: int) -> NDArray[Any]:
        """Read adjacent features of a range of rows."""
        return self.fetch(tuple(range(features.start, features.stop)), start, stop)

    def fetch(self, features: tuple[int, ...] | None, start: int, stop: int) -> NDArray[Any]:
        """Read only these features (None: all) of a range of rows: (features, rows)."""
        wanted = range(self.shape[0]) if features is None else features
        values = np.empty((len(wanted), stop - start), self.dtype)
        if values.size:
            self._fill(values, [self.names[i] for i in wanted], start, stop)
        return values

    @abstractmethod
    def _fill(self, values: NDArray[Any], names: list[str], start: int, stop: int) -> None:
        """Read features by name into an array, (features, rows)."""


def refuse_arrays(path: str, wanted: Selection) -> None:
    """Raise InputError for settings that do not apply to a table."""
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
            "input.orientation, or store the transpose of the table."
        )


def chosen(path: str, names: Sequence[str], wanted: Selection) -> list[str]:
    """Return the columns of a table that are selected as features: all of them by default."""
    if len(set(names)) < len(names):
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise InputError(f"{path}: two columns have the name {sanitize(twice)!r}; rename one.")
    found = find_features(path, wanted.features, len(names), tuple(names))
    return list(names) if found is None else [names[i] for i in found]


def numbers(column: pa.ChunkedArray, out: NDArray[Any]) -> None:
    """Copy a column to an array of numbers; missing values become NaN.

    Raises
    ------
    ValueError
        A value is missing in an array of integers, or the column has another length.
    """
    if column.null_count and out.dtype.kind != "f":
        raise ValueError("a value is missing where the metadata claim none; write the file again")
    at = 0
    for chunk in column.chunks:
        known = chunk
        if chunk.null_count and not pa.types.is_floating(chunk.type):
            known = chunk.cast(pa.from_numpy_dtype(out.dtype), safe=False)
        out[at : at + len(known)] = known.to_numpy(zero_copy_only=False)
        at += len(known)
    if at != len(out):
        raise ValueError(f"a column has {at:,} rows instead of {len(out):,}; write the file again")
