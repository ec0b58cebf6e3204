"""What every kind of cluster is to the rest: a deployment, asked for and perhaps on its way."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

import distributed
from distributed.core import Status

from colonnade.errors import ClusterError, import_optional, one_line
from colonnade.planning.plan import Capacity

__all__ = [
    "Deployment",
    "Kind",
    "NoAnswer",
    "close",
    "each_worker",
    "in_time",
    "library",
    "refusal",
    "waited",
    "within",
]

# Seconds between two looks at what a wait may end
_TICK = 0.1
# Seconds in which a cluster ends by itself, as a rule: Dask's nannies kill after 4 s, and a queue
# has to cancel each job; seconds for what is left once its processes are killed; and those after a
# second signal
_POLITE = 10.0
_FORCED = 20.0
_LAST = 2.0


def _nothing() -> None:
    """Replace no worker: the kind does that by itself, or cannot."""


def _silence() -> str:
    return ""


def _leave(all_of_them: bool) -> None:
    """End no process: none of them is known."""


@dataclass(frozen=True)
class Deployment:
    """A cluster whose workers may still be on their way.

    Attributes
    ----------
    name
        As its users call it.
    replace
        Ask for workers in place of those that were lost; it may be called again and again.
    trouble
        Tell what is known of workers that do not come.
    dashboard
        Where the dashboard is; None where Dask's own link leads there.
    exposed
        Why the cluster's processes do not know each other by certificates, although the job asks
        for that; empty where they do.
    broken
        Tell why workers cannot come any more; empty as long as they may.
    discard
        End the job or pod of a stuck worker, by the worker's name and address, so that another
        starts elsewhere. Without it, the worker's nanny starts its process anew.
    """

    client: distributed.Client
    name: str
    replace: Callable[[], None] = _nothing
    trouble: Callable[[], str] = _silence
    dashboard: str | None = None
    exposed: str = ""
    broken: Callable[[], str] = _silence
    discard: Callable[[Any, str], None] | None = None


class Kind(Protocol):
    """A module that knows one kind of cluster, or several that are alike."""

    def capacity(self, settings: Any, /) -> Capacity:
        """Tell what the cluster will give, without starting or reaching it."""

    def deploy(self, settings: Any, /) -> AbstractContextManager[Deployment]:
        """Start or reach the cluster, and leave it as it was."""


class NoAnswer(Exception):  # noqa: N818 (an answer in place of a worker's, handed on as a value)
    """A worker has not answered in time."""


def within(client: distributed.Client, seconds: float, call: Callable[..., Any], *args: Any) -> Any:
    """Call a method of a client, or of its scheduler, that could wait for ever.

    Raises
    ------
    TimeoutError
        There is no answer within so many seconds.
    """

    async def called() -> Any:
        return await call(*args)

    return client.sync(called, callback_timeout=max(seconds, _TICK))


def waited(
    client: distributed.Client, call: Callable[..., Any], *args: Any, each: Callable[[], None]
) -> Any:
    """Call a method of a client, and `each` several times a second until it returns.

    What `each` raises ends the wait.
    """

    async def called() -> Any:
        return await call(*args)

    loop: Any = client.loop
    future = asyncio.run_coroutine_threadsafe(called(), loop.asyncio_loop)
    try:
        while True:
            try:
                return future.result(timeout=_TICK)
            except TimeoutError:
                if future.done():
                    raise
            each()
    finally:
        future.cancel()


def each_worker(
    client: distributed.Client,
    seconds: float,
    function: Callable[..., Any],
    *args: Any,
    workers: Collection[str] | None = None,
) -> dict[str, Any]:
    """Run a function on workers, all of them unless some are named.

    Returns
    -------
    By the worker's address, what the function has returned or raised; `NoAnswer` where nothing
    came back within so many seconds; an OSError where the worker has gone.

    Raises
    ------
    TimeoutError
        The scheduler does not answer.
    """

    async def one(worker: str) -> Any:
        try:
            asked = client.run(function, *args, workers=[worker], on_error="return")
            return (await asyncio.wait_for(asked, seconds))[worker]
        except TimeoutError:
            return NoAnswer(f"no answer within {seconds:g} s")

    async def all_of_them() -> dict[str, Any]:
        asked = list(await client.nthreads()) if workers is None else list(workers)
        answers = await asyncio.gather(*map(one, asked), return_exceptions=True)
        return dict(zip(asked, answers, strict=True))

    found: dict[str, Any] = within(client, seconds + _POLITE, all_of_them)
    return found


def in_time(seconds: float, call: Callable[..., None], **options: Any) -> None:
    """Call what could take for ever, in a thread that is left to itself once the time is over.

    Raises
    ------
    TimeoutError
        It is still at it.
    """
    errors: list[BaseException] = []

    def called() -> None:
        try:
            call(**options)
        except BaseException as error:  # noqa: BLE001 (it is raised again below)
            errors.append(error)

    calling = threading.Thread(target=called, name="in time", daemon=True)
    calling.start()
    calling.join(seconds)
    if errors:
        raise errors[0]
    if calling.is_alive():
        raise TimeoutError(f"it has not started within {seconds:g} s (cluster.timeout)")


def close(cluster: Any, end: Callable[[bool], None] = _leave) -> None:
    """Close one of Dask's clusters, in bounded time.

    Parameters
    ----------
    end
        Kills processes of the cluster: those that have not started yet, which nothing else ends;
        or, once the others have had their time to end by themselves, all of them.
    """

    def closed() -> None:
        # What cannot be closed is killed; there is no more to be said about it
        with suppress(Exception):
            cluster.close()

    closing = threading.Thread(target=closed, name="closing", daemon=True)
    begun = time.monotonic()
    try:
        closing.start()
        while closing.is_alive() and (waiting := time.monotonic() - begun) < _POLITE + _FORCED:
            end(waiting > _POLITE)
            closing.join(_TICK)
    finally:
        # Also where a signal has ended the wait: without its processes a cluster closes quickly
        end(True)
        closing.join(_LAST)
        if cluster.status != Status.closed:
            # Nor does Dask try once more when this process ends
            cluster.shutdown_on_close = False


def library(name: str, extra: str) -> Any:
    """Import the library that deploys a kind of cluster.

    Raises
    ------
    ClusterError
        It is not installed.
    """
    told = f"this kind of cluster (cluster.kind) needs {name.partition('.')[0]}"
    return import_optional(name, extra, ClusterError, told)


def refusal(what: str, error: BaseException) -> ClusterError:
    """Say that a cluster cannot be had, and why."""
    return ClusterError(f"{what}: {one_line(error).rstrip('.')}.")
