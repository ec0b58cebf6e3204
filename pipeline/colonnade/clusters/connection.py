"""Open the Dask cluster that the job's cluster section describes, and wait for its workers."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import distributed

from colonnade.clusters import address, gateway, kubernetes, local, queues, ssh
from colonnade.clusters.base import Deployment, Kind, NoAnswer, each_worker, within
from colonnade.clusters.capacity import expected_capacity
from colonnade.clusters.main_guard import refuse_unguarded
from colonnade.clusters.stuck import Occupation, evict, occupation
from colonnade.errors import ClusterError, one_line
from colonnade.events import ClusterExposed, Listener, WaitingForWorkers, ignore
from colonnade.job import ClusterSettings, LocalCluster, Sized
from colonnade.planning.plan import Capacity
from colonnade.versions import differences, environment, versions

__all__ = [
    "Cluster",
    "connect",
]

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
# Seconds between two counts of the workers, and between two reports of the count
_TICK = 0.1
_EVERY = 5.0
# Seconds for a scheduler to answer or to evict a worker's tasks; also the minimum for a worker to
# import this package
_ANSWER = 30.0
# Shortest timeout, in seconds, of a request near the end of a wait
_LEAST = 5.0


@dataclass(frozen=True)
class Cluster:
    """A cluster whose workers have joined.

    Attributes
    ----------
    wanted
        Number of workers requested at the start.
    most_threads
        Largest number of threads that the cluster may ever have.
    replace, trouble
        See `Deployment`.
    discard
        See `Deployment`; None if nannies restart stuck processes.
    """

    client: distributed.Client
    capacity: Capacity
    dashboard: str
    wanted: int
    most_threads: int
    replace: Callable[[], None]
    trouble: Callable[[], str]
    discard: Callable[[Any, str], None] | None = None

    def occupation(self, prefix: str) -> dict[str, Occupation]:
        """Return what each worker does with the tasks whose keys begin with a prefix."""
        call = partial(self.client.run_on_scheduler, occupation, prefix)
        try:
            found = within(self.client, _ANSWER, call)
        except OSError:
            raise
        # Somebody else's scheduler may refuse to run functions, or have another version
        except Exception:  # noqa: BLE001
            return {}
        return {worker: Occupation(*at) for worker, at in found.items()}

    def give_up(self, worker: str) -> None:
        """Give a stuck worker's tasks to others, and replace its process, job or pod."""
        call = partial(self.client.run_on_scheduler, evict, worker, restart=self.discard is None)
        name = within(self.client, _ANSWER, call)
        if name is not None and self.discard is not None:
            self.discard(name, worker)


@contextmanager
def connect(settings: ClusterSettings, listener: Listener = ignore) -> Iterator[Cluster]:
    """Start or connect to the cluster and wait for its workers; on exit, stop what was started.

    Raises
    ------
    ClusterError
        The cluster cannot be started or reached, its workers do not come, or they have other
        versions of the packages that compute.
    UsageError
        The cluster's processes would run the calling script again.
    """
    if isinstance(settings, LocalCluster):
        refuse_unguarded()
    wanted = expected_capacity(settings).workers
    with _quiet(), _KINDS[settings.kind].deploy(settings) as deployment:
        if deployment.exposed:
            listener(ClusterExposed(deployment.name, deployment.exposed))
        # Local workers usually come at once
        quiet = _EVERY if isinstance(settings, LocalCluster) else 0.0
        _wait(deployment, wanted, settings.timeout, listener, quiet)
        client = deployment.client
        with _answering(deployment, settings.timeout):
            # Local workers run this very Python
            if not isinstance(settings, LocalCluster):
                _check_versions(client, max(settings.timeout, _ANSWER))
            capacity = _capacity(client)
        if capacity is None:
            raise ClusterError(
                f"the workers of {deployment.name} left right after they joined "
                f"(cluster.workers).{deployment.trouble()} See their logs for the cause; then give "
                "the same command again."
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
            discard=deployment.discard,
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Dask's own messages and tracebacks about lost or refused connections."""
    parts = ("batched", "client", "core", "nanny", "scheduler")
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


def _wait(
    deployment: Deployment, wanted: int, seconds: float, listener: Listener, quiet: float
) -> None:
    """Wait up to `seconds` for the workers; after `quiet` seconds, report how many are missing."""
    client, begun = deployment.client, time.monotonic()
    end, reported, next_report = begun + seconds, wanted, begun + quiet
    while True:
        now = time.monotonic()
        with _answering(deployment, seconds):
            there = len(within(client, max(end - now, _LEAST), client.nthreads))
        if there >= wanted:
            return
        if cause := deployment.broken():
            raise ClusterError(f"{there} of {wanted} workers of {deployment.name} came: {cause}.")
        if now > end:
            raise ClusterError(
                f"{there} of {wanted} workers of {deployment.name} came within {seconds:g} s "
                "(cluster.workers, cluster.timeout): raise the timeout, or ask for fewer workers."
                f"{deployment.trouble()}"
            )
        if there != reported and now >= next_report:
            listener(WaitingForWorkers(deployment.name, wanted - there, wanted, seconds))
            reported, next_report = there, now + _EVERY
        time.sleep(_TICK)


@contextmanager
def _answering(deployment: Deployment, seconds: float) -> Iterator[None]:
    """Raise ClusterError if the scheduler does not answer."""
    try:
        yield
    except TimeoutError as error:
        raise ClusterError(
            f"the scheduler of {deployment.name} does not answer within {seconds:g} s "
            "(cluster.timeout): check whether its process is stopped or its host overloaded."
        ) from error


def _check_versions(client: distributed.Client, seconds: float) -> None:
    """Refuse workers whose versions of the computing packages differ from the client's."""
    wrong = []
    for worker, found in each_worker(client, seconds, environment).items():
        if isinstance(found, NoAnswer):
            raise ClusterError(
                f"the worker {worker} does not answer within {seconds:g} s: check whether its "
                "process is stopped, and end it."
            )
        # The worker has left meanwhile
        if isinstance(found, OSError):
            continue
        if isinstance(found, Exception):
            wrong.append(f"{worker} has no colonnade of this version ({one_line(found)})")
        elif difference := differences(found, versions()):
            wrong.append(f"{worker} on {found['host']} has {difference}")
    if wrong:
        others = f", and {len(wrong) - 1} more differ from this client" if wrong[1:] else ""
        raise ClusterError(
            f"the worker {wrong[0]}{others}. Install on the workers what the client has, or start "
            "the run from an environment with the workers' versions."
        )


def _capacity(client: distributed.Client) -> Capacity | None:
    """Return the capacity of the workers that are connected; None if all have left."""
    scheduler: Any = client.scheduler
    identity = within(client, _ANSWER, partial(scheduler.identity, n_workers=-1))
    workers = identity["workers"].values()
    if not workers:
        return None
    # A limit of 0 means no limit; the smallest worker bounds the memory of a block
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
        return "none without bokeh (pip install 'colonnade[dashboard]')"
    return str(link or "none")
