"""Clusters whose workers are jobs of a batch queue."""

from __future__ import annotations

from typing import Literal, Self

from colonnade.job.cluster.base import Secured, Sized, placed
from colonnade.job.values import Bytes, Line, Walltime, Whole
from colonnade.storage.locations import FilePath

__all__ = ["LsfCluster", "PbsCluster", "QueueCluster", "SgeCluster", "SlurmCluster"]


class QueueCluster(Sized, Secured):
    """Workers as jobs of a batch queue, one job each; the scheduler is in the run's process."""

    kind: Literal["slurm", "pbs", "sge", "lsf"]
    queue: Line | None = None
    """Queue or partition; default: the site's."""
    account: Line | None = None
    """Account or project to which the jobs are charged."""
    walltime: Walltime = 3600
    """Time limit of a job, [days-]HH:MM:SS or seconds; its worker stops a little earlier."""
    cores: Whole = 1
    """Cores of a worker, which computes one block per core."""
    memory: Bytes
    """Bytes of a worker, such as 4 GiB."""
    job_extra_directives: tuple[Line, ...] = ()
    """Further options of the jobs, such as --constraint=icelake."""
    job_script_prologue: tuple[Line, ...] = ()
    """Shell commands to run before a worker starts, such as module load python."""
    interface: Line | None = None
    """Network interface that the scheduler and workers use, such as ib0."""
    log_directory: FilePath | None = None
    """Directory of the jobs' logs."""
    local_directory: FilePath | None = None
    """Directory on each node that gets private directories for workers' temporary files."""
    shared_directory: FilePath | None = None
    """Directory that gets a private directory for this run's certificates; nodes must see it.

    The default is below ~/.cache (or XDG_CACHE_HOME).
    """
    python: Line | None = None
    """Python of the workers; default: the one that runs colonnade."""

    def located(self) -> Self:
        """Return the settings with the paths of this machine made absolute."""
        found: Self = placed(super().located(), "log_directory", "shared_directory")
        return found


class SlurmCluster(QueueCluster):
    """Jobs of Slurm."""

    kind: Literal["slurm"]
    """Jobs in a partition of Slurm."""


class PbsCluster(QueueCluster):
    """Jobs of PBS."""

    kind: Literal["pbs"]
    """Jobs in a queue of PBS."""


class SgeCluster(QueueCluster):
    """Jobs of Grid Engine."""

    kind: Literal["sge"]
    """Jobs in a queue of Grid Engine."""


class LsfCluster(QueueCluster):
    """Jobs of LSF."""

    kind: Literal["lsf"]
    """Jobs in a queue of LSF."""
