"""The interface of the kinds of cluster, and the calls to clusters that they share."""

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

# Seconds between two polls
_TICK = 0.1
# Seconds for a cluster to close by itself: Dask's nannies kill after 4 s, and a queue has to cancel
# each job; seconds for the rest once its processes are killed; and seconds after a second signal
_POLITE = 10.0
_FORCED = 20.0
_LAST = 2.0


def _nothing() -> None:
    """Replace no worker: the cluster does that by itself, or cannot."""


def _silence() -> str:
    return ""


def _leave(all_of_them: bool) -> None:
    """End no process: the cluster's processes are unknown here."""


@dataclass(frozen=True)
class Deployment:
    """A cluster whose workers may still be starting.

    Attributes
    ----------
    name
        The cluster's name in messages.
    replace
        Request workers in place of lost ones; repeated calls are allowed.
    trouble
        Return what is known of workers that do not start, as sentences to append to a message.
    dashboard
        Where the dashboard is; None if Dask's own link is right.
    exposed
        Why the cluster's processes do not authenticate each other with certificates, although the
        job requests that; empty if they do.
    broken
        Return why no more workers can start; empty as long as they can.
    discard
        End the job or pod of a stuck worker, given the worker's name and address, so that another
        starts elsewhere. If None, the worker's nanny restarts its process.
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
    """A module that deploys one kind of cluster, or several similar kinds."""

    def deploy(self, settings: Any, /) -> AbstractContextManager[Deployment]:
        """Start or connect to the cluster; on exit, stop what was started."""


class NoAnswer(Exception):  # noqa: N818 (a value that stands for a worker's answer)
    """A worker has not answered in time."""


def within(client: distributed.Client, seconds: float, call: Callable[..., Any], *args: Any) -> Any:
    """Call a method of a client, or of its scheduler, that might block forever.

    Raises
    ------
    TimeoutError
        There is no answer within `seconds`.
    """

    async def called() -> Any:
        return await call(*args)

    return client.sync(called, callback_timeout=max(seconds, _TICK))


def waited(
    client: distributed.Client, call: Callable[..., Any], *args: Any, each: Callable[[], None]
) -> Any:
    """Call a method of a client, and call `each` several times a second until it returns.

    An exception from `each` ends the wait.
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
    """Run a function on all workers, or on those that `workers` names.

    Returns
    -------
    The function's result or exception by worker address; `NoAnswer` for a worker that did not
    answer within `seconds`; an OSError for a worker that has left.

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
    """Call a function that might block forever, in a thread that is abandoned after `seconds`.

    Raises
    ------
    TimeoutError
        The function has not returned.
    """
    errors: list[BaseException] = []

    def called() -> None:
        try:
            call(**options)
        except BaseException as error:  # noqa: BLE001 (re-raised below)
            errors.append(error)

    calling = threading.Thread(target=called, name="in time", daemon=True)
    calling.start()
    calling.join(seconds)
    if errors:
        raise errors[0]
    if calling.is_alive():
        raise TimeoutError(
            f"it has not started within {seconds:g} s (cluster.timeout): see its logs, or raise "
            "the timeout"
        )


def close(cluster: Any, end: Callable[[bool], None] = _leave) -> None:
    """Close one of Dask's clusters in bounded time.

    Parameters
    ----------
    end
        Kills processes of the cluster. Called with False, those that have not come up, which
        nothing else ends; called with True, after the time to end by themselves, all of them.
    """

    def closed() -> None:
        # Processes that do not close are killed below, so an error here needs no report
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
        # Also if a signal has ended the wait: without its processes a cluster closes quickly
        end(True)
        closing.join(_LAST)
        if cluster.status != Status.closed:
            # Keep Dask from trying again when this process ends
            cluster.shutdown_on_close = False


def library(name: str, extra: str) -> Any:
    """Import the library that deploys a kind of cluster.

    Raises
    ------
    ClusterError
        The library cannot be imported.
    """
    message = f"this kind of cluster (cluster.kind) needs {name.partition('.')[0]}"
    return import_optional(name, extra, ClusterError, message)


def refusal(what: str, error: BaseException) -> ClusterError:
    """Return the error for a cluster that cannot be started: `what`, and the cause."""
    return ClusterError(f"{what}: {one_line(error).rstrip('.')}.")
