"""Run a job, top to bottom: check, plan, create or resume the store, compute, finish."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from typing import Any

from distributed.comm.core import CommClosedError
from numpy.typing import NDArray

from colonnade import clusters
from colonnade.compute.products import PRODUCTS
from colonnade.errors import IncompleteError, StoreError, UsageError, one_line
from colonnade.events import (
    BlockDamaged,
    BlockFailed,
    ClusterReady,
    Listener,
    RunFinished,
    RunStarted,
    StoreGrown,
    StoreLabelled,
    ignore,
)
from colonnade.grid import Grid
from colonnade.job import Job
from colonnade.job.file import JobLike, load_job
from colonnade.network.network import Network
from colonnade.running.decision import Action, Existing, decide
from colonnade.running.prepare import PreparedJob, check_job
from colonnade.running.retries import compute
from colonnade.running.tally import Tally
from colonnade.signals.stopping import Stop, stoppable
from colonnade.store import Lease, Store, hold, network_record
from colonnade.store.slopes import Slopes
from colonnade.verification import Verification, check

__all__ = ["carry_out", "refuse_both", "run"]


def run(
    job: JobLike,
    overrides: Iterable[str] = (),
    *,
    overwrite: bool = False,
    repair: bool = False,
    listener: Listener = ignore,
) -> RunFinished:
    """Compute the missing blocks of a job's store and finish it; call it again to resume.

    Parameters
    ----------
    job, overrides
        A job file's path, or a mapping or `Job` of the same content; ``section.key=value`` each.
    overwrite
        Replace another job's store, or a finished one, at the same path.
    repair
        First verify the store, as `verify` does, and recompute damaged blocks.
    listener
        Called with each event of the run, in this thread.

    Raises
    ------
    UsageError
        The job, its files or its cluster are invalid; nothing was changed.
    IncompleteError
        Blocks failed; the store is resumable.
    StoppedError
        SIGINT, SIGTERM or SIGHUP arrived; the store is resumable.
    """
    clusters.refuse_spawned()
    refuse_both(overwrite=overwrite, repair=repair)
    given = load_job(job, overrides)
    checked = check_job(given.located())
    return carry_out(
        checked, given.output.path, overwrite=overwrite, repair=repair, listener=listener
    )


def refuse_both(*, overwrite: bool, repair: bool) -> None:
    """Raise UsageError if a store is to be both repaired and overwritten."""
    if overwrite and repair:
        raise UsageError(
            "a store is either repaired or overwritten: choose one of --repair and --overwrite."
        )


def carry_out(
    checked: PreparedJob,
    path: str,
    *,
    overwrite: bool = False,
    repair: bool = False,
    listener: Listener = ignore,
) -> RunFinished:
    """Run a job whose files have been opened; messages call its store `path`."""
    clock = time.perf_counter()
    tally = Tally(listener, checked.job.input.path)
    with stoppable() as stop, _readable(path), ExitStack() as held:
        this = _Run(path, checked, tally, stop, held)
        if checked.reordered is not None:
            tally(checked.reordered)
        old = Store.find(checked.job.output.path, checked.job.output.storage_options)
        if old is not None and not overwrite:
            _refuse_another_job(old, checked)
        action = decide(_existing(old, checked), overwrite=overwrite)
        if old is not None and (repair or action is not Action.NOTHING):
            this.hold(old)
            # We hold the lease now. Reopen: the previous owner may have changed the store
            old = Store.open(old.path, checked.job.output.storage_options)
            if not overwrite:
                _refuse_another_job(old, checked)
                old.end_growth()
            action = decide(_existing(old, checked), overwrite=overwrite)
        found = None
        if repair and old is not None:
            found = _verified(old, checked, listener)
            action = decide(
                _existing(old, checked), overwrite=overwrite, damaged=bool(found.failures)
            )
        stop.check()
        if old is None or action.computes:
            store = this.compute(action, old, found)
        else:
            store = old
            tally(_started(path, store, []))
            if action is Action.RELABEL:
                this.label(store)
    finished = tally.finished(path, store, time.perf_counter() - clock)
    listener(finished)
    if finished.state != "complete":
        raise _incomplete(path, tally.failures)
    return finished


class _Run:
    """One run, with its lease of the store."""

    def __init__(
        self, path: str, checked: PreparedJob, tally: Tally, stop: Stop, held: ExitStack
    ) -> None:
        self._path = path
        self._checked = checked
        self._tally = tally
        self._stop = stop
        self._held = held
        self._name = uuid.uuid4().hex
        self._lease: Lease | None = None

    def hold(self, store: Store) -> Lease:
        """Acquire the store's lease, unless this run has it already, until this run ends."""
        if self._lease is None:
            self._lease = self._held.enter_context(
                hold(store.place, self._name, listener=self._tally)
            )
        return self._lease

    def label(self, store: Store) -> None:
        """Write the job's current names and scales into a store."""
        self.hold(store).confirm()
        before, labels = store.record.labels, self._checked.labels
        store.label(self._checked.job, labels, self._checked.coordinates)
        if labels != before:
            names = (*labels.names, *labels.copied)
            self._tally(StoreLabelled(self._path, names, tuple(labels.scale)))

    def compute(self, action: Action, old: Store | None, found: Verification | None) -> Store:
        """Compute the missing blocks of the store `old`, or of a new one; finish it.

        A store keeps its blocks, and gets more of them if X has grown. Blocks that were `found`
        damaged are discarded first, so that they count as missing even if the run fails later.
        """
        checked, settings = self._checked, self._checked.job.cluster
        store = None if action.creates else old
        grid = None if store is None else replace(store.grid, columns=checked.x.columns)
        # Plan before the cluster starts, so that a job that is too large fails here
        checked.plan(clusters.expected_capacity(settings), grid)
        with _unbroken(self._path), clusters.connect(settings, self._tally) as cluster:
            planned = checked.plan(cluster.capacity, grid)
            if store is None:
                store = Store.create(
                    planned, checked.network, checked.job, checked.x, old, self._name, self._tally,
                    checked.labels, checked.coordinates,
                )  # fmt: skip
            lease = self.hold(store)
            lease.confirm()
            before = store.grid
            store.adopt(checked.job, checked.x)
            if store.grid != before:
                self._tally(_grown(self._path, before, store.grid))
            if found is not None or store.record.labels != checked.labels:
                self.label(store)
            if found is not None:
                _discard(store, checked.network, found)
            missing = store.missing()
            self._tally(_started(self._path, store, missing))
            self._tally(_ready(checked.job, cluster))
            guard = checked.guard(store, lease, missing, self._tally)
            with self._stop.politely(), guard:
                for event in compute(
                    cluster, store, lease, missing, planned.batch, settings, self._stop,
                    self._tally, guard, checked.stamp, checked.slopes,
                ):  # fmt: skip
                    self._tally(event)
            missing = store.missing()
            # A full disk, for instance, must not prevent an orderly end
            with suppress(OSError, StoreError):
                lease.confirm()
                store.log(self._tally.log.record())
            guard.settle()
            self._stop.stop(_saved(store, missing))
            if not store.is_current():
                raise IncompleteError(
                    f"{self._path} was deleted, or recreated by another run, while this run was "
                    "writing it; this run ends. If both runs are wanted, give them different paths "
                    "(output.path)."
                )
            lease.confirm()
            if not missing:
                store.finish(_final_results(store))
            else:
                store.fail(self._tally.failures)
        return store


def _refuse_another_job(store: Store, checked: PreparedJob) -> None:
    columns, now = store.grid.columns, checked.x.columns
    x = checked.first(columns)
    different = store.record.differences(checked.job, network_record(checked.network), x)
    if different:
        of = f" (X has grown to {now:,} columns; its first {columns:,} were compared)"
        if (
            checked.pairing.order is not None
            and "selected_features" not in store.record.input.storage
        ):
            # The store was made before names were matched, or before the network had names
            different.append(
                "the order of X's features (the store was made with X's own order, so its results "
                "belong to the wrong inputs; features are now matched with the network's by name)"
            )
        raise StoreError(
            f"{store.path} holds the store of another job, which differs in "
            f"{', '.join(different)}{of if now > columns else ''}. Choose another output.path, or "
            "replace it with --overwrite."
        )
    if checked.job.input.nonfinite == "fail" and store.counted():
        raise StoreError(
            f"{store.path} holds the results of {store.nonfinite():,} columns of X that are not "
            "finite, which the job does not allow (input.nonfinite: fail). Set input.nonfinite: "
            "propagate, choose another output.path, or replace the store with --overwrite."
        )


def _verified(store: Store, checked: PreparedJob, listener: Listener) -> Verification:
    X = None if isinstance(checked.columns, Slopes) else checked.columns
    found = check(store, X, checked.network, trust=checked.trust, listener=listener)
    for failure in found.failures:
        cause = f"{failure.array}: {failure.cause}"
        listener(BlockDamaged(failure.block, failure.start, failure.stop, cause))
    return found


def _discard(store: Store, network: Network, found: Verification) -> None:
    # Workers read the weights from the store
    if any(failure.block is None for failure in found.failures):
        store.restore_weights(network)
    for block in found.damaged:
        store.discard(block)


def _existing(store: Store | None, checked: PreparedJob) -> Existing | None:
    if store is None:
        return None
    grown = store.grid.columns < checked.x.columns
    finished = store.is_whole() and not store.missing()
    return Existing(finished, grown, labelled=store.record.labels == checked.labels)


@contextmanager
def _readable(path: str) -> Iterator[None]:
    """Turn an OSError into a StoreError: the store is not accessible."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"{path}: the store cannot be read or written: {error}.") from error


@contextmanager
def _unbroken(path: str) -> Iterator[None]:
    """Turn a lost scheduler or a failed disk into an IncompleteError: the run is resumable."""
    again = "The same command computes what is missing."
    try:
        yield
    except CommClosedError as error:
        raise IncompleteError(f"{path} is incomplete: the scheduler is lost. {again}") from error
    except OSError as error:
        raise IncompleteError(f"{path} is incomplete: {error}. {again}") from error


def _started(path: str, store: Store, missing: list[int]) -> RunStarted:
    grid = store.grid
    return RunStarted(
        store=path,
        columns=grid.columns,
        columns_done=grid.columns - grid.count(missing),
        blocks=grid.blocks,
        blocks_done=grid.blocks - len(missing),
    )


def _grown(path: str, before: Grid, now: Grid) -> StoreGrown:
    return StoreGrown(
        store=path,
        columns_before=before.columns,
        columns=now.columns,
        blocks_new=now.blocks - before.blocks,
        blocks_again=int(before.columns % before.block_columns > 0),
    )


def _ready(job: Job, cluster: clusters.Cluster) -> ClusterReady:
    capacity = cluster.capacity
    return ClusterReady(
        kind=job.cluster.kind,
        workers=capacity.workers,
        threads=capacity.total_threads,
        dashboard=cluster.dashboard,
    )


def _saved(store: Store, missing: list[int]) -> str:
    blocks = store.grid.blocks
    return (
        f"{blocks - len(missing):,} of {blocks:,} blocks are saved; the same command computes "
        "what is missing."
    )


def _final_results(store: Store) -> dict[str, NDArray[Any]]:
    results: dict[str, NDArray[Any]] = {}
    try:
        for product in (PRODUCTS[name] for name in store.record.job.output.products):
            if product.made_of is not None:
                parts = store.read_parts(product.made_of)
                results[product.statistic] = product.final(parts, store.grid.columns)
    except ValueError as error:
        raise IncompleteError(
            f"{store.path} is incomplete: its results are damaged: {one_line(error).rstrip('.')}. "
            "colonnade run --repair JOB recomputes damaged blocks."
        ) from error
    return results


def _incomplete(path: str, failures: list[BlockFailed]) -> IncompleteError:
    if not failures:
        return IncompleteError(
            f"{path} is incomplete: some of its blocks were deleted during the run. The same "
            "command computes what is missing."
        )
    first = failures[0]
    others = f" and {len(failures) - 1} more" if len(failures) > 1 else ""
    return IncompleteError(
        f"{path} is incomplete: block {first.block} (columns {first.start} to {first.stop - 1})"
        f"{others} failed: {first.cause.rstrip('.')}. The same command computes what is missing.",
        {failure.block: failure.cause for failure in failures},
    )
