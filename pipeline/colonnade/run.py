"""The story of a run, top to bottom: check, plan, create or resume, submit, collect, finish."""

from __future__ import annotations

import multiprocessing
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from distributed.comm.core import CommClosedError

from colonnade import clusters
from colonnade.columns import Columns, open_columns
from colonnade.dispatch import Lost, batches, dispatch
from colonnade.errors import IncompleteError, InputError, StoreError, UsageError
from colonnade.events import (
    BlockDamaged,
    BlockDone,
    BlockFailed,
    ClusterReady,
    Event,
    Listener,
    RunFinished,
    RunStarted,
    ignore,
)
from colonnade.jacobian import Kernel, kernel_bytes, strip_columns, working_dtype
from colonnade.job import Job
from colonnade.jobfile import load_job
from colonnade.layout import Grid, Shapes
from colonnade.locations import storage_texts
from colonnade.network import Network
from colonnade.plan import Capacity, Plan, make_plan
from colonnade.stopping import Stop, stoppable
from colonnade.store import InputRecord, Store, input_record, network_record
from colonnade.task import Address, Failed, compute_blocks
from colonnade.urls import overlap
from colonnade.verify import Verification, check

__all__ = ["plan", "run"]

JobLike = str | Path | Mapping[str, Any] | Job


def plan(job: JobLike, overrides: Iterable[str] = ()) -> Plan:
    """Plan a run and touch nothing.

    Parameters
    ----------
    job
        A job file's path, or a mapping or `Job` of the same content.
    overrides
        ``section.key=value`` each.

    Raises
    ------
    UsageError
        What `run` would refuse before it starts, but for a store that is in its way.
    """
    checked = _check(load_job(job, overrides).located())
    return checked.plan(clusters.expected_capacity(checked.job.cluster))


def run(
    job: JobLike,
    overrides: Iterable[str] = (),
    *,
    overwrite: bool = False,
    repair: bool = False,
    listener: Listener = ignore,
) -> RunFinished:
    """Compute what is missing of a job's store and finish it; call it again to resume.

    Parameters
    ----------
    job, overrides
        As for `plan`.
    overwrite
        Replace another job's store, or a finished one, at the same path.
    repair
        Verify what the store holds first, as `verify` does, and compute what is damaged again.
    listener
        Called with each event of the run, in this thread.

    Raises
    ------
    UsageError
        The job, its files or its cluster are wrong; nothing was changed.
    IncompleteError
        Blocks failed; the store is resumable.
    StoppedError
        SIGINT, SIGTERM or SIGHUP came; the store is resumable.
    """
    _refuse_spawned()
    if overwrite and repair:
        raise UsageError("a store is either repaired or overwritten: choose one of the two.")
    clock = time.perf_counter()
    given = load_job(job, overrides)
    path = given.output.path
    checked = _check(given.located())
    tally = _Tally(listener)
    with stoppable() as stop:
        old = Store.find(checked.job.output.path, checked.job.output.storage_options)
        store = None if overwrite else old
        found = None
        if store is not None:
            _refuse_another_job(store, checked)
            found = _verified(store, checked, listener) if repair else None
            stop.check()
        sound = found is None or not found.failures
        if store is not None and store.is_whole() and not _missing(store) and sound:
            tally(_started(path, store, []))
        else:
            store = _work(path, checked, store, old, tally, stop, found)
    finished = tally.finished(path, store, time.perf_counter() - clock)
    listener(finished)
    if finished.state != "complete":
        raise _incomplete(path, tally.failures)
    return finished


def _work(
    path: str,
    checked: _Checked,
    store: Store | None,
    old: Store | None,
    tally: _Tally,
    stop: Stop,
    found: Verification | None,
) -> Store:
    """Compute what is missing of a store, or make one in place of `old`, and finish it.

    What was `found` damaged is discarded first: then it is missing, whatever happens to this run.
    """
    grid = None if store is None else store.grid
    # Refused here, a job that is too large has not even started a cluster
    checked.plan(clusters.expected_capacity(checked.job.cluster), grid)
    with _unbroken(path), clusters.connect(checked.job.cluster) as cluster:
        planned = checked.plan(cluster.capacity, grid)
        if store is None:
            store = Store.create(planned, checked.network, checked.job, checked.x, old)
        store.adopt(checked.job)
        if found is not None:
            _discard(store, checked.network, found)
        missing = _missing(store)
        tally(_started(path, store, missing))
        tally(_ready(checked.job, cluster))
        for event in _compute(cluster, store, missing, planned.batch):
            stop.check()
            tally(event)
        stop.check()
        if not store.is_current():
            raise IncompleteError(
                f"{path} was made anew by another run while this one was writing it; this run ends."
            )
        if not _missing(store):
            store.finish(_final_results(store))
    return store


class _Tally:
    """Counts a run's events and passes them on."""

    def __init__(self, listener: Listener) -> None:
        self.failures: list[BlockFailed] = []
        self._listener = listener
        self._computed = self._bytes = self._peak_memory = 0

    def __call__(self, event: Event) -> None:
        if isinstance(event, BlockDone):
            self._computed += 1
            self._bytes += event.bytes_written
            self._peak_memory = max(self._peak_memory, event.peak_memory)
        elif isinstance(event, BlockFailed):
            self.failures.append(event)
        self._listener(event)

    def finished(self, path: str, store: Store, seconds: float) -> RunFinished:
        return RunFinished(
            store=path,
            state=store.record.state,
            columns=store.grid.columns,
            blocks=store.grid.blocks,
            blocks_computed=self._computed,
            blocks_failed=len(self.failures),
            bytes_written=self._bytes,
            seconds=seconds,
            peak_memory=self._peak_memory,
        )


@dataclass(frozen=True)
class _Checked:
    """A job whose files have been opened and found to fit."""

    job: Job
    network: Network
    columns: Columns
    x: InputRecord

    def plan(self, capacity: Capacity, grid: Grid | None = None) -> Plan:
        network, output = self.network, self.job.output
        strip = strip_columns(network, output.dtype)
        return make_plan(
            Shapes(p=self.columns.p, n=network.n, m=network.m, q=network.q),
            products=output.products,
            dtype=output.dtype,
            x_itemsize=self.columns.copies * self.columns.dtype.itemsize,
            x_chunk_columns=self.columns.chunk_columns,
            working_itemsize=working_dtype(network, self.columns.dtype, output.dtype).itemsize,
            kernel_bytes=kernel_bytes(network, output.dtype, strip, norm="norm" in output.products),
            strip_columns=strip,
            compression=output.compression,
            capacity=capacity,
            block_size=output.block_size,
            chunk_size=output.chunk_size,
            grid=grid,
        )


def _check(job: Job) -> _Checked:
    _refuse_overlap(job)
    settings = job.network
    names = settings.names.model_dump(exclude_none=True) if settings.names else None
    network = Network.load(settings.weights, settings.activation, names, settings.storage_options)
    x = job.input
    columns = open_columns(x.path, x.array, x.orientation, x.storage_options)
    if columns.n != network.n:
        raise InputError(_shapes_side_by_side(job, network, columns))
    try:
        return _Checked(job, network, columns, input_record(columns))
    except (OSError, ValueError, MemoryError) as error:
        raise InputError(f"{job.input.path}: X cannot be read: {error}") from error


def _refuse_overlap(job: Job) -> None:
    """Refuse to write where the run reads: --overwrite would delete its own input."""
    output = job.output.path
    for key, read in (("input.path", job.input.path), ("network.weights", job.network.weights)):
        if overlap(read, output):
            raise StoreError(
                f"output.path {output} and {key} {read} overlap: the output must lie apart from "
                "what the run reads."
            )


def _shapes_side_by_side(job: Job, network: Network, columns: Columns) -> str:
    other = "columns_by_features"
    if job.input.orientation == other:
        other = "features_by_columns"
    hint = ""
    if columns.p == network.n:
        hint = f" X fits the other way round: set input.orientation: {other}."
    return (
        f"the network takes n = {network.n} inputs and X has n = {columns.n} rows "
        f"(features): W1 {network.W1.shape} (m, n), W2 {network.W2.shape} (q, m) in "
        f"{job.network.weights}; X {columns.stored_shape}, read as {job.input.orientation}, "
        f"in {job.input.path}.{hint}"
    )


def _refuse_another_job(store: Store, checked: _Checked) -> None:
    different = store.record.differences(checked.job, network_record(checked.network), checked.x)
    if different:
        raise StoreError(
            f"{store.path} holds the store of another job, which differs in "
            f"{', '.join(different)}. Choose another output.path, or replace it with --overwrite."
        )


def _verified(store: Store, checked: _Checked, listener: Listener) -> Verification:
    found = check(store, checked.columns, checked.network, listener=listener)
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


def _missing(store: Store) -> list[int]:
    done = store.done()
    return [block for block in range(store.grid.blocks) if block not in done]


@contextmanager
def _unbroken(path: str) -> Iterator[None]:
    """Say that the run can go on where its scheduler or its store's disk has failed."""
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


def _ready(job: Job, cluster: clusters.Cluster) -> ClusterReady:
    capacity = cluster.capacity
    return ClusterReady(
        kind=job.cluster.kind,
        workers=capacity.workers,
        threads=capacity.workers * capacity.threads_per_worker,
        dashboard=cluster.dashboard,
    )


def _compute(
    cluster: clusters.Cluster, store: Store, missing: list[int], batch: int
) -> Iterator[BlockDone | BlockFailed]:
    """Compute the missing blocks on the cluster and yield what becomes of each."""
    capacity = cluster.capacity
    threads = capacity.workers * capacity.threads_per_worker
    options = storage_texts(store.record.job.output.storage_options)
    address = Address(store.path, store.record.id, uuid.uuid4().hex, tuple(options.items()))
    compute = partial(compute_blocks, address)
    causes: dict[int, str] = {}
    again: list[int] = []
    todo = batches(missing, batch)
    for chances in (1, 0):
        for blocks, back in dispatch(cluster.client, compute, todo, threads):
            receipts: Sequence[BlockDone | Failed]
            if isinstance(back, Lost):
                receipts = [Failed(block, str(back)) for block in blocks]
            else:
                receipts = back
            for receipt in receipts:
                if isinstance(receipt, BlockDone):
                    yield receipt
                elif chances:
                    again.append(receipt.block)
                else:
                    causes[receipt.block] = receipt.cause
        # A block that failed is tried once more in the end, alone: what troubled its worker, or
        # its neighbours in the batch, may be over
        todo = batches(sorted(again), 1)
    for block, cause in sorted(causes.items()):
        yield BlockFailed(block, *store.grid.bounds(block), cause)


def _final_results(store: Store) -> dict[str, np.ndarray[Any, Any]]:
    if "mean" not in store.record.job.output.products:
        return {}
    network = store.network()
    kernel = Kernel(network, network.dtype, store.record.job.output.dtype, columns=1)
    slope_sum = store.read("slope_sum").sum(axis=0)
    return {"mean": kernel.mean(slope_sum / store.grid.columns)}


def _incomplete(path: str, failures: list[BlockFailed]) -> IncompleteError:
    if not failures:
        return IncompleteError(f"{path} is incomplete: blocks have gone while it was written.")
    first = failures[0]
    others = f" and {len(failures) - 1} more" if len(failures) > 1 else ""
    return IncompleteError(
        f"{path} is incomplete: block {first.block} (columns {first.start} to {first.stop - 1})"
        f"{others} failed: {first.cause.rstrip('.')}. The same command computes what is missing.",
        {failure.block: failure.cause for failure in failures},
    )


def _refuse_spawned() -> None:
    """Say what to do where a script without a main guard is run again by its own workers."""
    if getattr(multiprocessing.process.current_process(), "_inheriting", False):
        raise UsageError(
            "colonnade.run starts worker processes, and each of them imports your script: put the "
            "call under `if __name__ == '__main__':`."
        )
