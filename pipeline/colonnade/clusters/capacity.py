"""From settings to a number of workers, their threads and memory, before the cluster exists."""

from __future__ import annotations

from dask.system import CPU_COUNT
from distributed.system import MEMORY_LIMIT

from colonnade.job import (
    AddressCluster,
    ClusterSettings,
    GatewayCluster,
    LocalCluster,
    SshCluster,
)
from colonnade.planning.plan import Capacity

__all__ = ["expected_capacity"]


def expected_capacity(settings: ClusterSettings) -> Capacity:
    """Return what the cluster will offer, without starting or connecting to it.

    Memory is None where only the workers know it.
    """
    if isinstance(settings, LocalCluster):
        return _local(settings)
    if isinstance(settings, AddressCluster):
        return Capacity(settings.workers, 1, None)
    if isinstance(settings, GatewayCluster):
        return Capacity(settings.size, 1, None)
    if isinstance(settings, SshCluster):
        memory = settings.memory_per_worker
        known = None if memory == "auto" else memory
        return Capacity(settings.size, settings.threads_per_worker, known)
    # A job of a queue, or a pod, for each worker
    return Capacity(settings.size, settings.cores, settings.memory)


def _local(settings: LocalCluster) -> Capacity:
    threads = settings.threads_per_worker
    workers = max(1, CPU_COUNT // threads) if settings.workers == "auto" else settings.workers
    memory = settings.memory_per_worker
    return Capacity(workers, threads, MEMORY_LIMIT // workers if memory == "auto" else memory)
