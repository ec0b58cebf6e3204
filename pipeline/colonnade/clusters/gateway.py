"""A cluster that a Dask Gateway starts, through dask-gateway."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from colonnade.clusters.base import Deployment, close, in_time, library, refusal
from colonnade.job import GatewayCluster

__all__ = ["deploy"]


@contextmanager
def deploy(settings: GatewayCluster) -> Iterator[Deployment]:
    """Request a cluster from the gateway, and stop it on exit."""
    kind = library("dask_gateway", "gateway").GatewayCluster
    # In two steps, so that a cluster that fails to start can be closed
    cluster = kind.__new__(kind)
    with _closing(cluster):
        try:
            in_time(
                settings.timeout,
                cluster.__init__,
                address=settings.address,
                proxy_address=settings.proxy_address,
                auth=settings.auth,
                **settings.options,
            )
        # The gateway and the processes that it starts may cause any exception
        except Exception as error:
            raise refusal(f"no cluster from {settings.address} (cluster)", error) from error
        with cluster.get_client(set_as_default=False) as client:
            if settings.adaptive is None:
                cluster.scale(settings.size)
            else:
                cluster.adapt(minimum=settings.adaptive.minimum, maximum=settings.adaptive.maximum)
            yield Deployment(client, settings.address)


@contextmanager
def _closing(cluster: Any) -> Iterator[None]:
    try:
        yield
    finally:
        gateway = getattr(cluster, "gateway", None)
        if gateway is not None:
            close(cluster)
            # The gateway's finaliser would close it again, and deadlock if it ran in the thread of
            # the gateway's own loop
            runner = vars(gateway).pop("_loop_runner")
            if runner.is_started():
                runner.stop()
