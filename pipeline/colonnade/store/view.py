"""An existing store: its record, its progress, and its arrays."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import zarr
from numpy.typing import NDArray

from colonnade.errors import InputError, StoreError, sanitize
from colonnade.grid import ArrayPlan, Grid
from colonnade.inputs import InputMatrix, open_columns
from colonnade.inputs.labels import Coordinate, Dimension
from colonnade.network import Network, array_names
from colonnade.storage import Place, place_at
from colonnade.storage.decoding import bounded
from colonnade.storage.locations import SERVERS, Options, readers_options, storage_texts
from colonnade.store import arrays
from colonnade.store.consistency import check
from colonnade.store.lease import holder
from colonnade.store.metadata import KEY, REMEDY, check_document, opened, why
from colonnade.store.record import (
    Record,
)
from colonnade.store.status import Status

__all__ = ["StoreView"]

# Bytes read at a time by `read_parts`
_PART_BYTES = 64 * 2**20


class StoreView:
    """A store at a path, as it was when it was opened."""

    def __init__(
        self, place: Place, group: zarr.Group, record: Record, options: Mapping[str, str]
    ) -> None:
        self.path = place.url
        self._options = options
        self.place = place
        self.record = record
        self._group = group
        self._arrays: dict[str, zarr.Array[Any]] = {}
        self._safe: dict[str, tuple[zarr.Array[Any], zarr.Array[Any]]] = {}

    @classmethod
    def open(cls, path: str | Path, storage_options: Options = None) -> Self:
        """Open a store that exists.

        Parameters
        ----------
        path
            A directory, or a URL of an object store.
        storage_options
            Options of the object store. Those of the store's own job are never used here.

        Raises
        ------
        StoreError
            There is no store, or it has another format.
        """
        store = cls.find(path, storage_options)
        if store is None:
            raise StoreError(
                f"{path}: there is no store. Check the path; colonnade run JOB makes a store."
            )
        return store

    @classmethod
    def find(cls, path: str | Path, storage_options: Options = None) -> Self | None:
        """Open a store; None if nothing is at its path.

        Raises
        ------
        StoreError
            Something other than a store is there.
        """
        options = storage_texts(storage_options)
        place = place_at(path, options)
        found = opened(place)
        if found is None:
            return None
        store = cls(place, *found, options)
        try:
            check(store.path, store.record, store._array)
        except StoreError:
            # It may have been replaced, or have grown, since its record was read
            if store.is_current():
                raise
            return cls.find(path, storage_options)
        return store

    @property
    def grid(self) -> Grid:
        """How the columns are divided into blocks."""
        return self.record.grid

    @property
    def weights(self) -> tuple[str, ...]:
        """Names of the network's arrays."""
        return array_names(len(self.record.network.sizes) - 1)

    def network(self, *, imports: bool = True) -> Network:
        """Rebuild the network from the store's own arrays; ValueError where they are damaged.

        Parameters
        ----------
        imports
            Whether to import activations that are the user's own code. If not, the identity
            replaces them: that is enough, and safe for untrusted stores, if only the weights are
            needed.
        """
        arrays = {name: self.read(name) for name in self.weights}
        return self.network_of(arrays, imports=imports)

    def network_of(self, arrays: Mapping[str, NDArray[Any]], *, imports: bool = True) -> Network:
        """Build the network from its arrays by name and the store's activations."""
        names, given = self.weights, self.record.activations
        layers = [(arrays[W], arrays[b]) for W, b in zip(names[::2], names[1::2], strict=True)]
        if self.imported and not imports:
            given = [{"name": "identity"}] * (len(layers) - 1)
        return Network.chain(layers, given)

    @property
    def imported(self) -> list[str]:
        """Names of the activations that are the user's own code."""
        return self.record.job.network.imported

    def columns(self, *, trust: bool) -> InputMatrix:
        """Open X at the path in the store's job.

        Parameters
        ----------
        trust
            Whether the job is the caller's own, or as trustworthy. If so, X is opened with the
            job's options; if not, with those of `readers_options`.

        Raises
        ------
        InputError
            X cannot be opened, or the job is not trusted and names a server that the caller did
            not name.
        """
        x = self.record.job.input
        if trust:
            return open_columns(**x.asked)
        options = readers_options(x.path, self.path, self._options)
        if options is None:
            variable = SERVERS[x.path.partition("://")[0]][0]
            raise InputError(
                f"{sanitize(x.path, 200)} was not read: only the store's job names its bucket and "
                "its server, and the store may not be yours. If you trust the store's job, verify "
                f"with --trust (trust=True); or name the server ({variable}, or storage_options "
                "with an endpoint)"
            )
        try:
            return open_columns(**x.asked | {"storage_options": options})
        except InputError as error:
            if x.storage_options is None:
                raise
            raise InputError(
                f"{str(error).rstrip('.')}. The storage_options of the store's job were not used. "
                "If you trust the job, verify with --trust (trust=True)"
            ) from error

    def done(self) -> set[int]:
        """Return the blocks whose shard of every array exists, from one listing of each array."""
        found = [arrays.present(self._array(name)) for name in self.record.arrays]
        former = self.record.former
        # The block in which X ended before it grew may hold the former columns only
        partial = set() if former is None else {former.columns // former.block_columns}
        return set.intersection(*found) - partial

    def is_whole(self) -> bool:
        """Return whether the store is marked complete and the arrays of `finish` exist."""
        return self.record.state == "complete" and not any(map(self.is_absent, self.record.plans))

    def is_absent(self, plan: ArrayPlan) -> bool:
        """Return whether an array is one that is written at the end, and does not exist."""
        return not plan.per_block and not arrays.present(self._array(plan.name))

    def is_current(self) -> bool:
        """Return whether the store at the path is still this one: a run may have replaced it."""
        try:
            document = json.loads(self.place.read("zarr.json"))
            return bool(document["attributes"][KEY]["id"] == self.record.id)
        except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
            return False

    def missing(self) -> list[int]:
        """Return the blocks that are not done, ascending."""
        done = self.done()
        return [block for block in range(self.grid.blocks) if block not in done]

    def status(self) -> Status:
        """Return the status of the store; StoreError if it cannot be read."""
        held = None
        with suppress(OSError):
            held = holder(self.place)
        try:
            absent: tuple[str, ...] = ()
            if self.record.state == "complete":
                absent = tuple(plan.name for plan in self.record.plans if self.is_absent(plan))
            return Status(self.path, self.record, tuple(self.missing()), held, absent)
        except OSError as error:
            raise StoreError(
                f"{self.path}: the store cannot be read: {error}. Check its permissions and, for a "
                "URL, the connection."
            ) from error

    def counted(self, name: str = "nonfinite") -> set[int]:
        """Return the blocks in which columns of X (or results, by `name`) are not finite."""
        return arrays.present(self._array(name)) if name in self.record.counts else set()

    def count(self, block: int) -> int:
        """Count the columns of X in a block that are not finite."""
        return int(self.read_rows("nonfinite", block, block + 1)[0])

    def nonfinite(self) -> int:
        """Count the columns of X that are not finite, in the blocks that are written."""
        return self._counts("nonfinite")

    def nonfinite_results(self) -> int | None:
        """Count the columns whose results are not finite; None if the store does not count them."""
        return self._counts("nonfinite_results") if self.record.counts_results else None

    def _counts(self, name: str) -> int:
        try:
            return arrays.total(self._array(name))
        except ValueError as error:
            raise StoreError(
                f"{self.path}: the store's array {name} is damaged: {why(error)}. "
                "colonnade run --repair JOB computes it again."
            ) from error

    def read(self, name: str) -> NDArray[Any]:
        """Read a whole, small array; ValueError as for `read_rows`."""
        return self.read_rows(name)

    def read_rows(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Read rows of an array; ValueError if the stored bytes are not those written."""
        return arrays.read(self._safe_array(name), start, stop)

    def take_rows(self, name: str, numbers: NDArray[Any]) -> NDArray[Any]:
        """Read the rows with these numbers; ValueError as for `read_rows`."""
        return arrays.take(self._safe_array(name), numbers)

    def read_parts(self, name: str) -> Iterator[NDArray[Any]]:
        """Yield an array in groups of whole shards, from its first row to its last."""
        array = self._array(name)
        rows = (array.shards or array.chunks)[0]
        row_bytes = array.dtype.itemsize * math.prod(array.shape[1:])
        step = max(1, _PART_BYTES // (rows * row_bytes)) * rows
        for start in range(0, array.shape[0], step):
            yield self.read_rows(name, start, min(start + step, array.shape[0]))

    def chunks(self, name: str, block: int) -> list[tuple[int, int]]:
        """Return (first row, last row + 1) of each chunk of a block's shard of an array.

        Raises
        ------
        ValueError
            The shard is too short, or leaves out a chunk.
        """
        array = self._array(name)
        arrays.check_index(array, block)
        return arrays.chunks(array, block)

    def coordinates(self) -> dict[Dimension, Coordinate]:
        """Return the coordinates that were copied from X's own store."""
        copied = {dimension: self._array(dimension) for dimension in self.record.labels.copied}
        return {name: Coordinate(a, a.attrs.asdict(), 0, a.shape[0]) for name, a in copied.items()}

    def _safe_array(self, name: str) -> zarr.Array[Any]:
        """Open an array to read it safely: an untrusted store's chunk may unpack to gigabytes."""
        array = self._array(name)
        if self.record.job.output.compression == "none":
            return array
        known, safe = self._safe.get(name, (None, array))
        # The array was reopened because its shape has changed
        if known is not array:
            safe = bounded(array)
            self._safe[name] = array, safe
        return safe

    def _array(self, name: str) -> zarr.Array[Any]:
        if name not in self._arrays:
            try:
                check_document(self.place, name)
                array = self._group.get(name)
            # Damaged metadata can make zarr raise any exception
            except Exception as error:
                raise StoreError(
                    f"{self.path}: the store's array {name} is damaged: {why(error)}. {REMEDY}"
                ) from error
            if not isinstance(array, zarr.Array):
                raise StoreError(f"{self.path}: the store has no array {name!r}. {REMEDY}")
            # Otherwise a block of zeros (saturated slopes) would write no key and never be done
            self._arrays[name] = array.with_config({"write_empty_chunks": True})
        return self._arrays[name]
