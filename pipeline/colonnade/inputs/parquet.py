"""Read X from a Parquet file with pyarrow, which the extra `tables` installs."""

from __future__ import annotations

import io
from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from colonnade.errors import InputError, one_line, sanitize
from colonnade.inputs.base import Selection, Stamps
from colonnade.inputs.matrix import check_matrix
from colonnade.inputs.packing import promoted
from colonnade.inputs.sampling import ReadUnit
from colonnade.inputs.tables import Table, chosen, numbers, refuse_arrays
from colonnade.limits import PARQUET_STRING_BYTES, ROW_GROUP_BYTES
from colonnade.storage import Objects, Place
from colonnade.storage.regularfiles import stamp

__all__ = ["open_parquet"]


@dataclass(frozen=True)
class ParquetTable(Table):
    """A Parquet file; a read decodes the selected columns of whole row groups.

    Attributes
    ----------
    starts
        First row of each row group.
    known
        Stamp of the file from which the metadata were read.
    """

    place: Place
    metadata: pq.FileMetaData
    starts: tuple[int, ...]
    known: Any

    @property
    def kind(self) -> str:
        """Parquet."""
        return "parquet"

    @property
    def piece(self) -> ReadUnit:
        """One feature of the largest row group."""
        return ReadUnit(1, self.chunk_columns, self.chunk_columns * self.dtype.itemsize)

    @property
    def chunk_columns(self) -> int:
        """Rows of the largest row group."""
        ends = (*self.starts[1:], self.shape[1])
        return max(end - start for start, end in zip(self.starts, ends, strict=True))

    def span(self, start: int, stop: int) -> tuple[int, int]:
        """Extend a range of rows to whole row groups."""
        first, last = (bisect_right(self.starts, row) - 1 for row in (start, stop - 1))
        ends = (*self.starts[1:], self.shape[1])
        return self.starts[first], ends[last]

    def check(self) -> None:
        """Raise ValueError if the file has changed since it was opened."""
        if _known(self.place) != self.known:
            raise ValueError(
                f"{self.path} has changed since it was opened; leave X unchanged while it is read"
            )

    def stamps(self, start: int, stop: int) -> Stamps:  # noqa: ARG002 (one file holds all columns)
        """Return the stamp of the file."""
        return {self.path: _known(self.place)}

    def _fill(self, values: NDArray[Any], names: list[str], start: int, stop: int) -> None:
        self.check()
        first, last = (bisect_right(self.starts, row) - 1 for row in (start, stop - 1))
        with _opened(self.place, self.metadata) as file:
            for group in range(first, last + 1):
                at = self.starts[group]
                read = file.read_row_group(group, columns=names, use_threads=False)
                lo, hi = max(start, at), min(stop, at + read.num_rows)
                for name, out in zip(names, values, strict=True):
                    column = read.column(name).slice(lo - at, hi - lo)
                    numbers(column, out[lo - start : hi - start])


def open_parquet(place: Place, wanted: Selection) -> ParquetTable:
    """Open a Parquet file.

    Raises
    ------
    InputError
        The file is not Parquet, or a selected column is not numeric.
    """
    path = place.url
    refuse_arrays(path, wanted)
    try:
        known = _known(place)
        with _opened(place) as file:
            return _open(place, known, file, wanted)
    except InputError:
        raise
    # A damaged file can make pyarrow raise any exception
    except Exception as error:
        message = f"{path}: this cannot be read as Parquet: {one_line(error)}"
        raise InputError(message) from error


def _open(place: Place, known: Any, file: pq.ParquetFile, wanted: Selection) -> ParquetTable:
    path, schema, metadata = place.url, file.schema_arrow, file.metadata
    # Columns that store the index of a pandas table are not features
    index = {i for i in (schema.pandas_metadata or {}).get("index_columns", ()) if type(i) is str}
    head = tuple(name for name in schema.names if name not in index)
    names = chosen(path, head, wanted)
    types = [_type(path, schema.field(name).type, name, wanted) for name in names]
    if not names:
        raise InputError(f"{path}: the table has no columns; X needs at least one feature.")
    gaps = _gaps(metadata, {name for name, t in zip(names, types, strict=True) if t.kind != "f"})
    types = [promoted(t) if name in gaps else t for name, t in zip(names, types, strict=True)]
    dtype = np.result_type(*set(types))
    rows = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    starts = list(accumulate(rows, initial=0))
    if min(rows, default=0) < 0 or starts[-1] != metadata.num_rows:
        raise ValueError(
            f"its row groups have {starts[-1]:,} rows, but its metadata claim "
            f"{metadata.num_rows:,}; write the file again"
        )
    shape = check_matrix((len(names), starts.pop()), dtype, f"{path}: ")
    selected = wanted.features is not None
    table = ParquetTable(
        path, shape, dtype, tuple(names), selected, head, place, metadata, tuple(starts), known
    )
    size = table.chunk_columns * len(names) * table.dtype.itemsize
    if size > ROW_GROUP_BYTES:
        raise InputError(
            f"{path}: a row group of {table.chunk_columns:,} rows takes {size:,} bytes to read; "
            "write the file again with smaller ones, such as row_group_size=100_000 in to_parquet."
        )
    return table


def _type(path: str, given: pa.DataType, name: str, wanted: Selection) -> np.dtype[Any]:
    types = pa.types
    if types.is_floating(given) or types.is_integer(given) or types.is_boolean(given):
        known: np.dtype[Any] = np.dtype(given.to_pandas_dtype())
        return known
    remedy = "" if wanted.features else "; choose numeric columns with input.features"
    raise InputError(
        f"{path}: the column {sanitize(name)!r} is of type {sanitize(str(given))}, which is not "
        f"numeric{remedy}."
    )


def _gaps(metadata: pq.FileMetaData, names: set[str]) -> set[str]:
    """Return the columns among these that may have missing values."""
    places = {
        name: i
        for i in range(metadata.num_columns)
        if (name := metadata.schema.column(i).path) in names
    }
    gaps: set[str] = set()
    for group in range(metadata.num_row_groups):
        said = metadata.row_group(group)
        for name in places.keys() - gaps:
            known = said.column(places[name]).statistics
            if known is None or not known.has_null_count or known.null_count:
                gaps.add(name)
    return gaps


def _known(place: Place) -> Any:
    return place.stamp() if isinstance(place, Objects) else stamp(place.url)


def _opened(place: Place, metadata: pq.FileMetaData | None = None) -> pq.ParquetFile:
    objects = isinstance(place, Objects)
    # Pass a file, not its path: pyarrow takes text before a colon for the scheme of a URL
    source = (
        pa.PythonFile(_Ranges(place), "r") if isinstance(place, Objects) else pa.OSFile(place.url)
    )
    return pq.ParquetFile(
        source,
        metadata=metadata,
        # In an object store, fetch adjacent ranges with one request
        pre_buffer=objects,
        thrift_string_size_limit=PARQUET_STRING_BYTES,
        arrow_extensions_enabled=False,
    )


class _Ranges(io.RawIOBase):
    """A file interface to an object: each read is a request."""

    def __init__(self, place: Objects) -> None:
        self._place, self._at = place, 0
        self._size = place.size() or 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = start + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        end = min(self._at + len(buffer), self._size)
        if end <= self._at:
            return 0
        (part,) = self._place.read_ranges([self._at], [end])
        buffer[: len(part)] = memoryview(part)
        self._at += len(part)
        return len(part)
