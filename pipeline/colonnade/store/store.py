"""The Zarr group that a run makes: create it, write a block, list what is there, finish it.

Metadata is written by one process, the run's; a task writes whole shards and nothing else. What
is done is asked of the store: a block is done when its shard of each array is there.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from types import MappingProxyType
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from colonnade.errors import StoreError, sanitize
from colonnade.events import BlockFailed, Listener, ignore
from colonnade.formatting import now
from colonnade.inputs.labels import Coordinate, Dimension, Labels
from colonnade.job import Job
from colonnade.limits import FAILURES_KEPT, RUNS_KEPT
from colonnade.network.network import Network
from colonnade.planning.plan import Plan
from colonnade.storage import Objects, place_at
from colonnade.storage.locations import storage_texts
from colonnade.store import arrays
from colonnade.store.consistency import array_plans
from colonnade.store.creation import clear_makings, destroy, make
from colonnade.store.history import RunLog, RunRecord
from colonnade.store.lease import Lease, LeaseOwner, hold, holder, release
from colonnade.store.metadata import KEY, why
from colonnade.store.record import (
    FailedBlock,
    Growth,
    InputRecord,
    Record,
    input_record,
    network_record,
)
from colonnade.store.shards import ShardBuffer
from colonnade.store.status import Status
from colonnade.store.view import StoreView
from colonnade.versions import versions

__all__ = [
    "KEY",
    "InputRecord",
    "Lease",
    "LeaseOwner",
    "RunLog",
    "Status",
    "Store",
    "hold",
    "holder",
    "input_record",
    "network_record",
]

_NO_LABELS = Labels()
# Of a record, what is known at the end
_UNFINISHED: Mapping[str, Any] = {
    "finished": None,
    "nonfinite": None,
    "nonfinite_results": None,
    "nonfinite_statistics": (),
    "failed": (),
}


class Store(StoreView):
    """A store at a path, as it was when it was opened, and what a run and its tasks write."""

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
        labels: Labels = _NO_LABELS,
        coordinates: Mapping[Dimension, Coordinate] = MappingProxyType({}),
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
        labels, coordinates
            As `find_labels` has found them.

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
            folded=network.folded,
            input=x,
            grid=plan.grid,
            arrays=tuple(array.name for array in plan.arrays if array.per_block),
            counts_results=True,
            labels=labels,
            versions=versions(),
        )

        def fill(store: Any) -> None:
            group = zarr.create_group(store, attributes={KEY: record.model_dump(mode="json")})
            for array in array_plans(record, plan.grid):
                arrays.create(group, array, job.output, network)
            for array in arrays.weights_plans(network.sizes, network.dtype.name):
                arrays.create_weights(group, array, network)
            arrays.create_labels(group, labels)
            for dimension, coordinate in coordinates.items():
                arrays.create_coordinate(group, dimension, coordinate)

        try:
            make(place, record.id, fill, None if old is None else old.is_current, run, listener)
            return cls.open(job.output.path, job.output.storage_options)
        except (OSError, StoreError) as error:
            if run is not None:
                release(place, run)
            if isinstance(error, StoreError):
                raise
            raise StoreError(f"{place}: the store cannot be made: {why(error)}.") from error

    def buffer(self, name: str) -> ShardBuffer:
        """Make a buffer for one shard of an array, to be filled and given to `write`."""
        return arrays.make_buffer(self._array(name))

    def write(
        self,
        block: int,
        buffers: Mapping[str, ShardBuffer],
        nonfinite: int = 0,
        nonfinite_results: int = 0,
    ) -> int:
        """Write a block's shard of each array, the main one's last; return their numbers' bytes."""
        if nonfinite:
            self._array("nonfinite")[block] = nonfinite
        if nonfinite_results and self.record.counts_results:
            self._array("nonfinite_results")[block] = nonfinite_results
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

    def discard(self, block: int) -> None:
        """Delete a block's shards, the main array's first: from then on it is not done."""
        for name in (*reversed(self.record.arrays), *self.record.counts):
            arrays.remove(self._array(name), block)

    def delete(self) -> None:
        """Delete all of it, unless another store has taken its place."""
        if self.is_current():
            destroy(self.place)

    def restore_weights(self, network: Network) -> None:
        """Write the weights again."""
        for name, values in network.arrays.items():
            self._array(name)[...] = values

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
                # Those of the columns end where X did
                labels=self.record.labels.model_copy(update={"copied": ()}),
                **_UNFINISHED,
            )
            self.end_growth()
        elif job != self.record.job or self.record.state != "writing" or self.record.failed:
            self._update(job=job, state="writing", **_UNFINISHED)

    def end_growth(self) -> None:
        """Finish making the store longer, where a run that did so was killed."""
        former, growth = self.record.former, self.record.growth
        if former is None or growth is None:
            return
        if former.columns % former.block_columns:
            self.discard(former.blocks - 1)
        for name in [plan.name for plan in self.record.plans if not plan.per_block]:
            arrays.remove(self._array(name), 0)
        if "column" in self._group:
            del self._group["column"]
        for plan in array_plans(self.record, self.grid):
            array = self._array(plan.name)
            if array.shape != plan.shape:
                array.resize(plan.shape)
        self._arrays.clear()
        self._update(growth=growth.model_copy(update={"resized": True}))

    def fail(self, failures: Iterable[BlockFailed]) -> None:
        """Note the first blocks that have failed, and why, for those who ask for the status."""
        noted = (FailedBlock(block=f.block, cause=sanitize(f.cause, 500)) for f in failures)
        # If its disk fails, so have the blocks, which is told anyway
        with suppress(OSError):
            self._update(failed=tuple(islice(noted, FAILURES_KEPT)))

    def label(self, job: Job, labels: Labels, coordinates: Mapping[Dimension, Coordinate]) -> None:
        """Write names, scales and coordinates anew; the numbers and the state stay."""
        for dimension in ("input", "output", "column"):
            if dimension in self._group:
                del self._group[dimension]
        arrays.create_labels(self._group, labels)
        for dimension, coordinate in coordinates.items():
            arrays.create_coordinate(self._group, dimension, coordinate)
        self._arrays.clear()
        self._update(job=job, labels=labels)

    def log(self, run: RunRecord) -> None:
        """Keep what a run has done, before anything is said of the store's state."""
        self._update(runs=(*self.record.runs, run)[-RUNS_KEPT:])

    def finish(self, results: Mapping[str, NDArray[Any]]) -> None:
        """Write what is known at the end alone, then say that the store is complete."""
        overflowed = []
        for name, result in results.items():
            # What leaves the range of the store's type is told
            with np.errstate(over="ignore"):
                stored = np.asarray(result).astype(self._array(name).dtype)
            self._array(name)[...] = stored
            if not np.isfinite(stored).all():
                overflowed.append(name)
        for name in {*self.record.arrays, *results, *self.weights, *self.record.counts}:
            arrays.clear_orphans(self._array(name))
        arrays.clear_orphans(self._group)
        clear_makings(self.place)
        self._update(
            failed=(),
            state="complete",
            finished=now(),
            nonfinite=self.nonfinite(),
            nonfinite_results=self.nonfinite_results(),
            nonfinite_statistics=tuple(sorted(overflowed)),
        )

    def _update(self, **changes: Any) -> None:
        if not self.is_current():
            raise StoreError(f"{self.path}: another run has made the store anew.")
        self.record = self.record.model_copy(update=changes)
        self._group.update_attributes({KEY: self.record.model_dump(mode="json")})
