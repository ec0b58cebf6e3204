"""The section `cluster` of a job file: settings for each kind of cluster."""

from colonnade.job.cluster.base import Adaptive, Secured, Sized, TlsSettings
from colonnade.job.cluster.gateway import GatewayCluster
from colonnade.job.cluster.kinds import ClusterSettings
from colonnade.job.cluster.kubernetes import KubernetesCluster
from colonnade.job.cluster.local import AddressCluster, LocalCluster
from colonnade.job.cluster.queues import (
    LsfCluster,
    PbsCluster,
    QueueCluster,
    SgeCluster,
    SlurmCluster,
)
from colonnade.job.cluster.ssh import SshCluster

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
