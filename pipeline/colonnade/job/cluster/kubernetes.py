"""A cluster of Kubernetes pods."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from colonnade.job.cluster.base import Secured, Sized
from colonnade.job.values import Bytes, Environment, Line, Whole

__all__ = ["KubernetesCluster"]


class KubernetesCluster(Sized, Secured):
    """Pods of workers and scheduler that Dask's Kubernetes operator starts."""

    kind: Literal["kubernetes"]
    """Pods in a namespace of Kubernetes."""
    image: Line
    """Image of the pods, with colonnade; an entry point must run the command that it is given."""
    namespace: Line | None = None
    """Namespace; default: that of the current context."""
    cores: Whole = 1
    """Cores of a worker, which computes one block per core."""
    memory: Bytes
    """Bytes of a worker, such as 4 GiB."""
    service_account: Line | None = None
    """Service account of the pods."""
    env: Environment = Field(default_factory=dict)
    """Environment variables of the pods; no secrets."""
    env_from_secrets: tuple[Line, ...] = ()
    """Secrets of the namespace that become environment variables of the pods, as credentials do."""
