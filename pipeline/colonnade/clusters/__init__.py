"""Open the Dask cluster that the job's cluster section describes."""

from colonnade.clusters.base import NoAnswer, each_worker, waited, within
from colonnade.clusters.capacity import expected_capacity
from colonnade.clusters.connection import Cluster, connect
from colonnade.clusters.main_guard import refuse_spawned
from colonnade.clusters.stuck import StuckWorker, Tracker

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
