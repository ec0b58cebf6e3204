"""Batches of blocks to a cluster's workers, a bounded number at a time, and what becomes of each.

Every task costs the scheduler, the client and a worker a few tenths of a millisecond each, and the
scheduler memory for as long as it knows the task. So blocks travel in batches, tasks that are free
to go travel together, and so do their results.
"""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import distributed
from distributed.comm.core import CommClosedError
from distributed.scheduler import KilledWorker

from colonnade.errors import ColonnadeError

__all__ = ["Lost", "Watch", "answering", "batches", "dispatch", "in_flight"]

# In flight for each thread at the most; when half of them are done as many are sent. At the least
# one is computed, one on its way there, and two are for the scheduler's delays; on a small cluster
# more, so that many travel together
_IN_FLIGHT_PER_THREAD = 8
_IN_FLIGHT = 128
# Seconds between two looks at what a wait may end, and between two questions after the workers
_TICK = 0.1
_UNDONE = ("pending", "lost")
_ROLL_CALL = 1.0

Batch = tuple[int, ...]
Receipt = TypeVar("Receipt")


class Lost(Exception):  # noqa: N818 (what happened to a batch, handed on as a value)
    """A batch of which nothing came back but this: its workers died, or could not take it."""

    def __init__(self, message: str, *, killed: bool = False) -> None:
        super().__init__(message)
        self.killed = killed


class Watch(Protocol):
    """Who looks after a run while it waits; whatever its methods raise ends the wait."""

    def goes_on(self) -> bool:
        """Whether to send more batches; asked several times a second."""

    def workers(self, number: int) -> None:
        """Take note of how many workers there are; told about once a second."""


def batches(blocks: Sequence[int], size: int) -> Iterator[Batch]:
    """Cut blocks into batches of neighbours."""
    for start in range(0, len(blocks), size):
        yield tuple(blocks[start : start + size])


def in_flight(threads: int) -> int:
    """Batches to keep a cluster of so many threads busy."""
    return max(_IN_FLIGHT, _IN_FLIGHT_PER_THREAD * threads)


def dispatch(
    client: distributed.Client,
    compute: Callable[[Batch], Sequence[Receipt]],
    todo: Iterable[Batch],
    most: int,
    watch: Watch,
) -> Iterator[tuple[Batch, Sequence[Receipt] | Lost]]:
    """Compute batches on a cluster and yield each with its receipts, or with why there are none.

    Parameters
    ----------
    compute
        Called on a worker with each batch; importable there.
    todo
        The batches, in the order in which they are sent.
    most
        Batches that are sent and not done, at any time.
    watch
        Asked whether to go on; if not, what was sent is still waited for.

    Raises
    ------
    CommClosedError
        The scheduler is lost.
    """
    name = f"blocks-{uuid.uuid4().hex}"
    waiting = deque(enumerate(todo))
    batch_of: dict[Any, Batch] = {}
    collected = distributed.as_completed(loop=client.loop)

    def send(number: int) -> None:
        sent = [waiting.popleft() for _ in range(min(number, len(waiting)))]
        keys = [f"{name}-{i}" for i, _ in sent]
        batch_of.update(zip(keys, (batch for _, batch in sent), strict=True))
        if sent:
            futures = client.map(compute, [batch for _, batch in sent], key=keys, pure=False)
            collected.update(futures)

    if watch.goes_on():
        with answering(client):
            send(most)
    for arrived in _arrivals(client, collected, watch, max(1, most // 4)):
        # Once and for all: a result whose worker dies before it is asked for is computed again
        futures = {future: future.status for future in arrived}
        for future in [f for f, status in futures.items() if status in _UNDONE]:
            del futures[future]
            collected.add(future)
        goes_on = watch.goes_on()
        with answering(client):
            if goes_on and len(batch_of) - len(futures) <= most // 2:
                send(most - len(batch_of) + len(futures))
            ready = [future for future, status in futures.items() if status == "finished"]
            # To gather nothing from a scheduler that has gone takes all the same its time
            results = client.gather(ready) if ready else []
            receipts = dict(zip((future.key for future in ready), results, strict=True))
        for future, status in futures.items():
            batch = batch_of.pop(future.key)
            if status == "finished":
                yield batch, receipts[future.key]
            elif status == "cancelled":
                raise CommClosedError("the scheduler has forgotten a block")
            else:
                yield batch, _lost(future)


def _arrivals(
    client: distributed.Client, collected: distributed.as_completed, watch: Watch, enough: int
) -> Iterator[list[distributed.Future[Any]]]:
    """Yield what is done, together; while nothing is, look whether to wait on.

    To ask for results takes a few milliseconds, however few they are: so they are asked for once a
    tick, or when they are enough.
    """
    asked = time.monotonic()
    while not collected.is_empty():
        with collected.thread_condition:
            collected.thread_condition.wait_for(
                lambda: collected.queue.qsize() >= enough or not collected.futures, _TICK
            )
        if futures := collected.next_batch(block=False):
            yield futures
        else:
            watch.goes_on()
        if client.status != "running":
            # It looks for a scheduler; whichever it finds knows nothing of our blocks
            raise CommClosedError("the scheduler is lost")
        if time.monotonic() >= asked + _ROLL_CALL:
            with answering(client):
                number = len(client.nthreads())
            watch.workers(number)
            asked = time.monotonic()


@contextmanager
def answering(client: distributed.Client) -> Iterator[None]:
    """Say that the scheduler is lost: a client without it fails in whatever it is doing."""
    try:
        yield
    except ColonnadeError:
        raise
    except Exception as error:
        if client.status == "running" and not isinstance(error, OSError):
            raise
        raise CommClosedError("the scheduler is lost") from error


def _lost(future: distributed.Future[Any]) -> Lost:
    error = future.exception()
    if isinstance(error, KilledWorker):
        return Lost(
            f"{error.allowed_failures + 1} workers died while they had it, the last at "
            f"{error.last_worker.address}; too little memory is the usual cause "
            "(cluster.memory_per_worker, output.block_size)",
            killed=True,
        )
    return Lost(f"{type(error).__name__}: {error}" if error is not None else str(future.status))
