"""The section `cluster` of a job file: settings for each kind of cluster."""

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
