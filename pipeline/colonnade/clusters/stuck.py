"""Detect workers that are alive but make no progress, and take their tasks away.

A worker is stuck in one of three ways. A task takes too long, for example because a disk does not
answer. Or the worker begins no task although a thread is free according to the scheduler: a
cancelled task still blocks the thread. Or the worker holds results and sends no heartbeat. Its
connection stays open in all three cases, so that Dask reacts only after minutes, or never.
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

# Seconds for a nanny to kill its worker's process: for 4 s the nanny waits for it to end by itself
_KILL = 15.0


@dataclass(frozen=True, slots=True)
class Occupation:
    """The run's tasks on a worker, as the scheduler knows them.

    Attributes
    ----------
    beat
        When the scheduler last heard from the worker, by the scheduler's clock.
    computing
        Our tasks that the worker computes.
    waiting
        Our tasks that the worker has and could begin, because a thread is free.
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
        The worker's address.
    keys
        The tasks at which the worker is stuck.
    seconds
        How long the worker has been stuck.
    cause
        A description of how the worker is stuck, for messages.
    sure
        Whether all of `keys` are known to be stuck; otherwise some may only wait behind another.
    """

    address: str
    keys: tuple[str, ...]
    seconds: float
    cause: str
    sure: bool


def occupation(
    prefix: str, dask_scheduler: distributed.Scheduler
) -> dict[str, tuple[float, tuple[str, ...], tuple[str, ...]]]:
    """Return the fields of each worker's `Occupation` with the tasks of a prefix.

    This function runs on the scheduler. Workers with none of these tasks, and none of their
    results, are left out.
    """
    found = {}
    for ws in list(dask_scheduler.workers.values()):
        ours = [str(ts.key) for ts in ws.processing if str(ts.key).startswith(prefix)]
        if not ours and not any(str(ts.key).startswith(prefix) for ts in ws.has_what):
            continue
        # A heartbeat reports the tasks in execution; some may have ended since
        known = {str(ts.key) for ts in ws.executing if ts in ws.processing}
        computing = tuple(key for key in ours if key in known)
        # Our tasks may wait behind other tasks, including other clients'
        free = len(known) < ws.nthreads
        waiting = tuple(key for key in ours if key not in known) if free else ()
        found[ws.address] = (ws.last_seen, computing, waiting)
    return found


async def evict(address: str, restart: bool, dask_scheduler: distributed.Scheduler) -> Any:
    """Take a worker's tasks away, without counting the worker's loss against them.

    This function runs on the scheduler.

    Parameters
    ----------
    restart
        Whether the worker's nanny kills the process and starts another; if False, or without a
        nanny, the worker is asked to close.

    Returns
    -------
    The worker's name; None if the worker has left meanwhile.
    """
    ws = dask_scheduler.workers.get(address)
    if ws is None:
        return None
    name, nanny = ws.name, ws.nanny if restart else None
    killing = None
    if nanny is not None:
        # Before the worker's removal: a worker that its scheduler has removed closes with its nanny
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
    # A nanny that does not answer is stuck itself; its worker loses its tasks anyway
    with suppress(OSError, TimeoutError):
        async with distributed.rpc(nanny, connection_args=connection_args) as remote:
            await asyncio.wait_for(remote.kill(reason="stuck"), _KILL)


class Tracker:
    """Counts how long each worker has been at each task, from one look to the next.

    If the run itself was stopped or its machine slept, the workers' state during that time is
    unknown: only part of a long pause between two looks counts.
    """

    def __init__(self) -> None:
        self._last: float | None = None
        self._found: Mapping[str, Occupation] = {}
        # Worker and task (None: the worker's silence) -> seconds
        self._seconds: dict[tuple[str, str | None], float] = {}

    def look(self, found: Mapping[str, Occupation], now: float, longest: float) -> None:
        """Record what the workers do.

        Parameters
        ----------
        now
            Time in seconds, from any origin.
        longest
            Largest number of seconds since the last look that count.
        """
        step = 0.0 if self._last is None else min(now - self._last, longest)
        seconds: dict[tuple[str, str | None], float] = {}
        for worker, at in found.items():
            before = self._found.get(worker)
            if before is None:
                continue
            for key in set(at.computing) & set(before.computing):
                seconds[worker, key] = self._seconds.get((worker, key), 0.0) + step
            # A worker that has ended or begun another task makes progress
            if not {*before.computing, *before.waiting} - {*at.computing, *at.waiting}:
                for key in set(at.waiting) & set(before.waiting):
                    seconds[worker, key] = self._seconds.get((worker, key), 0.0) + step
            if at.beat == before.beat:
                seconds[worker, None] = self._seconds.get((worker, None), 0.0) + step
        self._seconds, self._found, self._last = seconds, found, now

    def stuck(self, patience: float, more: Mapping[str, float]) -> list[StuckWorker]:
        """Return the workers that have been at a task for too long.

        Parameters
        ----------
        patience
            Seconds allowed for a task, and between two heartbeats.
        more
            Factors of `patience` for some tasks, by key.
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
            cause = f"it has computed for {seconds:.0f} s without finishing"
            return StuckWorker(worker, computing, seconds, cause, sure=True)
        if waiting := overdue(at.waiting):
            seconds = longest(waiting)
            cause = f"it has had blocks for {seconds:.0f} s without beginning one"
            return StuckWorker(worker, waiting, seconds, cause, sure=False)
        silent = self._seconds.get((worker, None), 0.0)
        if silent >= patience and not at.computing and not at.waiting:
            cause = f"it has sent no heartbeat for {silent:.0f} s"
            return StuckWorker(worker, (), silent, cause, sure=False)
        return None
