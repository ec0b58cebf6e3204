"""The job file: what a user may write, checked whole before anything is created."""

from __future__ import annotations

from typing import Any

from colonnade.job.cluster import (
    AddressCluster,
    ClusterSettings,
    GatewayCluster,
    KubernetesCluster,
    LocalCluster,
    QueueCluster,
    Sized,
    SshCluster,
    TlsSettings,
)
from colonnade.job.cluster.base import placed
from colonnade.job.input import InputSettings
from colonnade.job.network import ArrayNames, NetworkSettings
from colonnade.job.output import OutputSettings, Product
from colonnade.locations import Settings

__all__ = [
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
    "Product",
    "QueueCluster",
    "Sized",
    "SshCluster",
    "TlsSettings",
    "json_schema",
]


class Job(Settings):
    """One run: a network, its input, the output and the cluster that computes it."""

    network: NetworkSettings
    input: InputSettings
    output: OutputSettings
    cluster: ClusterSettings = LocalCluster()

    def located(self) -> Job:
        """Return the job with its paths made absolute, for processes in other directories."""
        return self.model_copy(
            update={
                "network": placed(self.network, "weights"),
                "input": placed(self.input, "path"),
                "output": placed(self.output, "path"),
                "cluster": self.cluster.located(),
            }
        )


def json_schema() -> dict[str, Any]:
    """JSON Schema of the job file, for editors."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Job.model_json_schema(),
        "title": "colonnade job",
    }
