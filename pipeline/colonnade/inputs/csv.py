"""Read X from a CSV file with pyarrow, which the extra `tables` installs.

Text has no random access: one pass over the file, block by block, finds where its rows begin.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyarrow import csv

from colonnade.errors import InputError, one_line, sanitize
from colonnade.inputs.base import Selection, Stamps
from colonnade.inputs.matrix import check_matrix
from colonnade.inputs.sampling import ReadUnit
from colonnade.inputs.tables import Table, chosen, numbers, refuse_arrays
from colonnade.limits import CSV_BYTES, CSV_HEAD_BYTES
from colonnade.storage import Place
from colonnade.storage.regularfiles import Stamp, stamp

__all__ = ["open_csv"]

# Bytes per read of the search for rows
_BLOCK = 2**22
# Approximate bytes of text between two indexed rows
_STEP = 2**18


@dataclass(frozen=True)
class CsvIndex:
    """Positions of the rows of a file.

    Attributes
    ----------
    offsets
        Offset of the first byte of every `step`-th row.
    end
        Offset of the end of the last row.
    """

    delimiter: str
    names: tuple[str, ...]
    rows: int
    step: int
    offsets: tuple[int, ...]
    end: int


@dataclass(frozen=True)
class CsvTable(Table):
    """A CSV file; all values are parsed as float64, whatever type the rows suggest."""

    index: CsvIndex
    known: Stamp

    @property
    def kind(self) -> str:
        """CSV, whatever the delimiter."""
        return "csv"

    @property
    def piece(self) -> ReadUnit:
        """The rows from one indexed row to the next."""
        index = self.index
        size = (index.end - index.offsets[0]) // len(index.offsets) + 1
        return ReadUnit(self.shape[0], index.step, size)

    @property
    def chunk_columns(self) -> int:
        """Rows from one indexed row to the next."""
        return self.index.step

    @property
    def copies(self) -> int:
        """The numbers, the table, and the text, in which a number may have any length."""
        text = self.piece.bytes / (self.index.step * self.shape[0] * 8)
        return 2 + math.ceil(text)

    def check(self) -> None:
        """Raise ValueError if the file has changed since it was opened."""
        if stamp(self.path) != self.known:
            raise ValueError(
                f"{self.path} has changed since it was opened; leave X unchanged while it is read"
            )

    def stamps(self, start: int, stop: int) -> Stamps:  # noqa: ARG002 (one file holds all columns)
        """Return the stamp of the file."""
        return {self.path: stamp(self.path)}

    def _fill(self, values: NDArray[Any], names: list[str], start: int, stop: int) -> None:
        self.check()
        index = self.index
        first, last = start // index.step, -(-stop // index.step)
        begin = index.offsets[first]
        end = index.offsets[last] if last < len(index.offsets) else index.end
        with Path(self.path).open("rb", buffering=0) as file:
            file.seek(begin)
            text = file.read(end - begin)
        read = _parsed(text, index, names)
        wanted = min(last * index.step, index.rows) - first * index.step
        if read.num_rows != wanted:
            raise ValueError(
                f"rows {first * index.step} to {first * index.step + wanted - 1} hold "
                f"{read.num_rows:,} rows of values; remove empty lines, and line breaks in quotes"
            )
        at = start - first * index.step
        for name, out in zip(names, values, strict=True):
            numbers(read.column(name).slice(at, stop - start), out)


def open_csv(place: Place, wanted: Selection) -> CsvTable:
    """Open a CSV file.

    Raises
    ------
    InputError
        The file is not CSV, is too large, or a selected column is not numeric.
    """
    path = place.url
    refuse_arrays(path, wanted)
    try:
        known = stamp(path)
        if known[1] > CSV_BYTES:
            raise InputError(
                f"{path}: this CSV file has {known[1]:,} bytes; the limit is {CSV_BYTES:,}, since "
                "each process searches the file for its rows; convert it to Parquet once: "
                "pyarrow.csv.open_csv and pyarrow.parquet.ParquetWriter work block by block."
            )
        index = _index(path, known)
        names = chosen(path, index.names, wanted)
        dtype = np.dtype(np.float64)
        shape = check_matrix((len(names), index.rows), dtype, f"{path}: ")
        selected = wanted.features is not None
        table = CsvTable(path, shape, dtype, tuple(names), selected, index.names, index, known)
        # Report a value that is not a number now, if the first rows hold one
        table.fetch(None, 0, min(index.step, index.rows))
    except InputError:
        raise
    except Exception as error:
        message = f"{path}: this cannot be read as CSV: {one_line(error)}"
        raise InputError(message) from error
    return table


def _parsed(text: bytes, index: CsvIndex, names: list[str]) -> Any:
    return csv.read_csv(
        io.BytesIO(text),
        read_options=csv.ReadOptions(
            column_names=list(index.names), use_threads=False, block_size=max(len(text), 1)
        ),
        parse_options=csv.ParseOptions(delimiter=index.delimiter),
        convert_options=csv.ConvertOptions(
            include_columns=names, column_types=dict.fromkeys(names, "float64")
        ),
    )


@lru_cache(maxsize=4)
def _index(path: str, known: Stamp) -> CsvIndex:
    """Index the rows of a file, once per process while the file is unchanged."""
    size = known[1]
    with Path(path).open("rb", buffering=0) as file:
        head = file.read(min(size, CSV_HEAD_BYTES))
        stop = head.find(b"\n") + 1
        if not stop:
            raise InputError(
                f"{path}: there is no row below the header of this CSV file; write a row for each "
                "column of X."
            )
        delimiter, names = _names(path, head[:stop])
        first = head.find(b"\n", stop) - stop
        step = max(1, _STEP // max(first, 1))
        end = _end(file, size)
        offsets, rows = [stop], 0
        for start in range(stop, end, _BLOCK):
            file.seek(start)
            block = np.frombuffer(file.read(min(_BLOCK, end - start)), np.uint8)
            breaks = np.flatnonzero(block == ord("\n"))
            at = np.arange(step - 1 - rows % step, len(breaks), step)
            offsets += (breaks[at] + start + 1).tolist()
            rows += len(breaks)
    return CsvIndex(delimiter, names, rows + (end > stop), step, tuple(offsets), end)


def _end(file: Any, size: int) -> int:
    """Return the offset of the end of the last row, without the line breaks after it."""
    start = max(0, size - 2**16)
    file.seek(start)
    tail: bytes = file.read(size - start)
    return start + len(tail.rstrip(b"\r\n"))


def _names(path: str, line: bytes) -> tuple[str, tuple[str, ...]]:
    """Parse the header: the delimiter and the names."""
    text = line.decode("utf-8-sig").rstrip("\r\n")
    delimiter = next((mark for mark in ",;\t" if mark in text), ",")
    read = csv.read_csv(
        io.BytesIO(text.encode() + b"\n" + text.encode()),
        parse_options=csv.ParseOptions(delimiter=delimiter),
    )
    names = tuple(name.strip() for name in read.column_names)
    if all(map(_is_number, names)):
        raise InputError(
            f"{path}: the first row of a CSV file must give the names of the features, but here it "
            f"holds numbers ({sanitize(text)}); write a row of names above them, such as x0,x1,x2."
        )
    return delimiter, names


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
