"""The job file: its settings, all validated before anything is created."""

from __future__ import annotations

from typing import Any

from colonnade.job.cluster import (
    ClusterSettings,
    LocalCluster,
)
from colonnade.job.cluster.base import placed
from colonnade.job.input import InputSettings
from colonnade.job.network import SCALINGS, NetworkSettings
from colonnade.job.output import OutputSettings
from colonnade.storage.locations import Settings

__all__ = [
    "Job",
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
                "network": placed(self.network, "weights", *_npy_files(self.network)),
                "input": placed(self.input, "path"),
                "output": placed(self.output, "path"),
                "cluster": self.cluster.located(),
            }
        )


def _npy_files(network: NetworkSettings) -> list[str]:
    """Return the settings that name a .npy file of means or standard deviations."""
    given = {key: getattr(network, key) for key in SCALINGS}
    return [k for k, v in given.items() if isinstance(v, str) and v.lower().endswith(".npy")]


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of the job file, for editors."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Job.model_json_schema(),
        "title": "colonnade job",
    }
