"""Workers that are alive and make no progress: how they are found, and lose their tasks.

A worker is stuck in one of three ways. A task takes too long, at a disk that does not answer, say.
Or it begins no task although a thread is free as far as the scheduler knows: the thread is lost to
a task that was cancelled. Or it gives no sign of life, and holds results. Its connection stands in
all three, so that Dask takes no notice, or does so only after minutes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import distributed

__all__ = ["Occupation", "StuckWorker", "Tracker", "evict", "occupation"]

# Seconds in which a nanny has to kill its worker's process: it asks for 4 s before it kills
_KILL = 15.0


@dataclass(frozen=True, slots=True)
class Occupation:
    """What a worker is at, as its scheduler knows it.

    Attributes
    ----------
    beat
        When the scheduler last heard of the worker, by its own clock.
    computing
        Our tasks that the worker computes.
    waiting
        Our tasks that the worker has and could begin, since a thread is free.
    """

    beat: float
    computing: tuple[str, ...]
    waiting: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StuckWorker:
    """A worker that has made no progress for too long.

    Attributes
    ----------
    address
        The worker's.
    keys
        The tasks that it is stuck at.
    seconds
        For how long.
    cause
        How it is stuck, in words.
    sure
        Whether these tasks are known to be the ones; else some may only wait behind another.
    """

    address: str
    keys: tuple[str, ...]
    seconds: float
    cause: str
    sure: bool


def occupation(
    prefix: str, dask_scheduler: distributed.Scheduler
) -> dict[str, tuple[float, tuple[str, ...], tuple[str, ...]]]:
    """Tell, on the scheduler, the fields of each worker's `Occupation` with the tasks of a prefix.

    Workers that have none of these tasks, nor a result of them, are left out.
    """
    found = {}
    for ws in list(dask_scheduler.workers.values()):
        ours = [str(ts.key) for ts in ws.processing if str(ts.key).startswith(prefix)]
        if not ours and not any(str(ts.key).startswith(prefix) for ts in ws.has_what):
            continue
        # A heartbeat tells what is computed; what has ended since is known as well
        known = {str(ts.key) for ts in ws.executing if ts in ws.processing}
        computing = tuple(key for key in ours if key in known)
        # Behind other tasks, also those of other clients, ours wait rightly
        free = len(known) < ws.nthreads
        waiting = tuple(key for key in ours if key not in known) if free else ()
        found[ws.address] = (ws.last_seen, computing, waiting)
    return found


async def evict(address: str, restart: bool, dask_scheduler: distributed.Scheduler) -> Any:
    """Take, on the scheduler, a worker's tasks away without blaming them for its loss.

    Parameters
    ----------
    restart
        Have its nanny kill the process and start another; without one, it is asked to end.

    Returns
    -------
    The worker's name; None where it has gone meanwhile.
    """
    ws = dask_scheduler.workers.get(address)
    if ws is None:
        return None
    name, nanny = ws.name, ws.nanny if restart else None
    killing = None
    if nanny is not None:
        # At once: a worker that its scheduler knows no more would end together with its nanny
        killing = asyncio.ensure_future(_kill(nanny, dask_scheduler.connection_args))
        await asyncio.sleep(0)
    await dask_scheduler.remove_worker(
        address,
        stimulus_id=f"colonnade-stuck-{time.time()}",
        expected=True,
        close=nanny is None,
    )
    if killing is not None:
        await killing
    return name


async def _kill(nanny: str, connection_args: dict[str, Any]) -> None:
    # One that does not answer is stuck itself; its worker has lost its tasks all the same
    with suppress(OSError, TimeoutError):
        async with distributed.rpc(nanny, connection_args=connection_args) as remote:
            await asyncio.wait_for(remote.kill(reason="stuck"), _KILL)


class Tracker:
    """For how long each worker has been at each task, counted from look to look.

    A run that was stopped itself, or whose machine slept, knows nothing of that time: of a long
    pause between two looks a part counts.
    """

    def __init__(self) -> None:
        self._last: float | None = None
        self._found: Mapping[str, Occupation] = {}
        # Worker and task (None: the worker's silence) -> seconds
        self._seconds: dict[tuple[str, str | None], float] = {}

    def look(self, found: Mapping[str, Occupation], now: float, longest: float) -> None:
        """Take note of what workers are at.

        Parameters
        ----------
        now
            Seconds, from any beginning.
        longest
            Seconds since the last look that count at the most.
        """
        step = 0.0 if self._last is None else min(now - self._last, longest)
        seconds: dict[tuple[str, str | None], float] = {}
        for worker, at in found.items():
            before = self._found.get(worker)
            if before is None:
                continue
            for key in set(at.computing) & set(before.computing):
                seconds[worker, key] = self._seconds.get((worker, key), 0.0) + step
            # One that has ended or begun another makes progress
            if not {*before.computing, *before.waiting} - {*at.computing, *at.waiting}:
                for key in set(at.waiting) & set(before.waiting):
                    seconds[worker, key] = self._seconds.get((worker, key), 0.0) + step
            if at.beat == before.beat:
                seconds[worker, None] = self._seconds.get((worker, None), 0.0) + step
        self._seconds, self._found, self._last = seconds, found, now

    def stuck(self, patience: float, more: Mapping[str, float]) -> list[StuckWorker]:
        """Tell which workers have been at a task for longer than is their due.

        Parameters
        ----------
        patience
            Seconds, for a task and for a sign of life.
        more
            Tasks that have a multiple of that.
        """
        return [
            stuck
            for worker, at in self._found.items()
            if (stuck := self._stuck(worker, at, patience, more)) is not None
        ]

    def _stuck(
        self, worker: str, at: Occupation, patience: float, more: Mapping[str, float]
    ) -> StuckWorker | None:
        def overdue(keys: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(
                key
                for key in keys
                if self._seconds.get((worker, key), 0.0) >= patience * more.get(key, 1.0)
            )

        def longest(keys: tuple[str, ...]) -> float:
            return max(self._seconds[worker, key] for key in keys)

        if computing := overdue(at.computing):
            seconds = longest(computing)
            cause = f"it has computed for {seconds:.0f} s without an end"
            return StuckWorker(worker, computing, seconds, cause, sure=True)
        if waiting := overdue(at.waiting):
            seconds = longest(waiting)
            cause = f"it has had blocks for {seconds:.0f} s and begun none"
            return StuckWorker(worker, waiting, seconds, cause, sure=False)
        silent = self._seconds.get((worker, None), 0.0)
        if silent >= patience and not at.computing and not at.waiting:
            cause = f"it has given no sign of life for {silent:.0f} s"
            return StuckWorker(worker, (), silent, cause, sure=False)
        return None
