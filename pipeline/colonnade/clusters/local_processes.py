"""The worker processes of a cluster on this machine: started, watched, and ended for certain."""

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

# Seconds until a process that is killed has gone, and between two looks at it
_GONE = 2.0
_TICK = 0.02
_BEGINNING = (Status.init, Status.starting)


class Processes:
    """The nannies of one cluster and their worker processes, also those that do not start.

    Dask knows a nanny only once its worker runs, and waits for ever for a worker that is stopped.
    """

    def __init__(self) -> None:
        self._nannies: list[distributed.Nanny] = []
        self._starting: concurrent.futures.Future[None] | None = None

    def nanny(self) -> type[distributed.Nanny]:
        """Make the class of the nannies, which are noted here from their beginning."""
        noted = self._nannies

        class Nanny(distributed.Nanny):
            def __init__(self, *arguments: Any, **options: Any) -> None:
                super().__init__(*arguments, **options)
                noted.append(self)

        return Nanny

    def start(self, cluster: Any, number: int) -> None:
        """Ask a cluster for so many workers, and wait for none of them."""

        async def scaled() -> None:
            cluster.scale(number)
            await cluster

        self._starting = asyncio.run_coroutine_threadsafe(scaled(), cluster.loop.asyncio_loop)

    def broken(self) -> str:
        """Tell of a worker process that has ended while it started; empty where none has."""
        error = None if self._starting is None else _error(self._starting)
        if error is None:
            return ""
        while error.__cause__ is not None:
            error = error.__cause__
        return (
            f"a worker process has ended while it started ({one_line(error).rstrip('.')}). The "
            "kernel ends processes where memory is short; a module that Dask preloads may fail "
            "(distributed.worker.preload), or what a script has outside of its main guard"
        )

    def trouble(self) -> str:
        """Tell which processes have not come up."""
        pids = [str(nanny.pid) for nanny in self._of_workers_that_start() if nanny.pid]
        if not pids:
            return ""
        processes = f"process {pids[0]} has" if len(pids) == 1 else f"{', '.join(pids)} have"
        return (
            f" Worker {processes} not come up: see whether it is stopped (kill -CONT), or waits "
            "for a disk; give a slow machine more time (cluster.timeout)."
        )

    def end(self, all_of_them: bool) -> None:
        """Kill the processes that have not come up; or all of them, and wait until they are gone.

        One that is stopped heeds no other signal than this one, and Python would wait for it when
        this process ends.
        """
        self._kill(self._nannies if all_of_them else self._of_workers_that_start())
        end = time.monotonic() + _GONE
        while all_of_them and self._pending() and time.monotonic() < end:
            time.sleep(_TICK)
            self._kill(self._nannies)

    def _kill(self, nannies: list[distributed.Nanny]) -> None:
        for nanny in list(nannies):
            if nanny.status == Status.running:
                # It would start another one
                nanny.close_gracefully(reason="colonnade ends")
            with suppress(ProcessLookupError):
                if pid := nanny.pid:
                    os.kill(pid, signal.SIGKILL)

    def _pending(self) -> bool:
        """Whether there are processes, or some are just being made."""
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
