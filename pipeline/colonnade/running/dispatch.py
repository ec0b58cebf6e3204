"""Send batches of blocks to a cluster's workers, a bounded number at a time; collect the results.

Every task costs the scheduler, the client and a worker a few tenths of a millisecond each, and
occupies memory of the scheduler until it is forgotten. So blocks travel in batches, tasks are
submitted several at a time, and their results are gathered together.
"""

from __future__ import annotations

import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import distributed
from distributed.comm.core import CommClosedError
from distributed.scheduler import KilledWorker

from colonnade.clusters import StuckWorker, waited, within
from colonnade.errors import ColonnadeError

__all__ = ["LostBatch", "RunMonitor", "answering", "batches", "dispatch", "in_flight"]

# Keep at most eight batches in flight per thread and refill when half are done. The remaining four
# are one that computes, one in transit, and two to cover scheduler delays. A small cluster gets
# more, so that many tasks are submitted together
_IN_FLIGHT_PER_THREAD = 8
_IN_FLIGHT = 128
# Seconds between two checks whether a wait must end
_TICK = 0.1
_UNDONE = ("pending", "lost")
# Seconds between two polls of the workers
_ROLL_CALL = 1.0
# Seconds to wait for an answer of the scheduler before it counts as lost
_ANSWER = 60.0
# Workers that may get stuck at a batch before the batch is given up
_STICKS = 2

Batch = tuple[int, ...]
Receipt = TypeVar("Receipt")


class LostBatch(Exception):  # noqa: N818 (passed on as a value, not raised)
    """A batch without results: its workers died or got stuck, or its task raised an error.

    Attributes
    ----------
    killed
        Whether workers were lost with it. Another batch on these workers may be the cause.
    """

    def __init__(self, message: str, *, killed: bool = False) -> None:
        super().__init__(message)
        self.killed = killed


class RunMonitor(Protocol):
    """Supervises a run while it waits. An exception that a method raises ends the wait."""

    def goes_on(self) -> bool:
        """Return whether to send more batches; called several times a second."""

    def workers(self, number: int) -> None:
        """Take note of the number of workers; called about once a second."""

    def stuck(self, name: str, before: Mapping[str, int]) -> Sequence[StuckWorker]:
        """Return the workers that are stuck at tasks whose keys begin with `name`.

        Parameters
        ----------
        before
            How many workers were stuck at each task so far.
        """

    def give_up(self, stuck: StuckWorker, batches: Sequence[Batch]) -> None:
        """Reassign a stuck worker's tasks and replace it; `batches` are those it is stuck at."""


def batches(blocks: Sequence[int], size: int) -> Iterator[Batch]:
    """Split blocks into batches of neighbours."""
    for start in range(0, len(blocks), size):
        yield tuple(blocks[start : start + size])


def in_flight(threads: int) -> int:
    """Return the number of batches that keep a cluster of `threads` threads busy."""
    return max(_IN_FLIGHT, _IN_FLIGHT_PER_THREAD * threads)


def dispatch(
    client: distributed.Client,
    compute: Callable[[Batch], Sequence[Receipt]],
    todo: Iterable[Batch],
    most: int,
    watch: RunMonitor,
) -> Iterator[tuple[Batch, Sequence[Receipt] | LostBatch]]:
    """Compute batches on a cluster; yield each with its receipts, or with why it has none.

    Parameters
    ----------
    compute
        Called on a worker with each batch; must be importable there.
    todo
        The batches, in the order in which they are sent.
    most
        Largest number of batches in flight.
    watch
        Decides whether to send more batches. Batches in flight are awaited in any case.

    Raises
    ------
    CommClosedError
        The scheduler is lost.
    """
    flight = _Flight(client, compute, todo, watch)
    if watch.goes_on():
        with answering(client):
            flight.send(most)
    for arrived in flight.arrivals(max(1, most // 4)):
        # Read each status once: if a worker dies before its result is gathered, Dask computes the
        # task again, and the status changes
        futures = {future: future.status for future in arrived}
        for future in [f for f, status in futures.items() if status in _UNDONE]:
            del futures[future]
            flight.collected.add(future)
        goes_on = watch.goes_on()
        with answering(client):
            if goes_on and len(flight.sent) - len(futures) <= most // 2:
                flight.send(most - len(flight.sent) + len(futures))
            ready = [future for future, status in futures.items() if status == "finished"]
            # gather([]) blocks if the scheduler is gone
            results = flight.gathered(ready) if ready else []
            receipts = dict(zip((future.key for future in ready), results, strict=True))
        for future, status in futures.items():
            batch = flight.sent.pop(future.key)
            if status == "finished":
                yield batch, receipts[future.key]
            elif status != "cancelled":
                yield batch, _lost(future)
            elif future.key in flight.given_up:
                yield batch, flight.given_up.pop(future.key)
            else:
                raise CommClosedError("the scheduler has dropped a task")


class _Flight:
    """Batches in flight: sent and not done.

    Attributes
    ----------
    sent
        The batch of each task.
    given_up
        Tasks that were taken back from stuck workers, each with the reason.
    collected
        Queue on which finished tasks arrive.
    """

    def __init__(
        self,
        client: distributed.Client,
        compute: Callable[[Batch], Sequence[Any]],
        todo: Iterable[Batch],
        watch: RunMonitor,
    ) -> None:
        self.sent: dict[Any, Batch] = {}
        self.given_up: dict[Any, LostBatch] = {}
        self.collected = distributed.as_completed(loop=client.loop)
        self._client = client
        self._compute = compute
        self._watch = watch
        self._name = f"blocks-{uuid.uuid4().hex}"
        self._waiting = deque(enumerate(todo))
        self._stuck: Counter[Any] = Counter()
        self._gathering: set[Any] = set()
        self._asked = time.monotonic()

    def send(self, number: int) -> None:
        """Send up to `number` more batches."""
        sent = [self._waiting.popleft() for _ in range(min(number, len(self._waiting)))]
        keys = [f"{self._name}-{i}" for i, _ in sent]
        batches = [batch for _, batch in sent]
        self.sent.update(zip(keys, batches, strict=True))
        if sent:
            futures = self._client.map(self._compute, batches, key=keys, pure=False)
            self.collected.update(futures)

    def gathered(self, ready: list[distributed.Future[Any]]) -> list[Any]:
        """Gather results; meanwhile check for stuck workers, since one may hold a result."""
        self._gathering = {future.key for future in ready}
        try:
            found: list[Any] = waited(self._client, self._client.gather, ready, each=self._look)
        finally:
            self._gathering = set()
        return found

    def arrivals(self, enough: int) -> Iterator[list[distributed.Future[Any]]]:
        """Yield finished tasks in groups; while none is finished, check whether to go on waiting.

        A gather takes a few milliseconds however few its results are. So tasks are grouped: once
        a tick, or as soon as `enough` of them are finished.
        """
        collected = self.collected
        while not collected.is_empty():
            with collected.thread_condition:
                collected.thread_condition.wait_for(
                    lambda: collected.queue.qsize() >= enough or not collected.futures, _TICK
                )
            if futures := collected.next_batch(block=False):
                yield futures
            else:
                self._watch.goes_on()
            self._call_roll()

    def _look(self) -> None:
        self._watch.goes_on()
        self._call_roll()

    def _call_roll(self) -> None:
        """Poll the workers, about once a second."""
        if self._client.status != "running":
            # The client is reconnecting; the scheduler that it finds will not know our tasks
            raise CommClosedError("the scheduler is lost")
        if time.monotonic() < self._asked + _ROLL_CALL:
            return
        with answering(self._client):
            number = len(within(self._client, _ANSWER, self._client.nthreads))
        self._watch.workers(number)
        for stuck in self._watch.stuck(self._name, self._stuck):
            self._take_back(stuck)
            self._watch.give_up(stuck, [self.sent[key] for key in stuck.keys if key in self.sent])
        self._asked = time.monotonic()

    def _take_back(self, stuck: StuckWorker) -> None:
        """Give up batches at which several workers were stuck, so that they block no others."""
        self._stuck.update(stuck.keys)
        tired = {
            key
            for key in stuck.keys
            if self._stuck[key] >= _STICKS and key in self.sent and key not in self._gathering
        }
        for key in tired:
            self.given_up[key] = LostBatch(
                f"{self._stuck[key]} workers were stuck at its task, the last at {stuck.address}: "
                f"{stuck.cause} (cluster.stall_timeout). The usual cause is a disk that does not "
                "answer; if a block takes longer than that, raise cluster.stall_timeout",
                killed=not stuck.sure,
            )
        # Cancel before the worker is replaced, or Dask gives the task to another worker
        futures = [future for future in list(self.collected.futures) if future.key in tired]
        if futures:
            with answering(self._client):
                within(self._client, _ANSWER, self._client.cancel, futures)


@contextmanager
def answering(client: distributed.Client) -> Iterator[None]:
    """Raise CommClosedError if the scheduler is lost: the client's own errors then vary."""
    try:
        yield
    except ColonnadeError:
        raise
    except Exception as error:
        if client.status == "running" and not isinstance(error, OSError):
            raise
        raise CommClosedError("the scheduler is lost") from error


def _lost(future: distributed.Future[Any]) -> LostBatch:
    error = future.exception()
    if isinstance(error, KilledWorker):
        return LostBatch(
            f"{error.allowed_failures + 1} workers died while they had its task, the last at "
            f"{error.last_worker.address}. The usual cause is too little memory: raise "
            "cluster.memory_per_worker, or lower output.block_size (with --overwrite)",
            killed=True,
        )
    return LostBatch(
        f"{type(error).__name__}: {error}" if error is not None else str(future.status)
    )
