"""The section `cluster` of a job file: a kind of cluster each, with settings of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Tag, model_validator

from colonnade.job.values import Address, Count, Seconds, Size, Whole
from colonnade.locations import FilePath, Settings

__all__ = ["AddressCluster", "ClusterSettings", "LocalCluster", "TlsSettings"]


class _Cluster(Settings):
    timeout: Seconds = 60
    """Seconds to wait for the scheduler and for workers, at the start and whenever all are gone."""
    # Slurm and Kubernetes kill 30 s after SIGTERM, and closing a cluster takes some of them
    grace: Seconds = 20
    """Seconds that blocks in flight may take to finish when a signal stops the run."""


class LocalCluster(_Cluster):
    """Worker processes on this machine."""

    kind: Literal["local"] = "local"
    """On this machine."""
    workers: Count = "auto"
    """Worker processes; auto: one a core, by threads_per_worker."""
    threads_per_worker: Whole = 1
    """Blocks that a worker computes at a time, each on one core."""
    memory_per_worker: Size = "auto"
    """Bytes a worker may use; auto: an equal share of the machine's."""


class TlsSettings(Settings):
    """Certificates with which a client and a scheduler know each other: PEM files."""

    ca_file: FilePath
    """Of who has signed the certificates of all of the cluster."""
    cert: FilePath
    """The client's certificate."""
    key: FilePath
    """The client's private key."""


class AddressCluster(_Cluster):
    """A Dask scheduler that runs already."""

    kind: Literal["address"]
    """At an address."""
    address: Address
    """The scheduler's, such as tcp://10.0.0.1:8786."""
    workers: Whole = 1
    """Workers to wait for before the first block."""
    tls: TlsSettings | None = None
    """Certificates for an address of tls:// or wss://; without them, those that Dask is set to."""

    @model_validator(mode="after")
    def _tls_serves(self) -> Self:
        if self.tls is not None and not self.address.startswith(("tls://", "wss://")):
            raise ValueError("tls: certificates are for an address of tls:// or wss://")
        return self


def _kind(given: Any) -> str:
    if isinstance(given, Mapping):
        return str(given.get("kind", "local"))
    return str(getattr(given, "kind", "local"))


ClusterSettings = Annotated[
    Annotated[LocalCluster, Tag("local")] | Annotated[AddressCluster, Tag("address")],
    Discriminator(_kind),
]
