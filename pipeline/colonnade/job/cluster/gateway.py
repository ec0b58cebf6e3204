"""A cluster that a Dask Gateway starts."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from colonnade.job.cluster.base import Sized
from colonnade.job.values import Line, Options, Url

__all__ = ["GatewayCluster"]


class GatewayCluster(Sized):
    """A cluster that a Dask Gateway starts; a password or token comes from the environment."""

    kind: Literal["gateway"]
    """A cluster of a Dask Gateway."""
    address: Url
    """URL of the gateway, such as https://dask.example.org."""
    proxy_address: Line | None = None
    """Address of the schedulers' proxy, as host:port or gateway://…, if it differs."""
    auth: Literal["basic", "kerberos", "jupyterhub"] | None = None
    """Login method; default: that in Dask's configuration."""
    options: Options = Field(default_factory=dict)
    """Cluster options that the gateway offers; no secrets."""
