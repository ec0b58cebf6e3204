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
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from colonnade.blas import one_blas_thread
from colonnade.buffers import Buffers
from colonnade.columns import Columns
from colonnade.environment import differences, versions
from colonnade.errors import StoreError
from colonnade.events import BlockDone
from colonnade.kernel.tiles import STRIP, Tiles, overlapping
from colonnade.matrix import nonfinite
from colonnade.places import Place, place_at
from colonnade.products import PRODUCTS, Product, Rows
from colonnade.sources import Slopes, SlopesAddress
from colonnade.store import Holder, Store, holder
from colonnade.store.rounding import round_mantissa
from colonnade.store.shards import ShardBuffer

__all__ = ["Address", "Failed", "Released", "Unfit", "compute_block", "compute_blocks", "reach"]

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
    next one's X may lie elsewhere. `options` are those of the object store that it is in; `slopes`,
    a store that holds the slopes, from which this one is made instead of from X; `versions`, those
    of the client, with which nothing else may be mixed.
    """

    path: str
    id: str
    run: str
    options: tuple[tuple[str, str], ...] = ()
    slopes: SlopesAddress | None = None
    versions: tuple[tuple[str, str], ...] = ()


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


@dataclass(frozen=True, slots=True)
class Unfit:
    """A process that must not compute blocks of the run, and why."""

    process: str
    cause: str


def reach(address: Address) -> str | None:
    """Tell what keeps this process from reading X, or from writing the store; None if nothing."""
    try:
        store = Store.open(address.path, dict(address.options))
        if store.record.id != address.id:
            return f"there is another store at {address.path} there, or an older one"
        if address.slopes is None:
            store.columns(trust=True)
        else:
            Slopes.open(address.slopes)
        name = f"W1/{uuid.uuid4().hex}.partial"
        store.place.write(name, b"-")
        store.place.remove(name)
    # Whatever a file system, an object store or a library of theirs may say
    except Exception as error:  # noqa: BLE001
        return _cause(error)
    return None


def compute_blocks(
    address: Address, blocks: Sequence[int]
) -> list[BlockDone | Failed | Released | Unfit]:
    """Compute a batch of blocks; one that fails does not stop the others."""
    # A worker that joins late has not been asked before
    if different := differences(versions(), dict(address.versions) or versions()):
        return [Unfit(_process(), different)]
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
    X = work.source.read(start, stop)
    read = time.perf_counter()
    nonfinite = work.nonfinite(X, start)
    with one_blas_thread():
        buffers, overflowed = work.compute(X, start)
    computed = time.perf_counter()
    if not work.store.is_current():
        raise StoreError(_REPLACED.format(address.path))
    # A run that was silent for long, and is taken for dead, may have a successor
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
    )


def _process() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


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
    source: Columns | Slopes
    tiles: Tiles
    products: tuple[Product, ...]
    local: threading.local = field(default_factory=threading.local)
    scratch: Buffers = field(default_factory=Buffers)

    def nonfinite(self, X: NDArray[Any], start: int) -> int:
        """Count the columns of X that are not finite; `start` is the number of its first one.

        Raises
        ------
        ValueError
            There are some, and the job says that they are to fail.
        """
        if isinstance(self.source, Slopes):
            return self.source.nonfinite(start, start + X.shape[1])
        count = 0
        for first in range(0, X.shape[1], STRIP):
            strip = X[:, first : first + STRIP]
            found = nonfinite(strip)
            count += len(found)
            if len(found) and self.store.record.job.input.nonfinite == "fail":
                k = int(found[0])
                j = int(np.argmin(np.isfinite(strip[:, k])))
                raise ValueError(
                    f"column {start + first + k} of X has {strip[j, k]} as its feature {j}; let it "
                    "be with input.nonfinite: propagate, or mend it, which makes another X "
                    "(--overwrite)"
                )
        return count

    def compute(self, X: NDArray[Any], start: int) -> tuple[dict[str, ShardBuffer], int]:
        """Compute the block's shard of every array, in buffers that the thread's next block takes.

        `start` is the number of its first column. In strips, so that Z and S′ are small.

        Returns
        -------
        The buffers, and how many columns have results that are not finite.
        """
        buffers = self._buffers()
        bad = np.zeros(X.shape[1], np.bool_)
        rows = Rows(lambda name, first, last: buffers[name].rows(first, last))
        for product in self.products:
            product.begin(rows)
        for _, a, b in overlapping(start, start + X.shape[1], STRIP):
            self._strip(X[:, a - start : b - start], a, start, buffers, rows, bad)
        for product in self.products:
            product.end(rows)
        return buffers, self._overflowed(buffers, bad)

    def _overflowed(self, buffers: dict[str, ShardBuffer], bad: NDArray[np.bool_]) -> int:
        """Count the columns with results that are not finite, of which some are known as `bad`."""
        alone = False
        for plan in self.store.record.plans:
            if plan.name not in buffers or plan.name in ("jacobian", "slope"):
                continue
            if plan.dimensions[0] == "column":
                rows = buffers[plan.name].rows(0, len(bad))
                bad |= ~np.isfinite(rows).all(axis=tuple(range(1, rows.ndim)))
            else:
                alone = alone or not np.isfinite(buffers[plan.name].rows(0, 1)).all()
        # A sum may leave the range where none of its terms does
        return max(int(np.count_nonzero(bad)), int(alone))

    def _strip(
        self,
        X: NDArray[Any],
        first: int,
        start: int,
        buffers: dict[str, ShardBuffer],
        rows: Rows,
        bad: NDArray[np.bool_],
    ) -> None:
        """Compute the columns from number `first` on, of a block that begins at `start`."""
        output = self.store.record.job.output
        at, B = first - start, X.shape[1]
        values = buffers["value"].rows(at, at + B) if "value" in buffers else None
        if isinstance(self.source, Slopes):
            S = X
            if values is not None:
                values[...] = self.source.values(first, first + B)
        elif values is not None and output.products == ("value",):
            self.tiles.values(X, first, values)
            return
        else:
            room = self.scratch.array("S", (self.tiles.kernel.numbers, B), self.tiles.kernel.dtype)
            S = self.tiles.slopes(X, first, values, room)
        if "slope" in buffers:
            for a, b in _within(at, at + B, self.store.grid.chunk_columns):
                buffers["slope"].rows(a, b)[...] = S[:, a - at : b - at].T
        finite, all_finite = self.tiles.kernel.surely_finite(S)
        if not finite:
            bad[at : at + B] |= ~np.isfinite(S).all(axis=0)
        by_slopes = self.tiles.kernel.network.has_slopes
        of_slopes = [p for p in self.products if by_slopes and p.of_slopes]
        of_blocks = [p for p in self.products if p not in of_slopes]
        rows.start = at
        for product in of_slopes:
            product.slopes(S, rows)
        if not of_blocks and "jacobian" not in buffers:
            return
        for _, a, b in overlapping(first, first + B, self.tiles.columns):
            T = self._tile(S[:, a - first : b - first], a, a - start, buffers, of_blocks, rows)
            # To look at all of a block takes as long as to write it
            if not all_finite:
                bad[a - start : b - start] |= ~np.isfinite(T).all(axis=(1, 2))

    def _tile(
        self,
        S: NDArray[Any],
        number: int,
        at: int,
        buffers: dict[str, ShardBuffer],
        products: Sequence[Product],
        rows: Rows,
    ) -> NDArray[Any]:
        chunk = self.store.grid.chunk_columns
        main, bits = buffers.get("jacobian"), self.store.record.job.output.significant_bits
        end = at + S.shape[1]
        pieces = list(_within(at, end, chunk)) if main is not None else []
        # Where it is stored, if it lies in one chunk
        place = main.rows(at, end) if main is not None and len(pieces) == 1 else self._scratch(S)
        T = self.tiles.blocks(S, number, place)
        rows.start = at
        for product in products:
            product.blocks(T, rows)
        if bits is not None:
            round_mantissa(T, bits)
        if main is not None and len(pieces) > 1:
            for a, b in pieces:
                main.rows(a, b)[...] = T[a - at : b - at]
        return T

    def _scratch(self, S: NDArray[Any]) -> NDArray[Any]:
        kernel = self.tiles.kernel
        network = kernel.network
        return self.scratch.array("T", (S.shape[1], network.q, network.n), kernel.dtype)

    def _buffers(self) -> dict[str, ShardBuffer]:
        buffers: dict[str, ShardBuffer] | None = getattr(self.local, "buffers", None)
        if buffers is None:
            buffers = self.local.buffers = {
                name: self.store.buffer(name) for name in self.store.record.arrays
            }
        return buffers


def _within(start: int, stop: int, width: int) -> Iterator[tuple[int, int]]:
    """Cut rows where chunks of that width meet."""
    return ((a, b) for _, a, b in overlapping(start, stop, width))


@lru_cache(maxsize=1)
def _place(address: Address) -> Place:
    return place_at(address.path, dict(address.options))


@lru_cache(maxsize=1)
def _cached(address: Address) -> _Work:
    store = Store.open(address.path, dict(address.options))
    if store.record.id != address.id:
        raise StoreError(_REPLACED.format(address.path))
    network, output = store.network(), store.record.job.output
    source = store.columns(trust=True) if address.slopes is None else Slopes.open(address.slopes)
    tiles = Tiles(network, np.dtype(store.record.input.dtype), output.dtype)
    products = tuple(
        PRODUCTS[name](tiles.kernel)
        for name in output.products
        if name not in ("jacobian", "value")
    )
    return _Work(store, source, tiles, products)


_preparing = threading.Lock()


def _prepare(address: Address) -> _Work:
    # lru_cache lets two threads compute the same thing; the kernel is too large for that
    with _preparing:
        return _cached(address)
