"""From the job's cluster section to a Dask client and what it can do."""

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
from colonnade.clusters.base import Deployment, Kind, NoAnswer, each_worker, waited, within
from colonnade.clusters.main_guard import refuse_spawned, refuse_unguarded
from colonnade.clusters.stuck import Occupation, StuckWorker, Tracker, evict, occupation
from colonnade.errors import ClusterError, one_line
from colonnade.events import ClusterExposed, Listener, WaitingForWorkers, ignore
from colonnade.job import ClusterSettings, LocalCluster, Sized
from colonnade.planning.plan import Capacity
from colonnade.versions import differences, environment, versions

__all__ = [
    "Cluster",
    "NoAnswer",
    "StuckWorker",
    "Tracker",
    "connect",
    "each_worker",
    "expected_capacity",
    "refuse_spawned",
    "waited",
    "within",
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
# Seconds between two looks at how many workers have come, and between telling it twice
_TICK = 0.1
_EVERY = 5.0
# Seconds that a scheduler has to answer, and to take a worker's tasks away; and a worker, at the
# least, to import this package
_ANSWER = 30.0
# Seconds that a question has where the time to wait is almost over
_LEAST = 5.0


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
    discard
        As of `Deployment`, or None where nannies are to start processes anew.
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
        """Ask what each worker is at, of the tasks whose keys begin with a prefix."""
        call = partial(self.client.run_on_scheduler, occupation, prefix)
        try:
            found = within(self.client, _ANSWER, call)
        except OSError:
            raise
        # A scheduler of others' may refuse to run what it is sent, or be another version
        except Exception:  # noqa: BLE001
            return {}
        return {worker: Occupation(*at) for worker, at in found.items()}

    def give_up(self, worker: str) -> None:
        """Give a stuck worker's tasks to others, and have its process, job or pod replaced."""
        call = partial(self.client.run_on_scheduler, evict, worker, restart=self.discard is None)
        name = within(self.client, _ANSWER, call)
        if name is not None and self.discard is not None:
            self.discard(name, worker)


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
    UsageError
        Its processes would run the script again that calls us.
    """
    if isinstance(settings, LocalCluster):
        refuse_unguarded()
    wanted = expected_capacity(settings).workers
    with _quiet(), _KINDS[settings.kind].deploy(settings) as deployment:
        if deployment.exposed:
            listener(ClusterExposed(deployment.name, deployment.exposed))
        # Those of this machine come at once, as a rule
        quiet = _EVERY if isinstance(settings, LocalCluster) else 0.0
        _wait(deployment, wanted, settings.timeout, listener, quiet)
        client = deployment.client
        with _answering(deployment, settings.timeout):
            # Those of this machine are this very Python
            if not isinstance(settings, LocalCluster):
                _check_versions(client, max(settings.timeout, _ANSWER))
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
            discard=deployment.discard,
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Dask's own tale of what is lost or refused, with its tracebacks, from the run's."""
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
    """Wait for workers, for so many seconds; tell for how many, the first `quiet` seconds not."""
    client, begun = deployment.client, time.monotonic()
    end, told, next_told = begun + seconds, wanted, begun + quiet
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
                f"(cluster.workers, cluster.timeout).{deployment.trouble()}"
            )
        if there != told and now >= next_told:
            listener(WaitingForWorkers(deployment.name, wanted - there, wanted, seconds))
            told, next_told = there, now + _EVERY
        time.sleep(_TICK)


@contextmanager
def _answering(deployment: Deployment, seconds: float) -> Iterator[None]:
    """Say so where the scheduler has stopped answering."""
    try:
        yield
    except TimeoutError as error:
        raise ClusterError(
            f"the scheduler of {deployment.name} does not answer within {seconds:g} s "
            "(cluster.timeout): see whether its process is stopped, or its host overloaded."
        ) from error


def _check_versions(client: distributed.Client, seconds: float) -> None:
    """Refuse workers that would compute with something else than what the client has."""
    wrong = []
    for worker, found in each_worker(client, seconds, environment).items():
        if isinstance(found, NoAnswer):
            raise ClusterError(
                f"the worker {worker} does not answer within {seconds:g} s: see whether its "
                "process is stopped, and end it."
            )
        # Of a worker that has gone meanwhile there is nothing to tell
        if isinstance(found, OSError):
            continue
        if isinstance(found, Exception):
            wrong.append(f"{worker} has no colonnade of this version ({one_line(found)})")
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
    scheduler: Any = client.scheduler
    identity = within(client, _ANSWER, partial(scheduler.identity, n_workers=-1))
    workers = identity["workers"].values()
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
