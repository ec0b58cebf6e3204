"""A cluster that a Dask Gateway starts, by dask-gateway."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from colonnade.clusters.base import Deployment, library, refusal
from colonnade.job import GatewayCluster
from colonnade.plan import Capacity

__all__ = ["capacity", "deploy"]


def capacity(settings: GatewayCluster) -> Capacity:
    """Tell what is known without asking the gateway."""
    return Capacity(settings.size, 1, None)


@contextmanager
def deploy(settings: GatewayCluster) -> Iterator[Deployment]:
    """Ask the gateway for a cluster, and stop it."""
    library_ = library("dask_gateway", "gateway")
    try:
        with library_.Gateway(
            settings.address, proxy_address=settings.proxy_address, auth=settings.auth
        ) as gateway:
            options = gateway.cluster_options()
            options.update(settings.options)
            cluster = gateway.new_cluster(options)
    # Whatever the gateway, or what it starts, may say
    except Exception as error:
        raise refusal(f"no cluster from {settings.address} (cluster)", error) from error
    with cluster, cluster.get_client(set_as_default=False) as client:
        if settings.adaptive is None:
            cluster.scale(settings.size)
        else:
            cluster.adapt(minimum=settings.adaptive.minimum, maximum=settings.adaptive.maximum)
        yield Deployment(client, settings.address)
