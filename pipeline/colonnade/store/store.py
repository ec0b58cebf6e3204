"""The Zarr group that a run makes: create it, write its blocks, list them, finish it.

Only the run's own process writes metadata; a task writes whole shards and nothing else. The store
itself shows the progress: a block is done when its shard of each array exists.
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
from colonnade.store.history import RunRecord
from colonnade.store.lease import release
from colonnade.store.metadata import KEY, why
from colonnade.store.record import (
    FailedBlock,
    Growth,
    InputRecord,
    Record,
    network_record,
)
from colonnade.store.shards import ShardBuffer
from colonnade.store.view import StoreView
from colonnade.versions import versions

__all__ = [
    "Store",
]

_NO_LABELS = Labels()
# Fields of a record that are known only at the end, as they are before
_UNFINISHED: Mapping[str, Any] = {
    "finished": None,
    "nonfinite": None,
    "nonfinite_results": None,
    "nonfinite_statistics": (),
    "failed": (),
}


class Store(StoreView):
    """A store at a path, as it was when it was opened, for a run and its tasks to write."""

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
        """Create the arrays at the job's output path and write the weights.

        Parameters
        ----------
        old
            The store to replace.
        run
            The run that holds the new store's lease from the start.
        listener
            As for `hold`.
        labels, coordinates
            As `find_labels` returns them.

        Raises
        ------
        StoreError
            The place cannot be written to, or holds something other than a store.
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
            raise StoreError(
                f"{place}: the store cannot be made: {why(error)}. Check that this host may write "
                "there (output.path)."
            ) from error

    def buffer(self, name: str) -> ShardBuffer:
        """Make a buffer for one shard of an array, to be filled and passed to `write`."""
        return arrays.make_buffer(self._array(name))

    def write(
        self,
        block: int,
        buffers: Mapping[str, ShardBuffer],
        nonfinite: int = 0,
        nonfinite_results: int = 0,
    ) -> int:
        """Write a block's shard of each array, the main one's last; return the numbers' bytes."""
        if nonfinite:
            self._array("nonfinite")[block] = nonfinite
        if nonfinite_results and self.record.counts_results:
            self._array("nonfinite_results")[block] = nonfinite_results
        written = sum(
            arrays.write(self._array(name), block, buffers[name]) for name in self.record.arrays
        )
        # Recheck ownership after the upload: a missing block is safer than one in another run's
        # store, or one that ends where X ended before it grew
        start, stop = self.grid.bounds(block)
        partial = stop - start < self.grid.block_columns
        if (partial or isinstance(self.place, Objects)) and not self.is_current():
            self.discard(block)
            raise StoreError(
                f"{self.path}: another run has recreated the store. Run the same command again."
            )
        return written

    def discard(self, block: int) -> None:
        """Delete a block's shards, the main array's first: from then on the block is not done."""
        for name in (*reversed(self.record.arrays), *self.record.counts):
            arrays.remove(self._array(name), block)

    def delete(self) -> None:
        """Delete the whole store, unless another one has replaced it."""
        if self.is_current():
            destroy(self.place)

    def restore_weights(self, network: Network) -> None:
        """Write the weights again."""
        for name, values in network.arrays.items():
            self._array(name)[...] = values

    def adopt(self, job: Job, x: InputRecord) -> None:
        """Record the job of a resumed run: its files may have moved, its cluster may be another.

        If X has grown, the store grows too. The order of the steps makes a kill at any moment safe:
        no reader takes the store for complete, and the same command finishes it. First the record
        announces the growth under a new id, which stops the workers of former runs from writing.
        Then everything that depends on the former end of X is deleted. Then the arrays are resized.
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
                # Column coordinates end where X ended before
                labels=self.record.labels.model_copy(update={"copied": ()}),
                **_UNFINISHED,
            )
            self.end_growth()
        elif job != self.record.job or self.record.state != "writing" or self.record.failed:
            self._update(job=job, state="writing", **_UNFINISHED)

    def end_growth(self) -> None:
        """Finish the growth of the store, if one has begun: a run may have been killed in it."""
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
        """Record the first failed blocks and their causes, for `status`."""
        noted = (FailedBlock(block=f.block, cause=sanitize(f.cause, 500)) for f in failures)
        # If the disk fails, the blocks failed too, and the run reports that
        with suppress(OSError):
            self._update(failed=tuple(islice(noted, FAILURES_KEPT)))

    def label(self, job: Job, labels: Labels, coordinates: Mapping[Dimension, Coordinate]) -> None:
        """Rewrite names, scales and coordinates; the numbers and the state stay."""
        for dimension in ("input", "output", "column"):
            if dimension in self._group:
                del self._group[dimension]
        arrays.create_labels(self._group, labels)
        for dimension, coordinate in coordinates.items():
            arrays.create_coordinate(self._group, dimension, coordinate)
        self._arrays.clear()
        self._update(job=job, labels=labels)

    def log(self, run: RunRecord) -> None:
        """Record what a run has done, before the store's state changes."""
        self._update(runs=(*self.record.runs, run)[-RUNS_KEPT:])

    def finish(self, results: Mapping[str, NDArray[Any]]) -> None:
        """Write the results that are known only at the end, then mark the store complete."""
        overflowed = []
        for name, result in results.items():
            # Overflow of the stored type is found and recorded below
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
            raise StoreError(
                f"{self.path}: another run has recreated the store. Run the same command again."
            )
        self.record = self.record.model_copy(update=changes)
        self._group.update_attributes({KEY: self.record.model_dump(mode="json")})
