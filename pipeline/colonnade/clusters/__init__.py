"""Open the Dask cluster that the job's cluster section describes."""

from colonnade.clusters.connection import (
    Cluster,
    NoAnswer,
    StuckWorker,
    Tracker,
    connect,
    each_worker,
    expected_capacity,
    refuse_spawned,
    waited,
    within,
)

__all__ = [
    "Cluster",
    "NoAnswer",
    "StuckWorker",
    "Tracker",
    "connect",
    "each_worker",
    "expected_capacity",
    "refuse_spawned",
    "waited",
    "within",
]
