"""From the job's cluster section to a Dask client and what it can do."""

from __future__ import annotations

import logging
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import distributed
from dask.system import CPU_COUNT
from distributed.system import MEMORY_LIMIT

from colonnade.errors import ClusterError
from colonnade.job import AddressCluster, ClusterSettings, LocalCluster
from colonnade.plan import Capacity
from colonnade.stopping import SIGNALS

__all__ = ["Cluster", "connect", "expected_capacity"]

# Seconds of one attempt at reaching a scheduler. A client keeps this for its life: so long it looks
# for a scheduler that it has lost, in vain, since that has forgotten all of the run's blocks
_CONNECT = 5.0


@dataclass(frozen=True)
class Cluster:
    """A cluster whose workers are there."""

    client: distributed.Client
    capacity: Capacity
    dashboard: str


def dask_setup(worker: distributed.Worker) -> None:
    """Prepare a worker of a local cluster; Dask calls it where this module is preloaded."""
    del worker
    # Ctrl-C reaches the whole process group, and so may the others; the run alone is to answer
    for signum in SIGNALS:
        signal.signal(signum, signal.SIG_IGN)
    # A block that fails is told once, by the run, and not with a traceback for each retry
    logging.getLogger("distributed.worker").setLevel(logging.CRITICAL)


def expected_capacity(settings: ClusterSettings) -> Capacity:
    """Tell what the cluster will give, without starting or reaching it."""
    if isinstance(settings, AddressCluster):
        return Capacity(settings.workers, 1, None)
    threads = settings.threads_per_worker
    workers = max(1, CPU_COUNT // threads) if settings.workers == "auto" else settings.workers
    memory = settings.memory_per_worker
    return Capacity(workers, threads, MEMORY_LIMIT // workers if memory == "auto" else memory)


@contextmanager
def connect(settings: ClusterSettings) -> Iterator[Cluster]:
    """Start or reach the cluster, wait for its workers, and leave it as it was.

    Raises
    ------
    ClusterError
        It cannot be started or reached, or its workers do not come.
    """
    with _KINDS[settings.kind](settings) as client:
        yield Cluster(client, _capacity(client), _dashboard(client))


@contextmanager
def _local(settings: LocalCluster) -> Iterator[distributed.Client]:
    capacity = expected_capacity(settings)
    with warnings.catch_warnings():
        # The dashboard's port is taken by another run: it takes another, which we print
        warnings.filterwarnings("ignore", message="Port .* is already in use", category=UserWarning)
        cluster = distributed.LocalCluster(
            n_workers=capacity.workers,
            threads_per_worker=capacity.threads_per_worker,
            memory_limit=capacity.memory_per_worker,
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:8787",
            silence_logs=logging.ERROR,
            preload=[__name__],
        )
    with cluster, distributed.Client(cluster) as client:
        try:
            client.wait_for_workers(capacity.workers, timeout=settings.timeout)
        except TimeoutError:
            raise ClusterError(
                f"{len(_workers(client))} of {capacity.workers} workers started within "
                f"{settings.timeout:g} s on this machine (cluster.workers, cluster.timeout)."
            ) from None
        yield client


@contextmanager
def _address(settings: AddressCluster) -> Iterator[distributed.Client]:
    with _client(settings) as client:
        try:
            client.wait_for_workers(settings.workers, timeout=settings.timeout)
        except TimeoutError:
            there = len(_workers(client))
            raise ClusterError(
                f"{settings.address}: {there} of {settings.workers} workers came within "
                f"{settings.timeout:g} s (cluster.workers, cluster.timeout)."
            ) from None
        yield client


def _client(settings: AddressCluster) -> distributed.Client:
    end = time.monotonic() + settings.timeout
    while True:
        left = end - time.monotonic()
        try:
            return distributed.Client(settings.address, timeout=min(_CONNECT, max(left, 0.1)))
        except (TimeoutError, OSError, ValueError) as error:
            if left > _CONNECT and not isinstance(error, ValueError):
                continue
            raise ClusterError(
                f"no Dask scheduler answers at {settings.address} within {settings.timeout:g} s "
                f"(cluster.address): {error}"
            ) from error


_KINDS: dict[str, Callable[[Any], AbstractContextManager[distributed.Client]]] = {
    "local": _local,
    "address": _address,
}


def _workers(client: distributed.Client) -> dict[str, dict[str, Any]]:
    workers: dict[str, dict[str, Any]] = client.scheduler_info(n_workers=-1)["workers"]
    return workers


def _capacity(client: distributed.Client) -> Capacity:
    workers = _workers(client).values()
    # A limit of 0 is none at all; the smallest worker bounds what a block may need
    limits = [worker["memory_limit"] for worker in workers if worker["memory_limit"]]
    return Capacity(
        workers=len(workers),
        threads_per_worker=max(worker["nthreads"] for worker in workers),
        memory_per_worker=min(limits, default=None),
    )


def _dashboard(client: distributed.Client) -> str:
    if find_spec("bokeh") is None:
        return "none here (pip install 'colonnade[dashboard]')"
    return str(client.dashboard_link) or "none"
