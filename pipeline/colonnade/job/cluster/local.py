"""Clusters that need no deployment: workers on this machine, and a running cluster."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from colonnade.job.cluster.base import Cluster, Secured, TlsSettings, placed
from colonnade.job.values import Address, Count, Size, Whole

__all__ = ["AddressCluster", "LocalCluster"]


class LocalCluster(Secured):
    """Worker processes on this machine."""

    kind: Literal["local"] = "local"
    """Worker processes on this machine."""
    workers: Count = "auto"
    """Worker processes; auto: the number of cores divided by threads_per_worker."""
    threads_per_worker: Whole = 1
    """Blocks that a worker computes at a time, each on one core."""
    memory_per_worker: Size = "auto"
    """Bytes that a worker may use; auto: an equal share of the machine's memory."""


class AddressCluster(Cluster):
    """A Dask scheduler that is already running."""

    kind: Literal["address"]
    """A running scheduler, at an address."""
    address: Address
    """Address of the scheduler, such as tcp://10.0.0.1:8786."""
    workers: Whole = 1
    """Workers to wait for before the first block."""
    tls: TlsSettings | None = None
    """Certificates for a tls:// or wss:// address; default: those in Dask's configuration."""

    @model_validator(mode="after")
    def _tls_serves(self) -> Self:
        if self.tls is not None and not self.address.startswith(("tls://", "wss://")):
            raise ValueError(
                "tls: certificates are for an address of tls:// or wss://; change the address, or "
                "leave tls out"
            )
        return self

    def located(self) -> Self:
        """Return the settings with the certificates' paths made absolute."""
        if self.tls is None:
            return self
        tls = placed(self.tls, *TlsSettings.model_fields)
        return self.model_copy(update={"tls": tls})
