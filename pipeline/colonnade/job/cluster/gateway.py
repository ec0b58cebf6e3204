"""A cluster that a Dask Gateway starts."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from colonnade.job.cluster.base import Sized
from colonnade.job.values import Line, Options, Url

__all__ = ["GatewayCluster"]


class GatewayCluster(Sized):
    """A cluster that a Dask Gateway starts; a password or token is the environment's."""

    kind: Literal["gateway"]
    """At a Dask Gateway."""
    address: Url
    """The gateway's, such as https://dask.example.org."""
    proxy_address: Line | None = None
    """Where schedulers are reached, as host:port or gateway://…, where it differs."""
    auth: Literal["basic", "kerberos", "jupyterhub"] | None = None
    """How to log in; without it, as Dask's configuration says."""
    options: Options = Field(default_factory=dict)
    """Cluster options, as the gateway offers them; no secrets."""
