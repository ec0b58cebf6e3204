"""Worker processes on this machine."""

from __future__ import annotations

import logging
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import distributed

from colonnade.clusters import http_servers
from colonnade.clusters.base import Deployment, close
from colonnade.clusters.capacity import expected_capacity
from colonnade.clusters.local_processes import Processes
from colonnade.clusters.private_directory import private_directory, temporary_directory
from colonnade.clusters.security import security_in
from colonnade.job import LocalCluster
from colonnade.planning.plan import Capacity
from colonnade.signals.stopping import SIGNALS

__all__ = ["deploy"]


def dask_setup(worker: distributed.Worker) -> None:
    """Prepare a worker of a local cluster; Dask calls this when it preloads the module."""
    del worker
    # Ctrl-C reaches the whole process group, as other signals may; only the run handles them
    for signum in SIGNALS:
        signal.signal(signum, signal.SIG_IGN)
    # The run reports a failed block once; the worker would log a traceback for each retry
    logging.getLogger("distributed.worker").setLevel(logging.CRITICAL)


@contextmanager
def deploy(settings: LocalCluster) -> Iterator[Deployment]:
    """Start worker processes, and end them on exit."""
    given = expected_capacity(settings)
    processes = Processes()
    with private_directory(temporary_directory(), "TMPDIR") as private:
        security = security_in(private, settings)
        with warnings.catch_warnings():
            # If another run has the dashboard's port, Dask chooses another, which the run prints
            warnings.filterwarnings("ignore", "Port .* is already in use", UserWarning)
            cluster = _cluster(settings, given, private, security, processes)
        try:
            with distributed.Client(cluster) as client:
                processes.start(cluster, given.workers)
                yield Deployment(
                    client,
                    "this machine",
                    # Starts a new nanny in place of one that has given up
                    replace=partial(cluster.scale, given.workers),
                    trouble=processes.trouble,
                    broken=processes.broken,
                )
        finally:
            close(cluster, processes.end)


def _cluster(
    settings: LocalCluster,
    given: Capacity,
    private: Path,
    security: distributed.Security | None,
    processes: Processes,
) -> distributed.SpecCluster:
    """Start a scheduler, for nannies and workers that listen on loopback only.

    Dask's LocalCluster is unsuitable: its scheduler always has an HTTP server, and keeps its files
    in a directory that another user may have created before.
    """
    security = security or distributed.Security()
    common = {
        "host": "127.0.0.1",
        "protocol": "tls://" if security.require_encryption else "tcp://",
        "security": security,
        "local_directory": str(private),
    }
    worker = {
        "cls": processes.nanny(),
        "options": common
        | {
            "worker_class": http_servers.worker_class(dashboard=settings.dashboard),
            "nthreads": given.threads_per_worker,
            "memory_limit": given.memory_per_worker,
            "silence_logs": logging.ERROR,
            "preload": [__name__],
        },
    }
    scheduler, http = http_servers.scheduler(dashboard=settings.dashboard)
    return distributed.SpecCluster(
        worker=worker,
        scheduler={"cls": scheduler, "options": common | http},
        security=security,
        silence_logs=logging.ERROR,
    )
