"""X in a CSV file, through pyarrow, which comes with the extra `tables`.

A text has no random access: it is read once, block by block, to find where its rows begin.
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

# Bytes that are searched for rows at a time
_BLOCK = 2**22
# Bytes of text between two rows whose places are kept, about
_STEP = 2**18


@dataclass(frozen=True)
class CsvIndex:
    """Where the rows of a file are.

    Attributes
    ----------
    offsets
        Of the first byte of every `step`-th row.
    end
        Of the last row.
    """

    delimiter: str
    names: tuple[str, ...]
    rows: int
    step: int
    offsets: tuple[int, ...]
    end: int


@dataclass(frozen=True)
class CsvTable(Table):
    """A CSV file; its numbers are taken as float64, whatever a row happens to hold."""

    index: CsvIndex
    known: Stamp

    @property
    def kind(self) -> str:
        """CSV, whatever separates the values."""
        return "csv"

    @property
    def piece(self) -> ReadUnit:
        """The rows from one known place to the next."""
        index = self.index
        size = (index.end - index.offsets[0]) // len(index.offsets) + 1
        return ReadUnit(self.shape[0], index.step, size)

    @property
    def chunk_columns(self) -> int:
        """Rows from one known place to the next."""
        return self.index.step

    @property
    def copies(self) -> int:
        """The numbers, the table, and the text: its numbers may have any length."""
        text = self.piece.bytes / (self.index.step * self.shape[0] * 8)
        return 2 + math.ceil(text)

    def check(self) -> None:
        """Look at the file's size and time again."""
        if stamp(self.path) != self.known:
            raise ValueError(f"{self.path} has changed since it was opened")

    def stamps(self, start: int, stop: int) -> Stamps:  # noqa: ARG002 (all are in one file)
        """Stamp the file."""
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
                f"rows {first * index.step} to {first * index.step + wanted - 1} are "
                f"{read.num_rows:,} lines of values; an empty line, or a quote across lines?"
            )
        at = start - first * index.step
        for name, out in zip(names, values, strict=True):
            numbers(read.column(name).slice(at, stop - start), out)


def open_csv(place: Place, wanted: Selection) -> CsvTable:
    """Open a CSV file.

    Raises
    ------
    InputError
        It is none, too large, or the columns that are wanted are no numbers.
    """
    path = place.url
    refuse_arrays(path, wanted)
    try:
        known = stamp(path)
        if known[1] > CSV_BYTES:
            raise InputError(
                f"{path}: a CSV file of {known[1]:,} bytes is too large to look for its rows in "
                f"each process (the limit is {CSV_BYTES:,}); convert it to Parquet once: "
                "pyarrow.csv.open_csv and pyarrow.parquet.ParquetWriter do it block by block."
            )
        index = _index(path, known)
        names = chosen(path, index.names, wanted)
        dtype = np.dtype(np.float64)
        shape = check_matrix((len(names), index.rows), dtype, f"{path}: ")
        selected = wanted.features is not None
        table = CsvTable(path, shape, dtype, tuple(names), selected, index.names, index, known)
        # What is no number is told now, if the first rows have it
        table.fetch(None, 0, min(index.step, index.rows))
    except InputError:
        raise
    except Exception as error:
        told = f"{path}: this cannot be read as CSV: {one_line(error)}"
        raise InputError(told) from error
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
    """Find the rows of a file: once in a process, as long as it is the same file."""
    size = known[1]
    with Path(path).open("rb", buffering=0) as file:
        head = file.read(min(size, CSV_HEAD_BYTES))
        stop = head.find(b"\n") + 1
        if not stop:
            raise InputError(f"{path}: there is no row below the head of this CSV file.")
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
    """Find where the last row ends, before what the file has of empty lines then."""
    start = max(0, size - 2**16)
    file.seek(start)
    tail: bytes = file.read(size - start)
    return start + len(tail.rstrip(b"\r\n"))


def _names(path: str, line: bytes) -> tuple[str, tuple[str, ...]]:
    """Read the head: the delimiter and the names."""
    text = line.decode("utf-8-sig").rstrip("\r\n")
    delimiter = next((mark for mark in ",;\t" if mark in text), ",")
    read = csv.read_csv(
        io.BytesIO(text.encode() + b"\n" + text.encode()),
        parse_options=csv.ParseOptions(delimiter=delimiter),
    )
    names = tuple(name.strip() for name in read.column_names)
    if all(map(_is_number, names)):
        raise InputError(
            f"{path}: the first row of a CSV file gives the names of the features, and here it "
            f"holds numbers ({sanitize(text)}); write a row of names above them, such as x0,x1,x2."
        )
    return delimiter, names


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
