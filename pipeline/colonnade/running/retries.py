"""Compute the missing blocks on a cluster; retry failed blocks in isolation."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial

from colonnade.clusters import Cluster, NoAnswer, StuckWorker, Tracker, each_worker
from colonnade.errors import IncompleteError
from colonnade.events import (
    BlockDone,
    BlockFailed,
    Listener,
    NoWorkers,
    Stalled,
    Stopping,
    WorkerReplaced,
)
from colonnade.job import AddressCluster, ClusterSettings, GatewayCluster, LocalCluster
from colonnade.running.dispatch import LostBatch, answering, batches, dispatch, in_flight
from colonnade.running.input_guard import InputGuard
from colonnade.running.worker import (
    Changed,
    Failed,
    StoreAddress,
    VersionMismatch,
    compute_blocks,
    reach,
    release,
)
from colonnade.signals.stopping import Stop
from colonnade.storage.locations import storage_texts
from colonnade.store import Lease, Store
from colonnade.store.slopes import SlopesAddress
from colonnade.versions import versions

__all__ = ["compute"]

# Once this many blocks kill their workers even when they run alone, give up all other suspects
_KILLERS = 3
# Something may hang after this many seconds without a finished block, or after this many times the
# longest such time so far. The same holds for a worker at its task, and the slowest task so far
_PATIENCE = 300.0
_PATIENT = 10
# Unless the job sets stall_timeout, a task gets this many times longer after each worker that was
# stuck at it: blocks that are only slow must finish in the end
_MORE = 2.0
# Checks for stuck workers within that time, and the limits of the seconds between two checks
_LOOKS = 30
_SHORTEST, _LONGEST = 1.0, 10.0
# Fewest seconds for a worker to import this package and the libraries for X and the store
_IMPORT = 60.0
# Seconds for workers to free what they keep for the run
_FREE = 5.0
# Seconds before each retry with the workers that do not reach the store
_PAUSES = (0.5, 2.0, 5.0)


def compute(
    cluster: Cluster,
    store: Store,
    lease: Lease,
    missing: list[int],
    batch: int,
    settings: ClusterSettings,
    stop: Stop,
    listener: Listener,
    guard: InputGuard,
    stamp: str,
    slopes: SlopesAddress | None = None,
) -> Iterator[BlockDone | BlockFailed]:
    """Compute the missing blocks on the cluster and yield the result of each.

    After a signal, no further block is started, and the generator ends when the blocks in flight
    are done or the grace period is over.

    Parameters
    ----------
    batch
        Largest number of blocks in a task.
    guard, stamp
        The guard of X, and the stamp by which workers recognise X. If X has changed, the generator
        ends as after a signal, and the guard has the cause.
    slopes
        A store of slopes that replaces X as the source.

    Raises
    ------
    CommClosedError
        The scheduler is lost.
    IncompleteError
        The lease or all workers are lost; or a worker cannot, or must not, compute blocks.
    """
    options = tuple(storage_texts(store.record.job.output.storage_options).items())
    here = tuple(versions().items())
    address = StoreAddress(store.path, store.record.id, lease.run, options, slopes, here, stamp)
    watch = _RunMonitor(cluster, store, lease, settings, stop, listener, guard)
    rounds = _Retries(cluster, store, address, watch)
    try:
        # Workers on this machine reach what this process reaches
        if not isinstance(settings, LocalCluster):
            _check_reach(cluster, store, address, watch)
        yield from rounds.all(missing, batch)
    except _TimeIsUp:
        return
    finally:
        # The workers of other clusters end with the run
        if isinstance(settings, AddressCluster | GatewayCluster):
            _release(cluster, address)


class _Retries:
    def __init__(
        self, cluster: Cluster, store: Store, address: StoreAddress, watch: _RunMonitor
    ) -> None:
        self._client = cluster.client
        self._most = in_flight(cluster.most_threads)
        self._path = store.path
        self._compute = partial(compute_blocks, address)
        self._watch = watch
        self._grid = store.grid

    def all(self, missing: list[int], batch: int) -> Iterator[BlockDone | BlockFailed]:
        """Compute blocks in batches; retry failed ones singly; then alone on the whole cluster."""
        failed: list[Failed] = []
        yield from self._round(batches(missing, batch), self._most, failed)
        self._watch.try_again()
        # A cause in its worker, or in other blocks of its batch, may be gone
        again = sorted(failure.block for failure in failed)
        failed.clear()
        yield from self._round(batches(again, 1), self._most, failed)
        # Dask blames every task that a dying worker had; only the block that runs alone is guilty
        self._watch.try_again()
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
            if isinstance(back, LostBatch):
                failed += [Failed(block, str(back), killed=back.killed) for block in blocks]
                continue
            done = [receipt for receipt in back if isinstance(receipt, BlockDone)]
            self._watch.arrived(done)
            for receipt in back:
                if isinstance(receipt, BlockDone):
                    self._watch.saw(receipt)
                    yield receipt
                elif isinstance(receipt, Changed):
                    self._watch.changed(receipt)
                elif isinstance(receipt, Failed):
                    failed.append(receipt)
                elif isinstance(receipt, VersionMismatch):
                    raise IncompleteError(
                        f"{self._path} is incomplete: the worker {receipt.process}, which joined "
                        f"during the run, has {receipt.cause}. Install the client's versions "
                        "there; the same command computes what is missing."
                    )


def _check_reach(cluster: Cluster, store: Store, address: StoreAddress, watch: _RunMonitor) -> None:
    """Raise IncompleteError if a worker does not reach the store or X."""
    found: dict[str, str] = {}
    workers: list[str] | None = None
    seconds = max(watch.timeout, _IMPORT)
    for pause in (*_PAUSES, 0.0):
        watch.goes_on()
        with answering(cluster.client):
            answers = each_worker(cluster.client, seconds, reach, address, workers=workers)
        for worker, answer in answers.items():
            if isinstance(answer, NoAnswer):
                raise IncompleteError(
                    f"{address.path} is incomplete: the worker {worker} did not report within "
                    f"{seconds:g} s whether it reaches the store and X: a disk there may not "
                    "answer, or its process may be suspended. End that worker; the same command "
                    "computes what is missing."
                )
        # Ignore workers that have left meanwhile: they report nothing
        found = {worker: cause for worker, cause in answers.items() if isinstance(cause, str)}
        # If the store was replaced meanwhile, the run ends for that reason
        if not found or not store.is_current():
            return
        # On a network file system, other hosts may see new files with a delay
        workers = list(found)
        time.sleep(pause)
    worker, cause = next(iter(found.items()))
    others = f", nor do {len(found) - 1} more" if len(found) > 1 else ""
    raise IncompleteError(
        f"{address.path} is incomplete: the worker {worker} does not reach the store and X"
        f"{others}: {str(cause).rstrip('.')}. Put both where every worker reaches them by the same "
        "path; the same command computes what is missing."
    )


def _release(cluster: Cluster, address: StoreAddress) -> None:
    """Have workers that outlive the run free what they keep for it."""
    # A worker or scheduler that cannot be reached any more frees nothing
    with suppress(Exception):
        each_worker(cluster.client, _FREE, release, address)


class _TimeIsUp(Exception):  # noqa: N818 (it ends a wait, and is no error)
    """The grace period of the blocks in flight is over."""


class _RunMonitor:
    """Watches for a signal while a run waits, and checks its lease, X and its workers."""

    def __init__(
        self,
        cluster: Cluster,
        store: Store,
        lease: Lease,
        settings: ClusterSettings,
        stop: Stop,
        listener: Listener,
        guard: InputGuard,
    ) -> None:
        self._cluster = cluster
        self._guard = guard
        self._path = store.path
        self._lease = lease
        self._settings = settings
        self._stop = stop
        self._listener = listener
        self._end = 0.0
        self.timeout = settings.timeout
        self._absent: float | None = None
        self._arrived = time.monotonic()
        self._patience = _PATIENCE
        self._slowest = 0.0
        self._factor = 1.0
        self._looked = time.monotonic()
        self._tracker = Tracker()

    def goes_on(self) -> bool:
        self._stop.check()
        self._lease.check()
        self._guard.look()
        if self._stop.signum is None and self._guard.cause is None:
            return True
        if not self._end:
            self._end = time.monotonic() + self._settings.grace
            self._lease.stop()
            if self._stop.signum is not None:
                self._listener(Stopping(self._stop.signum, self._settings.grace))
        if time.monotonic() > self._end:
            raise _TimeIsUp
        return False

    def saw(self, receipt: BlockDone) -> None:
        """Take note of a finished block."""
        self._guard.arrived(receipt.block)

    def changed(self, receipt: Changed) -> None:
        """Take note that a worker has found a changed X."""
        self._guard.report(f"{receipt.cause}, reported by {receipt.process}")

    def arrived(self, done: Sequence[BlockDone]) -> None:
        """Take note of a finished task and the blocks that it has computed."""
        if done:
            first, last = min(r.started for r in done), max(r.ended for r in done)
            self._slowest = max(self._slowest, last - first)
        now = time.monotonic()
        self._patience = max(self._patience, _PATIENT * (now - self._arrived))
        self._arrived = now

    def workers(self, number: int) -> None:
        if number < self._cluster.wanted and self._stop.signum is None:
            self._cluster.replace()
        if number:
            self._absent = None
            self._look_for_stalled()
            return
        if self._absent is None:
            self._absent = time.monotonic()
            self._listener(NoWorkers(self._settings.timeout))
        if time.monotonic() > self._absent + self._settings.timeout:
            trouble = self._cluster.trouble()
            raise IncompleteError(
                f"{self._path} is incomplete: all workers have left, and none joined within "
                f"{self._settings.timeout:g} s (cluster.timeout).{trouble} Once there are workers, "
                "the same command computes what is missing."
            )

    def try_again(self) -> None:
        """Allow more time: the next blocks have failed before, maybe because they are slow."""
        self._factor *= _MORE**2

    @property
    def _stall_timeout(self) -> float:
        """Seconds that a worker may spend on a task."""
        if self._settings.stall_timeout != "auto":
            return self._settings.stall_timeout
        return max(_PATIENCE, _PATIENT * self._slowest) * self._factor

    @property
    def _interval(self) -> float:
        return min(max(_SHORTEST, self._stall_timeout / _LOOKS), _LONGEST)

    def stuck(self, name: str, before: Mapping[str, int]) -> list[StuckWorker]:
        now = time.monotonic()
        if now < self._looked + self._interval or self._stop.signum is not None:
            return []
        self._looked = now
        with answering(self._cluster.client):
            self._tracker.look(self._cluster.occupation(name), now, 2 * self._interval)
        auto = self._settings.stall_timeout == "auto"
        more = {key: _MORE**times for key, times in before.items()} if auto else {}
        return self._tracker.stuck(self._stall_timeout, more)

    def give_up(self, stuck: StuckWorker, batches: Sequence[tuple[int, ...]]) -> None:
        blocks = tuple(sorted(block for batch in batches for block in batch))
        self._listener(WorkerReplaced(stuck.address, stuck.seconds, blocks, stuck.cause))
        with answering(self._cluster.client):
            self._cluster.give_up(stuck.address)
        self._arrived = time.monotonic()

    def _look_for_stalled(self) -> None:
        silent = time.monotonic() - self._arrived
        if silent < self._patience:
            return
        with answering(self._cluster.client):
            having = self._cluster.client.processing()
        self._listener(Stalled(silent, tuple(sorted(w for w, keys in having.items() if keys))))
        # Report again when the silence has doubled
        self._patience = 2 * silent
