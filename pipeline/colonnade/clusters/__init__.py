"""From the job's cluster section to a Dask client and what it can do."""

from __future__ import annotations

import logging
import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import distributed

from colonnade.clusters import address, gateway, kubernetes, local, queues, ssh
from colonnade.clusters.base import Deployment, Kind
from colonnade.environment import differences, environment, versions
from colonnade.errors import ClusterError, UsageError, reason
from colonnade.events import ClusterExposed, Listener, WaitingForWorkers, ignore
from colonnade.job import ClusterSettings, LocalCluster, Sized
from colonnade.plan import Capacity

__all__ = ["Cluster", "connect", "expected_capacity", "refuse_spawned"]

_KINDS: dict[str, Kind] = {
    "local": local,
    "address": address,
    "slurm": queues,
    "pbs": queues,
    "sge": queues,
    "lsf": queues,
    "ssh": ssh,
    "kubernetes": kubernetes,
    "gateway": gateway,
}
# Seconds between two looks at how many workers have come, and between telling it twice
_TICK = 0.1
_EVERY = 5.0


@dataclass(frozen=True)
class Cluster:
    """A cluster whose workers are there.

    Attributes
    ----------
    wanted
        Workers that it was to have at the start.
    most_threads
        Threads that it may have at some time.
    replace, trouble
        As of `Deployment`.
    """

    client: distributed.Client
    capacity: Capacity
    dashboard: str
    wanted: int
    most_threads: int
    replace: Callable[[], None]
    trouble: Callable[[], str]


def expected_capacity(settings: ClusterSettings) -> Capacity:
    """Tell what the cluster will give, without starting or reaching it."""
    return _KINDS[settings.kind].capacity(settings)


@contextmanager
def connect(settings: ClusterSettings, listener: Listener = ignore) -> Iterator[Cluster]:
    """Start or reach the cluster, wait for its workers, and leave it as it was.

    Raises
    ------
    ClusterError
        It cannot be started or reached, its workers do not come, or they have other versions of
        what computes.
    """
    wanted = expected_capacity(settings).workers
    with _quiet(), _KINDS[settings.kind].deploy(settings) as deployment:
        if deployment.exposed:
            listener(ClusterExposed(deployment.name, deployment.exposed))
        _wait(deployment, wanted, settings.timeout, listener)
        client = deployment.client
        # Those of this machine are this very Python
        if not isinstance(settings, LocalCluster):
            _check_versions(client)
        capacity = _capacity(client)
        if capacity is None:
            raise ClusterError(
                f"the workers of {deployment.name} have gone as soon as they had come "
                f"(cluster.workers).{deployment.trouble()} See what their logs say; then give the "
                "same command again."
            )
        most = settings.most if isinstance(settings, Sized) else capacity.workers
        yield Cluster(
            client=client,
            capacity=capacity,
            dashboard=_dashboard(deployment),
            wanted=wanted,
            most_threads=max(most, capacity.workers) * capacity.threads_per_worker,
            replace=deployment.replace,
            trouble=deployment.trouble,
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Dask's own tale of what is lost or refused, with its tracebacks, from the run's."""
    parts = ("batched", "client", "core", "scheduler")
    names = [*(f"distributed.{part}" for part in parts), "tornado.application"]
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _wait(deployment: Deployment, wanted: int, seconds: float, listener: Listener) -> None:
    end = time.monotonic() + seconds
    told, next_told = wanted, 0.0
    while (there := len(deployment.client.nthreads())) < wanted:
        now = time.monotonic()
        if now > end:
            raise ClusterError(
                f"{there} of {wanted} workers of {deployment.name} came within {seconds:g} s "
                f"(cluster.workers, cluster.timeout).{deployment.trouble()}"
            )
        if there != told and now >= next_told:
            listener(WaitingForWorkers(deployment.name, wanted - there, wanted, seconds))
            told, next_told = there, now + _EVERY
        time.sleep(_TICK)


def _check_versions(client: distributed.Client) -> None:
    """Refuse workers that would compute with something else than what the client has."""
    wrong = []
    for worker, found in client.run(environment, on_error="return").items():
        # Of a worker that has gone meanwhile there is nothing to tell
        if isinstance(found, OSError):
            continue
        if isinstance(found, Exception):
            wrong.append(f"{worker} has no colonnade of this version ({reason(found)})")
        elif told := differences(found, versions()):
            wrong.append(f"{worker} on {found['host']} has {told}")
    if wrong:
        others = f", and {len(wrong) - 1} more are not as this client is" if wrong[1:] else ""
        raise ClusterError(
            f"the worker {wrong[0]}{others}. Install on the workers what the client has, or start "
            "the run where it is what they have."
        )


def _capacity(client: distributed.Client) -> Capacity | None:
    """Tell what the workers have that are there now; None where all have gone."""
    info: dict[str, dict[str, Any]] = client.scheduler_info(n_workers=-1)["workers"]
    workers = info.values()
    if not workers:
        return None
    # A limit of 0 is none at all; the smallest worker bounds what a block may need
    limits = [worker["memory_limit"] for worker in workers if worker["memory_limit"]]
    return Capacity(
        workers=len(workers),
        threads_per_worker=max(worker["nthreads"] for worker in workers),
        memory_per_worker=min(limits, default=None),
    )


def _dashboard(deployment: Deployment) -> str:
    link = deployment.dashboard
    if link is None:
        link = deployment.client.dashboard_link
    if link and find_spec("bokeh") is None:
        return "none here (pip install 'colonnade[dashboard]')"
    return str(link or "none")


def refuse_spawned() -> None:
    """Say what to do where a script without a main guard is run again by its own workers.

    Raises
    ------
    UsageError
        This process is such a worker.
    """
    if getattr(multiprocessing.process.current_process(), "_inheriting", False):
        raise UsageError(
            "colonnade starts worker processes, and each of them imports your script: put the "
            "call under `if __name__ == '__main__':`."
        )
