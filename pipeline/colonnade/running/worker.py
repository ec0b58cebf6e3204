"""Compute blocks on a worker: read their columns, write their shards, return receipts.

A process keeps what all blocks of a store share (open arrays, weights, the kernel), and each of
its threads keeps one set of buffers, so that the steady state allocates nothing of a block's size.
All of this comes from the store: a restarted worker needs only its next block's number.
"""

from __future__ import annotations

import errno
import os
import random
import resource
import socket
import sys
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from colonnade.compute.blas import one_blas_thread
from colonnade.compute.kernel.tiles import Tiles
from colonnade.compute.products import PRODUCTS
from colonnade.errors import StoreError
from colonnade.events import BlockDone
from colonnade.running.blocks import BlockWork
from colonnade.running.input_guard import ChangedError, SteadyColumns
from colonnade.running.sources import BlockSource, InputSource, SlopesSource
from colonnade.storage import Place, place_at
from colonnade.store import LeaseOwner, Store, holder
from colonnade.store.slopes import Slopes, SlopesAddress
from colonnade.versions import differences, versions

__all__ = [
    "Changed",
    "Failed",
    "Skipped",
    "StoreAddress",
    "VersionMismatch",
    "compute_block",
    "compute_blocks",
    "reach",
    "release",
]

# Runs whose state a process keeps: two may share a cluster
_KEPT = 2

# Seconds to wait before each retry of a block whose files could not be read or written
_BACKOFF = (0.2, 1.0, 5.0)
# Errors that do not pass within seconds
_PERMANENT = {
    getattr(errno, name)
    for name in ("EACCES", "EPERM", "EISDIR", "ENOTDIR", "EROFS", "ENOSPC", "EDQUOT")
}

_REPLACED = (
    "{}: the store was deleted or recreated while a run was writing it, so that run ends. Run the "
    "job again to compute what is missing there now."
)
_TAKEN = (
    "{}: the run that this block belongs to no longer holds the store's lease, so the block was "
    "not written. colonnade status names the run that holds it."
)


@dataclass(frozen=True, slots=True)
class StoreAddress:
    """Where a store is, its id, and the id of the run that must hold its lease.

    The ids matter on a cluster that outlives a run: before the next run, the path may be
    overwritten, and the next run's X may lie elsewhere. `options` are those of the store's object
    storage. `slopes` is a store of slopes that replaces X as the source. `versions` are those of
    the client, which a worker must match. `stamp` is that of X on the client.
    """

    path: str
    id: str
    run: str
    options: tuple[tuple[str, str], ...] = ()
    slopes: SlopesAddress | None = None
    versions: tuple[tuple[str, str], ...] = ()
    stamp: str = ""


@dataclass(frozen=True, slots=True)
class Failed:
    """A block that could not be computed, and the cause; `killed`: its workers died."""

    block: int
    cause: str
    killed: bool = False


@dataclass(frozen=True, slots=True)
class Skipped:
    """A block that was not started, because its run is stopping."""

    block: int


@dataclass(frozen=True, slots=True)
class Changed:
    """A process found that X is not the X that the store is being made from."""

    process: str
    cause: str


@dataclass(frozen=True, slots=True)
class VersionMismatch:
    """A process whose package versions exclude it from the run, and the differences."""

    process: str
    cause: str


def reach(address: StoreAddress) -> str | None:
    """Return why this process cannot read X or write the store; None if it can."""
    try:
        store = Store.open(address.path, dict(address.options))
        if store.record.id != address.id:
            return f"{address.path} is a different store there, or an older one"
        if address.slopes is None:
            store.columns(trust=True)
        else:
            Slopes.open(address.slopes)
        name = f"W1/{uuid.uuid4().hex}.partial"
        store.place.write(name, b"-")
        store.place.remove(name)
    # File systems, object stores and their libraries raise errors of many types
    except Exception as error:  # noqa: BLE001
        return _cause(error)
    return None


def compute_blocks(
    address: StoreAddress, blocks: Sequence[int]
) -> list[BlockDone | Failed | Skipped | Changed | VersionMismatch]:
    """Compute a batch of blocks; a failed block does not stop the others, a changed X does."""
    # A worker that joins during the run was not checked at its start
    if different := differences(versions(), dict(address.versions) or versions()):
        return [VersionMismatch(_process(), different)]
    done: list[BlockDone | Failed | Skipped | Changed | VersionMismatch] = []
    for block in blocks:
        done.append(_attempt(address, block))
        if isinstance(done[-1], Changed):
            break
    return done


def _attempt(address: StoreAddress, block: int) -> BlockDone | Failed | Skipped | Changed:
    """Compute a block; retry errors from which a disk or a network may recover."""
    for pause in (*_BACKOFF, None):
        try:
            if _holder(address).stopping:
                return Skipped(block)
            return compute_block(address, block)
        except ChangedError as error:
            return Changed(_process(), str(error))
        # A damaged input or a full memory raises any type; report it for this block alone
        except Exception as error:  # noqa: BLE001
            if pause is None or not _may_pass(error):
                return Failed(block, _cause(error))
            # Jitter, so that the workers do not retry all at once
            time.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311
    raise AssertionError


def _may_pass(error: Exception) -> bool:
    """Return whether a disk or a network failed in a way that may pass."""
    found = error if isinstance(error, OSError) else error.__cause__
    # zarr raises a FileNotFoundError without errno for a missing array
    gone = isinstance(found, FileNotFoundError) or getattr(found, "errno", 0) in _PERMANENT
    return isinstance(found, OSError) and not gone


def _cause(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def compute_block(address: StoreAddress, block: int) -> BlockDone:
    """Compute one block of the store at an address and write it; safe to repeat.

    Raises
    ------
    StoreError
        The address now holds another store, or another run holds the store's lease.
    ChangedError
        X is not the X that the store is being made from.
    OSError, ValueError
        X cannot be read, X is not finite where it must be, or the store cannot be written.
    """
    started, clock = time.time(), time.perf_counter()
    work = _prepared.get(address)
    start, stop = work.store.grid.bounds(block)
    X = work.source.read(start, stop)
    read = time.perf_counter()
    nonfinite = work.source.nonfinite(X, start)
    with one_blas_thread():
        buffers, overflowed = work.compute(X, start)
    computed = time.perf_counter()
    if not work.store.is_current():
        raise StoreError(_REPLACED.format(address.path))
    # If this run missed its heartbeat, another run may have taken over the lease
    _holder(address)
    written = work.store.write(block, buffers, nonfinite, overflowed)
    ended = time.perf_counter()
    return BlockDone(
        block=block,
        start=start,
        stop=stop,
        seconds_read=read - clock,
        seconds_compute=computed - read,
        seconds_write=ended - computed,
        started=started,
        ended=time.time(),
        bytes_written=written,
        nonfinite=nonfinite,
        peak_memory=peak_memory(),
        process=_process(),
        nonfinite_results=overflowed,
        touched=work.source.touched,
    )


def _process() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def _holder(address: StoreAddress) -> LeaseOwner:
    found = holder(_place(address))
    if found is None or found.run != address.run:
        raise StoreError(_TAKEN.format(address.path))
    return found


def peak_memory() -> int:
    """Return the peak resident set size of this process, in bytes."""
    try:
        # getrusage also counts the process from which this one was spawned
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    except (OSError, IndexError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


@lru_cache(maxsize=_KEPT)
def _place(address: StoreAddress) -> Place:
    return place_at(address.path, dict(address.options))


class _Prepared:
    """What this process keeps for the blocks of each run: open arrays, the kernel, buffers.

    It keeps the last runs alone, each until its end, since a cluster may outlive its runs.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._works: dict[StoreAddress, BlockWork] = {}

    def get(self, address: StoreAddress) -> BlockWork:
        """Return a run's state; make it if this process does not have it."""
        # Two threads must not make the same kernel: it may be large
        with self._lock:
            work = self._works.pop(address, None)
            if work is None:
                work = _open(address)
            self._works[address] = work
            while len(self._works) > _KEPT:
                del self._works[next(iter(self._works))]
            return work

    def drop(self, run: str) -> None:
        """Forget a run."""
        with self._lock:
            for address in [known for known in self._works if known.run == run]:
                del self._works[address]


_prepared = _Prepared()


def release(address: StoreAddress) -> None:
    """Free what this process keeps for a run that has ended."""
    _prepared.drop(address.run)


def _open(address: StoreAddress) -> BlockWork:
    store = Store.open(address.path, dict(address.options))
    if store.record.id != address.id:
        raise StoreError(_REPLACED.format(address.path))
    network, output = store.network(), store.record.job.output
    source: BlockSource
    if address.slopes is None:
        opened = partial(store.columns, trust=True)
        columns = SteadyColumns(opened, store.record.input, address.stamp)
        source = InputSource(columns, refuses=store.record.job.input.nonfinite == "fail")
    else:
        source = SlopesSource(Slopes.open(address.slopes))
    tiles = Tiles(network, np.dtype(store.record.input.dtype), output.dtype)
    products = tuple(
        PRODUCTS[name](tiles.kernel)
        for name in output.products
        if name not in ("jacobian", "value")
    )
    return BlockWork(store, source, tiles, products)
