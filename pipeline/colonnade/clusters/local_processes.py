"""The worker processes of a local cluster: start them, watch them, and end them reliably."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import signal
import time
from contextlib import suppress
from typing import Any

import distributed
from distributed.core import Status

from colonnade.errors import one_line

__all__ = ["Processes"]

# Seconds for a killed process to disappear, and between two polls
_GONE = 2.0
_TICK = 0.02
_BEGINNING = (Status.init, Status.starting)


class Processes:
    """The nannies of one cluster and their worker processes, including those that do not start.

    Dask knows a nanny only once its worker runs, and waits forever for a stopped worker.
    """

    def __init__(self) -> None:
        self._nannies: list[distributed.Nanny] = []
        self._starting: concurrent.futures.Future[None] | None = None

    def nanny(self) -> type[distributed.Nanny]:
        """Return a class of nannies that are registered here on construction."""
        noted = self._nannies

        class Nanny(distributed.Nanny):
            def __init__(self, *arguments: Any, **options: Any) -> None:
                super().__init__(*arguments, **options)
                noted.append(self)

        return Nanny

    def start(self, cluster: Any, number: int) -> None:
        """Request `number` workers from a cluster, without waiting for them."""

        async def scaled() -> None:
            cluster.scale(number)
            await cluster

        self._starting = asyncio.run_coroutine_threadsafe(scaled(), cluster.loop.asyncio_loop)

    def broken(self) -> str:
        """Describe a worker process that ended while it started; empty if none did."""
        error = None if self._starting is None else _error(self._starting)
        if error is None:
            return ""
        while error.__cause__ is not None:
            error = error.__cause__
        return (
            f"a worker process has ended while it started ({one_line(error).rstrip('.')}). The "
            "kernel kills processes when memory is short; also check modules that Dask preloads "
            "(distributed.worker.preload), and a script's code outside of its main guard"
        )

    def trouble(self) -> str:
        """Describe the processes that have not come up."""
        pids = [str(nanny.pid) for nanny in self._of_workers_that_start() if nanny.pid]
        if not pids:
            return ""
        processes = f"process {pids[0]} has" if len(pids) == 1 else f"{', '.join(pids)} have"
        return (
            f" Worker {processes} not come up: see whether it is stopped (kill -CONT) or waits "
            "for a disk; on a slow machine, raise the timeout (cluster.timeout)."
        )

    def end(self, all_of_them: bool) -> None:
        """Kill the processes that have not come up; or all of them, and wait until they are gone.

        SIGKILL is the only signal that ends a stopped process, and Python would wait for that
        process at exit.
        """
        self._kill(self._nannies if all_of_them else self._of_workers_that_start())
        end = time.monotonic() + _GONE
        while all_of_them and self._pending() and time.monotonic() < end:
            time.sleep(_TICK)
            self._kill(self._nannies)

    def _kill(self, nannies: list[distributed.Nanny]) -> None:
        for nanny in list(nannies):
            if nanny.status == Status.running:
                # A running nanny would start another worker
                nanny.close_gracefully(reason="colonnade ends")
            with suppress(ProcessLookupError):
                if pid := nanny.pid:
                    os.kill(pid, signal.SIGKILL)

    def _pending(self) -> bool:
        """Return whether any process exists or is being created."""
        return any(nanny.pid or nanny.status in _BEGINNING for nanny in list(self._nannies))

    def _of_workers_that_start(self) -> list[distributed.Nanny]:
        return [
            nanny
            for nanny in list(self._nannies)
            if nanny.process is not None and nanny.process.status == Status.starting
        ]


def _error(future: concurrent.futures.Future[None]) -> BaseException | None:
    if not future.done() or future.cancelled():
        return None
    return future.exception()
