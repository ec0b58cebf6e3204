"""Workers on hosts that are reached by ssh, by Dask's SSHCluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import distributed

from colonnade.clusters.base import Deployment, library, refusal
from colonnade.job import SshCluster
from colonnade.plan import Capacity

__all__ = ["arguments", "capacity", "deploy"]


def capacity(settings: SshCluster) -> Capacity:
    """Tell what the hosts will give; a share of a host's memory is not known from here."""
    memory = settings.memory_per_worker
    return Capacity(
        settings.size, settings.threads_per_worker, None if memory == "auto" else memory
    )


@contextmanager
def deploy(settings: SshCluster) -> Iterator[Deployment]:
    """Start a scheduler and workers on the hosts, and end them."""
    library("asyncssh", "ssh")
    hosts = ", ".join(dict.fromkeys(settings.hosts))
    try:
        cluster = distributed.SSHCluster(**arguments(settings))
    # Whatever asyncssh, a host or its Python may say
    except Exception as error:
        raise refusal(f"no cluster by ssh on {hosts} (cluster.hosts)", error) from error
    with cluster, distributed.Client(cluster, set_as_default=False) as client:
        yield Deployment(client, hosts)


def arguments(settings: SshCluster) -> dict[str, Any]:
    """Tell Dask and asyncssh what the job says."""
    connect = {
        "port": settings.port,
        "username": settings.username,
        "client_keys": None if settings.client_keys is None else list(settings.client_keys),
        "known_hosts": settings.known_hosts,
        "connect_timeout": settings.timeout,
        "login_timeout": settings.timeout,
    }
    worker = {
        "n_workers": settings.workers_per_host,
        "nthreads": settings.threads_per_worker,
        "memory_limit": settings.memory_per_worker,
        "interface": settings.interface,
        "local_directory": settings.local_directory,
    }
    scheduler = {"port": 0, "dashboard_address": ":8787", "interface": settings.interface}
    return {
        "hosts": [settings.scheduler or settings.hosts[0], *settings.hosts],
        "connect_options": _given(connect),
        "worker_options": _given(worker),
        "scheduler_options": _given(scheduler),
        "remote_python": settings.python,
    }


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}
