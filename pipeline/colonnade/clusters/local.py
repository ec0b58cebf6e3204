"""Worker processes on this machine."""

from __future__ import annotations

import logging
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import distributed
from dask.system import CPU_COUNT
from distributed.system import MEMORY_LIMIT

from colonnade.clusters.base import Deployment, close
from colonnade.clusters.processes import Processes
from colonnade.job import LocalCluster
from colonnade.plan import Capacity
from colonnade.stopping import SIGNALS

__all__ = ["capacity", "deploy"]


def dask_setup(worker: distributed.Worker) -> None:
    """Prepare a worker of a local cluster; Dask calls it where this module is preloaded."""
    del worker
    # Ctrl-C reaches the whole process group, and so may the others; the run alone is to answer
    for signum in SIGNALS:
        signal.signal(signum, signal.SIG_IGN)
    # A block that fails is told once, by the run, and not with a traceback for each retry
    logging.getLogger("distributed.worker").setLevel(logging.CRITICAL)


def capacity(settings: LocalCluster) -> Capacity:
    """Tell what this machine gives."""
    threads = settings.threads_per_worker
    workers = max(1, CPU_COUNT // threads) if settings.workers == "auto" else settings.workers
    memory = settings.memory_per_worker
    return Capacity(workers, threads, MEMORY_LIMIT // workers if memory == "auto" else memory)


@contextmanager
def deploy(settings: LocalCluster) -> Iterator[Deployment]:
    """Start worker processes, and end them."""
    given = capacity(settings)
    processes = Processes()
    with warnings.catch_warnings():
        # The dashboard's port is taken by another run: it takes another, which we print
        warnings.filterwarnings("ignore", message="Port .* is already in use", category=UserWarning)
        cluster = distributed.LocalCluster(
            n_workers=0,
            worker_class=processes.nanny(),
            threads_per_worker=given.threads_per_worker,
            memory_limit=given.memory_per_worker,
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:8787",
            silence_logs=logging.ERROR,
            preload=[__name__],
        )
    try:
        with distributed.Client(cluster) as client:
            processes.start(cluster, given.workers)
            yield Deployment(
                client,
                "this machine",
                # Where a nanny has given up, another takes its place
                replace=partial(cluster.scale, given.workers),
                trouble=processes.trouble,
                broken=processes.broken,
            )
    finally:
        close(cluster, processes.end)
