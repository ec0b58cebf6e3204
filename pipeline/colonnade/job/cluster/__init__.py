"""The section `cluster` of a job file: a kind of cluster each, with settings of its own."""

from colonnade.job.cluster.kinds import (
    Adaptive,
    AddressCluster,
    ClusterSettings,
    GatewayCluster,
    KubernetesCluster,
    LocalCluster,
    LsfCluster,
    PbsCluster,
    QueueCluster,
    Secured,
    SgeCluster,
    Sized,
    SlurmCluster,
    SshCluster,
    TlsSettings,
)

__all__ = [
    "Adaptive",
    "AddressCluster",
    "ClusterSettings",
    "GatewayCluster",
    "KubernetesCluster",
    "LocalCluster",
    "LsfCluster",
    "PbsCluster",
    "QueueCluster",
    "Secured",
    "SgeCluster",
    "Sized",
    "SlurmCluster",
    "SshCluster",
    "TlsSettings",
]
