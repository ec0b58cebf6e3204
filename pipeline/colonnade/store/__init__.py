"""The Zarr group that a run makes: create it, write a block, list what is there, finish it.

Metadata is written by one process, the run's; a task writes whole shards and nothing else. What
is done is asked of the store: a block is done when its shard of each array is there.
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from colonnade.columns import Columns, open_columns
from colonnade.environment import versions
from colonnade.errors import StoreError, shown
from colonnade.events import BlockFailed, Listener, ignore
from colonnade.job import Job
from colonnade.layout import ArrayPlan, Grid
from colonnade.locations import Options, storage_texts
from colonnade.network import ARRAYS, Network
from colonnade.places import Objects, Place, place_at
from colonnade.plan import Plan
from colonnade.shards import ShardBuffer
from colonnade.store import arrays
from colonnade.store.agreement import array_plans, check
from colonnade.store.findings import Failure, Verification
from colonnade.store.history import MOST_RUNS, RunLog, RunRecord
from colonnade.store.lease import Holder, Lease, hold, holder, release
from colonnade.store.making import clear_makings, destroy, make
from colonnade.store.opening import KEY, REMEDY, check_document, opened, why
from colonnade.store.record import (
    MOST_FAILED,
    FailedBlock,
    Growth,
    InputRecord,
    NetworkRecord,
    Record,
    Status,
    input_record,
    network_record,
)
from colonnade.words import now

__all__ = [
    "Failure",
    "Holder",
    "InputRecord",
    "Lease",
    "NetworkRecord",
    "Record",
    "RunLog",
    "RunRecord",
    "Status",
    "Store",
    "Verification",
    "hold",
    "holder",
    "input_record",
    "network_record",
]

# Of an array that is read some rows at a time
_PART_BYTES = 64 * 2**20


class Store:
    """A store at a path, as it was when it was opened."""

    def __init__(self, place: Place, group: zarr.Group, record: Record) -> None:
        self.path = place.url
        self.place = place
        self.record = record
        self._group = group
        self._arrays: dict[str, zarr.Array[Any]] = {}

    @classmethod
    def open(cls, path: str | Path, storage_options: Options = None) -> Store:
        """Open a store that exists.

        Parameters
        ----------
        path
            A directory, or a URL of an object store.
        storage_options
            Of the object store.

        Raises
        ------
        StoreError
            There is none, or what is there is not of this format.
        """
        store = cls.find(path, storage_options)
        if store is None:
            raise StoreError(f"{path}: there is no store.")
        return store

    @classmethod
    def find(cls, path: str | Path, storage_options: Options = None) -> Store | None:
        """Open a store, or return None where nothing is at its path.

        Raises
        ------
        StoreError
            Something else is there.
        """
        place = place_at(path, storage_texts(storage_options))
        found = opened(place)
        if found is None:
            return None
        store = cls(place, *found)
        try:
            check(store.path, store.record, store._array)
        except StoreError:
            # It may have been made anew, or longer, since its record was read
            if store.is_current():
                raise
            return cls.find(path, storage_options)
        return store

    @classmethod
    def create(
        cls,
        plan: Plan,
        network: Network,
        job: Job,
        x: InputRecord,
        old: Store | None = None,
        run: str | None = None,
        listener: Listener = ignore,
    ) -> Store:
        """Make the arrays at the job's output path and write the weights.

        Parameters
        ----------
        old
            The store to replace.
        run
            The run that holds the new store from its first moment on.
        listener
            As for `hold`.

        Raises
        ------
        StoreError
            The place cannot be written to, or holds something else than a store.
        """
        place = place_at(job.output.path, storage_texts(job.output.storage_options))
        record = Record(
            state="writing",
            id=uuid.uuid4().hex,
            created=now(),
            job=job,
            network=network_record(network),
            input=x,
            grid=plan.grid,
            arrays=tuple(array.name for array in plan.arrays if array.per_block),
            versions=versions(),
        )

        def fill(store: Any) -> None:
            group = zarr.create_group(store, attributes={KEY: record.model_dump(mode="json")})
            for array in array_plans(record, plan.grid):
                arrays.create(group, array, job.output)
            for name in ARRAYS:
                arrays.create_weights(group, name, getattr(network, name))

        try:
            make(place, record.id, fill, None if old is None else old.is_current, run, listener)
            return cls.open(job.output.path, job.output.storage_options)
        except (OSError, StoreError) as error:
            if run is not None:
                release(place, run)
            if isinstance(error, StoreError):
                raise
            raise StoreError(f"{place}: the store cannot be made: {why(error)}.") from error

    @property
    def grid(self) -> Grid:
        """How its columns fall into blocks."""
        return self.record.grid

    def network(self) -> Network:
        """Rebuild the network from the store's own arrays; ValueError where they are damaged."""
        W1, b1, W2, b2 = (self.read(name) for name in ARRAYS)
        return Network(W1, b1, W2, b2, self.record.job.network.activation)

    def columns(self) -> Columns:
        """Open X where the store's job says that it is."""
        x = self.record.job.input
        return open_columns(**x.asked)

    def done(self) -> set[int]:
        """Blocks whose shard of every array is there: one listing of each array's keys."""
        found = [arrays.present(self._array(name)) for name in self.record.arrays]
        former = self.record.former
        # Of the block in which X ended before it grew, there may be no more than that
        partial = set() if former is None else {former.columns // former.block_columns}
        return set.intersection(*found) - partial

    def is_whole(self) -> bool:
        """Whether the store says that it is complete, and what `finish` wrote is there."""
        return self.record.state == "complete" and not any(map(self.is_absent, self.record.plans))

    def is_absent(self, plan: ArrayPlan) -> bool:
        """Whether an array that is written at the end is not there."""
        return not plan.per_block and not arrays.present(self._array(plan.name))

    def is_current(self) -> bool:
        """Whether the store at the path is still this one; another run may have replaced it."""
        try:
            document = json.loads(self.place.read("zarr.json"))
            return bool(document["attributes"][KEY]["id"] == self.record.id)
        except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
            return False

    def missing(self) -> list[int]:
        """Blocks that are not done, ascending."""
        done = self.done()
        return [block for block in range(self.grid.blocks) if block not in done]

    def status(self) -> Status:
        """Ask the store how far it is; StoreError where it cannot be read."""
        held = None
        with suppress(OSError):
            held = holder(self.place)
        try:
            return Status(self.path, self.record, tuple(self.missing()), held)
        except OSError as error:
            raise StoreError(f"{self.path}: the store cannot be read: {error}.") from error

    def counted(self) -> set[int]:
        """Blocks in which columns of X are not finite."""
        return arrays.present(self._array("nonfinite"))

    def count(self, block: int) -> int:
        """Count the columns of X in a block that are not finite."""
        return int(self.read_rows("nonfinite", block, block + 1)[0])

    def nonfinite(self) -> int:
        """Count the columns of X that are not finite, in the blocks that have been written."""
        try:
            return arrays.total(self._array("nonfinite"))
        except ValueError as error:
            raise StoreError(
                f"{self.path}: the store's array nonfinite is damaged: {why(error)}. "
                "colonnade run --repair JOB computes it again."
            ) from error

    def buffer(self, name: str) -> ShardBuffer:
        """Make a buffer for one shard of an array, to be filled and given to `write`."""
        return arrays.make_buffer(self._array(name))

    def write(self, block: int, buffers: Mapping[str, ShardBuffer], nonfinite: int = 0) -> int:
        """Write a block's shard of each array, the main one's last; return their numbers' bytes."""
        if nonfinite:
            self._array("nonfinite")[block] = nonfinite
        written = sum(
            arrays.write(self._array(name), block, buffers[name]) for name in self.record.arrays
        )
        # An upload takes its time. A block that is missing is better than another store's, or one
        # that ends where X did
        start, stop = self.grid.bounds(block)
        partial = stop - start < self.grid.block_columns
        if (partial or isinstance(self.place, Objects)) and not self.is_current():
            self.discard(block)
            raise StoreError(f"{self.path}: another run has made the store anew.")
        return written

    def read(self, name: str) -> NDArray[Any]:
        """Read one of the small arrays whole; ValueError as for `read_rows`."""
        return self.read_rows(name)

    def read_rows(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Read rows of an array; ValueError where what is stored is not what was written."""
        return arrays.read(self._array(name), start, stop)

    def read_parts(self, name: str) -> Iterator[NDArray[Any]]:
        """Read an array in whole shards, some at a time, from its first row to its last."""
        array = self._array(name)
        rows = (array.shards or array.chunks)[0]
        row_bytes = array.dtype.itemsize * math.prod(array.shape[1:])
        step = max(1, _PART_BYTES // (rows * row_bytes)) * rows
        for start in range(0, array.shape[0], step):
            yield self.read_rows(name, start, min(start + step, array.shape[0]))

    def chunks(self, name: str, block: int) -> list[tuple[int, int]]:
        """First row, and the one after the last, of each chunk of a block's shard of an array.

        Raises
        ------
        ValueError
            The shard is too short, or leaves out a chunk.
        """
        array = self._array(name)
        arrays.check_index(array, block)
        return arrays.chunks(array, block)

    def discard(self, block: int) -> None:
        """Delete a block's shards, the main array's first: from then on it is not done."""
        for name in (*reversed(self.record.arrays), "nonfinite"):
            arrays.remove(self._array(name), block)

    def delete(self) -> None:
        """Delete all of it, unless another store has taken its place."""
        if self.is_current():
            destroy(self.place)

    def restore_weights(self, network: Network) -> None:
        """Write the weights again."""
        for name in ARRAYS:
            self._array(name)[...] = getattr(network, name)

    def adopt(self, job: Job, x: InputRecord) -> None:
        """Take over a resumed run's job: its files may have moved, its cluster may be another.

        Where X has grown the store does, so that a kill at any moment leaves a store that nobody
        takes for complete and the same command finishes: first its record says so, with a new id,
        for which former runs' workers write nothing; then goes what depends on where X ended;
        then the arrays get their shapes.
        """
        self.end_growth()
        columns = self.grid.columns
        if x.columns > columns:
            self._update(
                state="writing",
                id=uuid.uuid4().hex,
                job=job,
                input=x,
                grid=replace(self.grid, columns=x.columns),
                growth=Growth(columns=columns, begun=now()),
                finished=None,
                nonfinite=None,
                failed=(),
            )
            self.end_growth()
        elif job != self.record.job or self.record.state != "writing" or self.record.failed:
            self._update(job=job, state="writing", finished=None, nonfinite=None, failed=())

    def end_growth(self) -> None:
        """Finish making the store longer, where a run that did so was killed."""
        former, growth = self.record.former, self.record.growth
        if former is None or growth is None:
            return
        if former.columns % former.block_columns:
            self.discard(former.blocks - 1)
        for name in [plan.name for plan in self.record.plans if not plan.per_block]:
            arrays.remove(self._array(name), 0)
        for plan in array_plans(self.record, self.grid):
            array = self._array(plan.name)
            if array.shape != plan.shape:
                array.resize(plan.shape)
        self._arrays.clear()
        self._update(growth=growth.model_copy(update={"resized": True}))

    def fail(self, failures: Iterable[BlockFailed]) -> None:
        """Note the first blocks that have failed, and why, for those who ask for the status."""
        noted = (FailedBlock(block=f.block, cause=shown(f.cause, 500)) for f in failures)
        # If its disk fails, so have the blocks, which is told anyway
        with suppress(OSError):
            self._update(failed=tuple(islice(noted, MOST_FAILED)))

    def log(self, run: RunRecord) -> None:
        """Keep what a run has done, before anything is said of the store's state."""
        self._update(runs=(*self.record.runs, run)[-MOST_RUNS:])

    def finish(self, results: Mapping[str, NDArray[Any]]) -> None:
        """Write what is known at the end alone, then say that the store is complete."""
        for name, result in results.items():
            self._array(name)[...] = np.asarray(result).astype(self._array(name).dtype)
        for name in {*self.record.arrays, *results, *ARRAYS, "nonfinite"}:
            arrays.clear_orphans(self._array(name))
        arrays.clear_orphans(self._group)
        clear_makings(self.place)
        self._update(failed=(), state="complete", finished=now(), nonfinite=self.nonfinite())

    def _array(self, name: str) -> zarr.Array[Any]:
        if name not in self._arrays:
            try:
                check_document(self.place, name)
                array = self._group.get(name)
            # zarr raises whatever damaged metadata happens to break
            except Exception as error:
                raise StoreError(
                    f"{self.path}: the store's array {name} is damaged: {why(error)}. {REMEDY}"
                ) from error
            if not isinstance(array, zarr.Array):
                raise StoreError(f"{self.path}: the store has no array {name!r}. {REMEDY}")
            # Else a block of zeros (saturated slopes) would leave no key, and never be done
            self._arrays[name] = array.with_config({"write_empty_chunks": True})
        return self._arrays[name]

    def _update(self, **changes: Any) -> None:
        if not self.is_current():
            raise StoreError(f"{self.path}: another run has made the store anew.")
        self.record = self.record.model_copy(update=changes)
        self._group.update_attributes({KEY: self.record.model_dump(mode="json")})
