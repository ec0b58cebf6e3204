"""Clusters whose workers are jobs of a batch queue."""

from __future__ import annotations

from typing import Literal, Self

from colonnade.job.cluster.base import Secured, Sized, placed
from colonnade.job.values import Bytes, Line, Walltime, Whole
from colonnade.storage.locations import FilePath

__all__ = ["LsfCluster", "PbsCluster", "QueueCluster", "SgeCluster", "SlurmCluster"]


class QueueCluster(Sized, Secured):
    """Workers that are jobs of a batch queue, one each; the scheduler is in the run's process."""

    kind: Literal["slurm", "pbs", "sge", "lsf"]
    queue: Line | None = None
    """Queue, or partition; without it, the site's default."""
    account: Line | None = None
    """Account, or project, that the jobs are charged to."""
    walltime: Walltime = 3600
    """Time of a job, [days-]HH:MM:SS or seconds; its worker leaves a little earlier."""
    cores: Whole = 1
    """Cores of a worker, which computes a block on each."""
    memory: Bytes
    """Bytes of a worker, such as 4 GiB."""
    job_extra_directives: tuple[Line, ...] = ()
    """Further options of a job, such as --constraint=icelake."""
    job_script_prologue: tuple[Line, ...] = ()
    """Lines of shell before a worker is started, such as module load python."""
    interface: Line | None = None
    """Network interface that scheduler and workers speak on, such as ib0."""
    log_directory: FilePath | None = None
    """Where the jobs' logs go."""
    local_directory: FilePath | None = None
    """Where a worker may keep temporary files, on its own machine, in a private directory."""
    shared_directory: FilePath | None = None
    """Where this run's certificates lie, in a private directory; the nodes must see it too.

    Without it, below ~/.cache (or XDG_CACHE_HOME).
    """
    python: Line | None = None
    """The workers' Python; without it, the one that runs colonnade."""

    def located(self) -> Self:
        """Return the settings with the paths of this machine made absolute."""
        found: Self = placed(super().located(), "log_directory", "shared_directory")
        return found


class SlurmCluster(QueueCluster):
    """Jobs of Slurm."""

    kind: Literal["slurm"]
    """In a partition of Slurm."""


class PbsCluster(QueueCluster):
    """Jobs of PBS."""

    kind: Literal["pbs"]
    """In a queue of PBS."""


class SgeCluster(QueueCluster):
    """Jobs of Grid Engine."""

    kind: Literal["sge"]
    """In a queue of Grid Engine."""


class LsfCluster(QueueCluster):
    """Jobs of LSF."""

    kind: Literal["lsf"]
    """In a queue of LSF."""
