"""A cluster of pods."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from colonnade.job.cluster.base import Secured, Sized
from colonnade.job.values import Bytes, Environment, Line, Whole

__all__ = ["KubernetesCluster"]


class KubernetesCluster(Sized, Secured):
    """Pods that Dask's operator for Kubernetes starts, the scheduler's among them."""

    kind: Literal["kubernetes"]
    """In a namespace of Kubernetes."""
    image: Line
    """Image of the pods, with colonnade in it; an entry point must run what it is given."""
    namespace: Line | None = None
    """Namespace; without it, that of the context."""
    cores: Whole = 1
    """Cores of a worker, which computes a block on each."""
    memory: Bytes
    """Bytes of a worker, such as 4 GiB."""
    service_account: Line | None = None
    """Service account of the pods."""
    env: Environment = Field(default_factory=dict)
    """Environment of the pods; no secrets."""
    env_from_secrets: tuple[Line, ...] = ()
    """Names of the namespace's secrets that the pods have as environment, credentials say."""
