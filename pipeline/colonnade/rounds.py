"""The missing blocks to a cluster, in rounds, so that what fails takes no other block with it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from functools import partial

from colonnade.clusters import Cluster
from colonnade.dispatch import Lost, batches, dispatch, in_flight
from colonnade.errors import IncompleteError
from colonnade.events import BlockDone, BlockFailed, Listener, NoWorkers, Stopping
from colonnade.job import ClusterSettings
from colonnade.locations import storage_texts
from colonnade.sources import Source
from colonnade.stopping import Stop
from colonnade.store import Lease, Store
from colonnade.task import Address, Failed, compute_blocks

__all__ = ["compute"]

# Blocks that kill their workers even when they are alone, before the rest are taken to do so too
_KILLERS = 3


def compute(
    cluster: Cluster,
    store: Store,
    lease: Lease,
    missing: list[int],
    batch: int,
    settings: ClusterSettings,
    stop: Stop,
    listener: Listener,
    slopes: Source | None = None,
) -> Iterator[BlockDone | BlockFailed]:
    """Compute the missing blocks on the cluster and yield what becomes of each.

    Where a signal stops the run, no block is begun any more, and the end comes when those in
    flight are done or have had their time.

    Parameters
    ----------
    batch
        Blocks of one task, at the most.
    slopes
        A store that the slopes are taken from, instead of X.

    Raises
    ------
    CommClosedError
        The scheduler is lost.
    IncompleteError
        The lease, or all workers, are lost.
    """
    watch = _Watch(store, lease, settings, stop, listener)
    rounds = _Rounds(cluster, store, lease, watch, slopes)
    try:
        yield from rounds.all(missing, batch)
    except _TimeIsUp:
        return


class _Rounds:
    def __init__(
        self, cluster: Cluster, store: Store, lease: Lease, watch: _Watch, slopes: Source | None
    ) -> None:
        self._client = cluster.client
        self._most = in_flight(cluster.capacity.total_threads)
        options = tuple(storage_texts(store.record.job.output.storage_options).items())
        address = Address(store.path, store.record.id, lease.run, options, slopes)
        self._compute = partial(compute_blocks, address)
        self._watch = watch
        self._grid = store.grid

    def all(self, missing: list[int], batch: int) -> Iterator[BlockDone | BlockFailed]:
        """Compute blocks in batches; again each by itself; and alone in the whole cluster."""
        failed: list[Failed] = []
        yield from self._round(batches(missing, batch), self._most, failed)
        # What troubled its worker, or its neighbours in the batch, may be over
        again = sorted(failure.block for failure in failed)
        failed.clear()
        yield from self._round(batches(again, 1), self._most, failed)
        # A worker that dies takes along all that it had, and Dask blames each of them
        suspects = sorted((f for f in failed if f.killed), key=lambda f: f.block)
        failed = [f for f in failed if not f.killed]
        for at, suspect in enumerate(suspects):
            found: list[Failed] = []
            yield from self._round(batches([suspect.block], 1), 1, found)
            failed += found
            if sum(f.killed for f in failed) == _KILLERS:
                failed += suspects[at + 1 :]
                break
        if self._watch.goes_on():
            for failure in sorted(failed, key=lambda f: f.block):
                yield BlockFailed(failure.block, *self._grid.bounds(failure.block), failure.cause)

    def _round(
        self, todo: Iterable[tuple[int, ...]], most: int, failed: list[Failed]
    ) -> Iterator[BlockDone]:
        for blocks, back in dispatch(self._client, self._compute, todo, most, self._watch):
            if isinstance(back, Lost):
                failed += [Failed(block, str(back), killed=back.killed) for block in blocks]
                continue
            for receipt in back:
                if isinstance(receipt, BlockDone):
                    yield receipt
                elif isinstance(receipt, Failed):
                    failed.append(receipt)


class _TimeIsUp(Exception):  # noqa: N818 (it ends a wait, and is no error)
    """Blocks in flight have had their time."""


class _Watch:
    """Looks, while a run waits, for a signal, and after its lease and its workers."""

    def __init__(
        self,
        store: Store,
        lease: Lease,
        settings: ClusterSettings,
        stop: Stop,
        listener: Listener,
    ) -> None:
        self._path = store.path
        self._lease = lease
        self._settings = settings
        self._stop = stop
        self._listener = listener
        self._end = 0.0
        self._absent: float | None = None

    def goes_on(self) -> bool:
        self._stop.check()
        self._lease.check()
        if self._stop.signum is None:
            return True
        if not self._end:
            self._end = time.monotonic() + self._settings.grace
            self._lease.stop()
            self._listener(Stopping(self._stop.signum, self._settings.grace))
        if time.monotonic() > self._end:
            raise _TimeIsUp
        return False

    def workers(self, number: int) -> None:
        if number:
            self._absent = None
            return
        if self._absent is None:
            self._absent = time.monotonic()
            self._listener(NoWorkers(self._settings.timeout))
        if time.monotonic() > self._absent + self._settings.timeout:
            raise IncompleteError(
                f"{self._path} is incomplete: all workers have gone, and none came within "
                f"{self._settings.timeout:g} s (cluster.timeout). Once there are workers, the same "
                "command computes what is missing."
            )
