"""Batches of blocks to a cluster's workers, a bounded number at a time, and what becomes of each.

Every task costs the scheduler, the client and a worker a few tenths of a millisecond each, and the
scheduler memory for as long as it knows the task. So blocks travel in batches, tasks that are free
to go travel together, and so do their results.
"""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import distributed
from distributed.comm.core import CommClosedError

__all__ = ["Lost", "batches", "dispatch"]

# In flight for each thread at the most; when half of them are done as many are sent. At the least
# one is computed, one on its way there, and two are for the scheduler's delays; on a small cluster
# more, so that many travel together
_IN_FLIGHT_PER_THREAD = 8
_IN_FLIGHT = 128

Batch = tuple[int, ...]
Receipt = TypeVar("Receipt")


class Lost(Exception):  # noqa: N818 (what happened to a batch, handed on as a value)
    """A batch of which nothing came back but this: its workers died, or could not take it."""


def batches(blocks: Sequence[int], size: int) -> Iterator[Batch]:
    """Cut blocks into batches of neighbours."""
    for start in range(0, len(blocks), size):
        yield tuple(blocks[start : start + size])


def dispatch(
    client: distributed.Client,
    compute: Callable[[Batch], Sequence[Receipt]],
    todo: Iterable[Batch],
    threads: int,
) -> Iterator[tuple[Batch, Sequence[Receipt] | Lost]]:
    """Compute batches on a cluster and yield each with its receipts, or with why there are none.

    Parameters
    ----------
    compute
        Called on a worker with each batch; importable there.
    todo
        The batches, in the order in which they are sent.
    threads
        Of the whole cluster.

    Raises
    ------
    CommClosedError
        The scheduler is lost.
    """
    name = f"blocks-{uuid.uuid4().hex}"
    waiting = deque(enumerate(todo))
    batch_of: dict[str, Batch] = {}
    collected = distributed.as_completed()

    def send(number: int) -> None:
        sent = [waiting.popleft() for _ in range(min(number, len(waiting)))]
        keys = [f"{name}-{i}" for i, _ in sent]
        batch_of.update(zip(keys, (batch for _, batch in sent), strict=True))
        if sent:
            futures = client.map(compute, [batch for _, batch in sent], key=keys, pure=False)
            collected.update(futures)

    most = max(_IN_FLIGHT, _IN_FLIGHT_PER_THREAD * threads)
    send(most)
    for futures in collected.batches():
        try:
            if len(batch_of) - len(futures) <= most // 2:
                send(most - len(batch_of) + len(futures))
            ready = [future for future in futures if future.status == "finished"]
            receipts = dict(zip((f.key for f in ready), client.gather(ready), strict=True))
        except Exception as error:
            # A client without its scheduler fails in whatever it is doing
            if client.status == "running":
                raise
            raise CommClosedError("the scheduler is lost") from error
        for future in futures:
            batch = batch_of.pop(future.key)
            if future.status == "finished":
                yield batch, receipts[future.key]
            elif future.cancelled():
                raise CommClosedError("the scheduler has forgotten a block")
            else:
                yield batch, Lost(_cause(future))


def _cause(future: distributed.Future[Any]) -> str:
    error = future.exception()
    return f"{type(error).__name__}: {error}" if error is not None else str(future.status)
