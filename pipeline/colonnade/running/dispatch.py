"""Batches of blocks to a cluster's workers, a bounded number at a time, and what becomes of each.

Every task costs the scheduler, the client and a worker a few tenths of a millisecond each, and the
scheduler memory for as long as it knows the task. So blocks travel in batches, tasks that are free
to go travel together, and so do their results.
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

# In flight for each thread at the most; when half of them are done as many are sent. At the least
# one is computed, one on its way there, and two are for the scheduler's delays; on a small cluster
# more, so that many travel together
_IN_FLIGHT_PER_THREAD = 8
_IN_FLIGHT = 128
# Seconds between two looks at what a wait may end, and between two questions after the workers
_TICK = 0.1
_UNDONE = ("pending", "lost")
_ROLL_CALL = 1.0
# Seconds that a scheduler has for an answer, before it counts as lost
_ANSWER = 60.0
# Workers that may get stuck at a batch before it is given up
_STICKS = 2

Batch = tuple[int, ...]
Receipt = TypeVar("Receipt")


class LostBatch(Exception):  # noqa: N818 (what happened to a batch, handed on as a value)
    """A batch of which nothing came back but this: its workers died, or could not take it.

    Attributes
    ----------
    killed
        Workers were lost with it; another batch that they had may have been the cause.
    """

    def __init__(self, message: str, *, killed: bool = False) -> None:
        super().__init__(message)
        self.killed = killed


class RunMonitor(Protocol):
    """Who looks after a run while it waits; whatever its methods raise ends the wait."""

    def goes_on(self) -> bool:
        """Whether to send more batches; asked several times a second."""

    def workers(self, number: int) -> None:
        """Take note of how many workers there are; told about once a second."""

    def stuck(self, name: str, before: Mapping[str, int]) -> Sequence[StuckWorker]:
        """Look for workers that are stuck at tasks whose keys begin with a name.

        Parameters
        ----------
        before
            How often workers were stuck at a task already.
        """

    def give_up(self, stuck: StuckWorker, batches: Sequence[Batch]) -> None:
        """Give a stuck worker's tasks to others, and replace it; it is stuck at these batches."""


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
    watch: RunMonitor,
) -> Iterator[tuple[Batch, Sequence[Receipt] | LostBatch]]:
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
    flight = _Flight(client, compute, todo, watch)
    if watch.goes_on():
        with answering(client):
            flight.send(most)
    for arrived in flight.arrivals(max(1, most // 4)):
        # Once and for all: a result whose worker dies before it is asked for is computed again
        futures = {future: future.status for future in arrived}
        for future in [f for f, status in futures.items() if status in _UNDONE]:
            del futures[future]
            flight.collected.add(future)
        goes_on = watch.goes_on()
        with answering(client):
            if goes_on and len(flight.sent) - len(futures) <= most // 2:
                flight.send(most - len(flight.sent) + len(futures))
            ready = [future for future, status in futures.items() if status == "finished"]
            # To gather nothing from a scheduler that has gone takes all the same its time
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
                raise CommClosedError("the scheduler has forgotten a block")


class _Flight:
    """Batches that are sent and not done.

    Attributes
    ----------
    sent
        The batch of each task.
    given_up
        Tasks that were taken back from stuck workers, and why.
    collected
        Where those that are done arrive.
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
        """Send so many more batches, if there are as many."""
        sent = [self._waiting.popleft() for _ in range(min(number, len(self._waiting)))]
        keys = [f"{self._name}-{i}" for i, _ in sent]
        batches = [batch for _, batch in sent]
        self.sent.update(zip(keys, batches, strict=True))
        if sent:
            futures = self._client.map(self._compute, batches, key=keys, pure=False)
            self.collected.update(futures)

    def gathered(self, ready: list[distributed.Future[Any]]) -> list[Any]:
        """Gather results; meanwhile a worker that holds some may turn out to be stuck."""
        self._gathering = {future.key for future in ready}
        try:
            found: list[Any] = waited(self._client, self._client.gather, ready, each=self._look)
        finally:
            self._gathering = set()
        return found

    def arrivals(self, enough: int) -> Iterator[list[distributed.Future[Any]]]:
        """Yield what is done, together; while nothing is, look whether to wait on.

        To ask for results takes a few milliseconds, however few they are: so they are asked for
        once a tick, or when they are enough.
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
        """Look, about once a second, after the workers."""
        if self._client.status != "running":
            # It looks for a scheduler; whichever it finds knows nothing of our blocks
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
        """Keep batches that workers are stuck at from sticking others, again and again."""
        self._stuck.update(stuck.keys)
        tired = {
            key
            for key in stuck.keys
            if self._stuck[key] >= _STICKS and key in self.sent and key not in self._gathering
        }
        for key in tired:
            self.given_up[key] = LostBatch(
                f"{self._stuck[key]} workers were stuck while they had it, the last at "
                f"{stuck.address}: {stuck.cause} (cluster.stall_timeout); a disk that does not "
                "answer is the usual cause",
                killed=not stuck.sure,
            )
        # Before its worker loses it: another one would begin it
        futures = [future for future in list(self.collected.futures) if future.key in tired]
        if futures:
            with answering(self._client):
                within(self._client, _ANSWER, self._client.cancel, futures)


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


def _lost(future: distributed.Future[Any]) -> LostBatch:
    error = future.exception()
    if isinstance(error, KilledWorker):
        return LostBatch(
            f"{error.allowed_failures + 1} workers died while they had it, the last at "
            f"{error.last_worker.address}; too little memory is the usual cause "
            "(cluster.memory_per_worker, output.block_size)",
            killed=True,
        )
    return LostBatch(
        f"{type(error).__name__}: {error}" if error is not None else str(future.status)
    )
