"""The job file: its settings, all validated before anything is created."""

from colonnade.job.cluster import (
    AddressCluster,
    ClusterSettings,
    GatewayCluster,
    KubernetesCluster,
    LocalCluster,
    QueueCluster,
    Secured,
    Sized,
    SshCluster,
    TlsSettings,
)
from colonnade.job.input import InputSettings
from colonnade.job.job import Job, json_schema
from colonnade.job.network import SCALINGS, ArrayNames, NetworkSettings
from colonnade.job.output import OutputSettings, ProductName, ScaleSettings

__all__ = [
    "SCALINGS",
    "AddressCluster",
    "ArrayNames",
    "ClusterSettings",
    "GatewayCluster",
    "InputSettings",
    "Job",
    "KubernetesCluster",
    "LocalCluster",
    "NetworkSettings",
    "OutputSettings",
    "ProductName",
    "QueueCluster",
    "ScaleSettings",
    "Secured",
    "Sized",
    "SshCluster",
    "TlsSettings",
    "json_schema",
]
