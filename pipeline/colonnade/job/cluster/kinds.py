"""The section `cluster` of a job file: settings for each kind of cluster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Discriminator, Tag

from colonnade.job.cluster.gateway import GatewayCluster
from colonnade.job.cluster.kubernetes import KubernetesCluster
from colonnade.job.cluster.local import AddressCluster, LocalCluster
from colonnade.job.cluster.queues import (
    LsfCluster,
    PbsCluster,
    SgeCluster,
    SlurmCluster,
)
from colonnade.job.cluster.ssh import SshCluster

__all__ = [
    "ClusterSettings",
]


def _kind(given: Any) -> str:
    if isinstance(given, Mapping):
        return str(given.get("kind", "local"))
    return str(getattr(given, "kind", "local"))


ClusterSettings = Annotated[
    Annotated[LocalCluster, Tag("local")]
    | Annotated[AddressCluster, Tag("address")]
    | Annotated[SlurmCluster, Tag("slurm")]
    | Annotated[PbsCluster, Tag("pbs")]
    | Annotated[SgeCluster, Tag("sge")]
    | Annotated[LsfCluster, Tag("lsf")]
    | Annotated[SshCluster, Tag("ssh")]
    | Annotated[KubernetesCluster, Tag("kubernetes")]
    | Annotated[GatewayCluster, Tag("gateway")],
    Discriminator(_kind),
]
