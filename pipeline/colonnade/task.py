"""Blocks, on a worker: read their columns, compute, write their shards, return receipts.

A process keeps what all blocks of a store share (open arrays, weights, the kernel), and each of
its threads one set of buffers, so that the steady state allocates nothing of a block's size. All
of it is read from the store: a restarted worker needs nothing but its next block's number.
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
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from colonnade.columns import Columns
from colonnade.errors import StoreError
from colonnade.events import BlockDone
from colonnade.jacobian import AnyKernel, Kernel, make_kernel, strip_columns
from colonnade.matrix import nonfinite
from colonnade.places import Place, place_at
from colonnade.rounding import round_mantissa
from colonnade.shards import ShardBuffer
from colonnade.store import Holder, Store, holder

__all__ = ["Address", "Failed", "Released", "compute_block", "compute_blocks"]

# Seconds to wait before each further attempt at a block whose files could not be read or written
_BACKOFF = (0.2, 1.0, 5.0)
# What waiting for seconds does not mend
_PERMANENT = {
    getattr(errno, name)
    for name in ("EACCES", "EPERM", "EISDIR", "ENOTDIR", "EROFS", "ENOSPC", "EDQUOT")
}

_REPLACED = "{}: the store has gone, or was made anew, while a run was writing it; that run ends."
_TAKEN = "{}: the run that this block was for no longer holds the store, so nothing was written."


@dataclass(frozen=True, slots=True)
class Address:
    """Where a store is, which making of it, and for which run, that must hold it.

    On a cluster that outlives a run, the path may be overwritten before the next one, and the
    next one's X may lie elsewhere. `options` are those of the object store that it is in.
    """

    path: str
    id: str
    run: str
    options: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Failed:
    """A block that could not be computed, and why; `killed`: its workers died."""

    block: int
    cause: str
    killed: bool = False


@dataclass(frozen=True, slots=True)
class Released:
    """A block that was not begun, because its run stops."""

    block: int


def compute_blocks(address: Address, blocks: Sequence[int]) -> list[BlockDone | Failed | Released]:
    """Compute a batch of blocks; one that fails does not stop the others."""
    return [_attempt(address, block) for block in blocks]


def _attempt(address: Address, block: int) -> BlockDone | Failed | Released:
    """Compute a block, patiently where a disk or a network may recover."""
    for pause in (*_BACKOFF, None):
        try:
            if _holder(address).stopping:
                return Released(block)
            return compute_block(address, block)
        # Whatever a damaged input or a full memory raises is told, and is this block's alone
        except Exception as error:  # noqa: BLE001
            if pause is None or not _may_pass(error):
                return Failed(block, _cause(error))
            # Not all workers at once
            time.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311
    raise AssertionError


def _may_pass(error: Exception) -> bool:
    """Whether a disk or a network failed in a way that waiting may mend."""
    found = error if isinstance(error, OSError) else error.__cause__
    # zarr's own error for an array that has gone is a FileNotFoundError without a number
    gone = isinstance(found, FileNotFoundError) or getattr(found, "errno", 0) in _PERMANENT
    return isinstance(found, OSError) and not gone


def _cause(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def compute_block(address: Address, block: int) -> BlockDone:
    """Compute one block of the store at an address and write it; safe to repeat.

    Raises
    ------
    StoreError
        Another store is at the address by now, or another run holds it.
    OSError, ValueError
        X cannot be read, or is not finite where it must be, or the store cannot be written.
    """
    started, clock = time.time(), time.perf_counter()
    work = _prepare(address)
    start, stop = work.store.grid.bounds(block)
    X = work.columns.read(start, stop)
    read = time.perf_counter()
    nonfinite = work.nonfinite(X, start)
    buffers = work.compute(X)
    computed = time.perf_counter()
    if not work.store.is_current():
        raise StoreError(_REPLACED.format(address.path))
    # A run that was silent for long, and is taken for dead, may have a successor
    _holder(address)
    written = work.store.write(block, buffers, nonfinite)
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
        process=f"{socket.gethostname()}:{os.getpid()}",
    )


def _holder(address: Address) -> Holder:
    found = holder(_place(address))
    if found is None or found.run != address.run:
        raise StoreError(_TAKEN.format(address.path))
    return found


def peak_memory() -> int:
    """Bytes of this process's largest resident set so far."""
    try:
        # getrusage counts the process from which this one was spawned as well
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    except (OSError, IndexError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


@dataclass(frozen=True)
class _Work:
    """What the blocks of one store share in one process."""

    store: Store
    columns: Columns
    kernel: AnyKernel
    chunk_columns: int
    strip: int
    significant_bits: int | None
    local: threading.local = field(default_factory=threading.local)

    def nonfinite(self, X: NDArray[Any], start: int) -> int:
        """Count the columns of X that are not finite; `start` is the number of its first one.

        Raises
        ------
        ValueError
            There are some, and the job says that they are to fail.
        """
        count = 0
        for first in range(0, X.shape[1], self.strip):
            strip = X[:, first : first + self.strip]
            found = nonfinite(strip)
            count += len(found)
            if len(found) and self.store.record.job.input.nonfinite == "fail":
                k = int(found[0])
                j = int(np.argmin(np.isfinite(strip[:, k])))
                raise ValueError(
                    f"column {start + first + k} of X has {strip[j, k]} as its feature {j}; mend "
                    "it, or let it be with input.nonfinite: propagate"
                )
        return count

    def compute(self, X: NDArray[Any]) -> dict[str, ShardBuffer]:
        """Compute the block's shard of every array, in buffers that the thread's next block takes.

        In strips of columns that do not cross a chunk of the tensor, so that Z and S′ are small.
        """
        buffers = self._buffers()
        columns = X.shape[1]
        if "slope_sum" in buffers:
            buffers["slope_sum"].rows(0, 1)[...] = 0
        for first in range(0, columns, self.chunk_columns):
            end = min(first + self.chunk_columns, columns)
            for start in range(first, end, self.strip):
                self._strip(X, start, min(start + self.strip, end), buffers)
        return buffers

    def _strip(
        self, X: NDArray[Any], start: int, stop: int, buffers: dict[str, ShardBuffer]
    ) -> None:
        kernel = self.kernel
        values = buffers["value"].rows(start, stop) if "value" in buffers else None
        S: Any = kernel.slopes(X[:, start:stop], values)
        if "slope_sum" in buffers:
            buffers["slope_sum"].rows(0, 1)[0] += S.sum(axis=1, dtype=np.float64)
        if "norm" in buffers and isinstance(kernel, Kernel):
            buffers["norm"].rows(start, stop)[...] = kernel.norm(S)
        if "jacobian" in buffers:
            T = kernel.blocks(S, buffers["jacobian"].rows(start, stop))
            if self.significant_bits is not None:
                round_mantissa(T, self.significant_bits)

    def _buffers(self) -> dict[str, ShardBuffer]:
        buffers: dict[str, ShardBuffer] | None = getattr(self.local, "buffers", None)
        if buffers is None:
            buffers = self.local.buffers = {
                name: self.store.buffer(name) for name in self.store.record.arrays
            }
        return buffers


@lru_cache(maxsize=1)
def _place(address: Address) -> Place:
    return place_at(address.path, dict(address.options))


@lru_cache(maxsize=1)
def _cached(address: Address) -> _Work:
    store = Store.open(address.path, dict(address.options))
    if store.record.id != address.id:
        raise StoreError(_REPLACED.format(address.path))
    columns, network = store.columns(), store.network()
    dtype = store.record.job.output.dtype
    chunk_columns = store.grid.chunk_columns
    strip = min(chunk_columns, strip_columns(network, dtype))
    kernel = make_kernel(network, columns.dtype, dtype, strip)
    bits = store.record.job.output.significant_bits
    return _Work(store, columns, kernel, chunk_columns, strip, bits)


_preparing = threading.Lock()


def _prepare(address: Address) -> _Work:
    # lru_cache lets two threads compute the same thing; the kernel is too large for that
    with _preparing:
        return _cached(address)
