"""One block, on a worker: read its columns, compute, write its shards, return a receipt.

A process keeps what all blocks of a store share (open arrays, weights, the kernel), and each of
its threads one buffer, so that the steady state allocates nothing of a block's size. It is all
read from the store: a restarted worker needs nothing but its next block's number.
"""

from __future__ import annotations

import os
import resource
import socket
import sys
import threading
import time
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from colonnade.columns import Columns
from colonnade.errors import StoreError
from colonnade.events import BlockDone
from colonnade.jacobian import Kernel
from colonnade.store import Store

__all__ = ["Address", "compute_block"]


@dataclass(frozen=True, slots=True)
class Address:
    """Where a store is, which making of it, and for which run.

    On a cluster that outlives a run, the path may be overwritten before the next one, and the
    next one's X may lie elsewhere.
    """

    path: str
    id: str
    run: str


def compute_block(address: Address, block: int) -> BlockDone:
    """Compute one block of the store at an address and write it; safe to repeat.

    Raises
    ------
    StoreError
        Another store is at the address by now.
    OSError, ValueError
        X cannot be read, or the store cannot be written.
    """
    started, clock = time.time(), time.perf_counter()
    work = _prepare(address)
    start, stop = work.store.grid.bounds(block)
    X = work.columns.read(start, stop)
    read = time.perf_counter()
    results = work.results(X)
    computed = time.perf_counter()
    written = work.store.write(block, results)
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
        peak_memory=peak_memory(),
        process=f"{socket.gethostname()}:{os.getpid()}",
    )


def peak_memory() -> int:
    """Bytes of this process's largest resident set so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@dataclass(frozen=True)
class _Work:
    """What the blocks of one store share in one process."""

    store: Store
    columns: Columns
    kernel: Kernel
    products: tuple[str, ...]
    local: threading.local = field(default_factory=threading.local)

    def results(self, X: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Compute the block's part of every array of the store, its columns along the first axis.

        The tensor's part is this thread's buffer, which its next block overwrites.
        """
        kernel, results = self.kernel, {}
        Z = kernel.preactivation(X)
        if "value" in self.products:
            results["value"] = kernel.value(Z).T
        if self.products != ("value",):
            S = kernel.slope(Z)
            if "mean" in self.products:
                results["slope_sum"] = S.sum(axis=1, dtype=np.float64)[None]
            if "norm" in self.products:
                results["norm"] = kernel.norm(S)
            if "jacobian" in self.products:
                results["jacobian"] = kernel.blocks(S, self._buffer(X.shape[1]))
        return results

    def _buffer(self, columns: int) -> NDArray[Any]:
        buffer: NDArray[Any] | None = getattr(self.local, "buffer", None)
        if buffer is None:
            network = self.kernel.network
            shape = (self.store.grid.block_columns, network.q, network.n)
            buffer = self.local.buffer = np.empty(shape, self.kernel.dtype)
        return buffer[:columns]


@lru_cache(maxsize=1)
def _cached(address: Address) -> _Work:
    store = Store.open(address.path)
    if store.record.id != address.id:
        raise StoreError(
            f"{address.path}: the store was made anew while a run was writing it; that run ends."
        )
    columns = store.columns()
    output = store.record.job.output
    kernel = Kernel(store.network(), columns.dtype, output.dtype)
    return _Work(store, columns, kernel, output.products)


_preparing = threading.Lock()


def _prepare(address: Address) -> _Work:
    # lru_cache lets two threads compute the same thing; the kernel is too large for that
    with _preparing:
        return _cached(address)
