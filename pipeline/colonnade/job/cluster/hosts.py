"""A cluster on hosts that are reached by ssh."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field

from colonnade.job.cluster.base import Secured, placed
from colonnade.job.values import Host, Line, Port, Size, Whole
from colonnade.storage.locations import FilePath

__all__ = ["SshCluster"]


class SshCluster(Secured):
    """Workers on hosts that are reached by ssh; the scheduler is on one of them."""

    kind: Literal["ssh"]
    """On hosts, by ssh."""
    hosts: Annotated[tuple[Host, ...], Field(min_length=1)]
    """The workers' hosts; one that is named twice has twice as many."""
    scheduler: Host | None = None
    """The scheduler's host; without it, the first of the workers'."""
    workers_per_host: Whole = 1
    """Workers of each host."""
    threads_per_worker: Whole = 1
    """Blocks that a worker computes at a time, each on one core."""
    memory_per_worker: Size = "auto"
    """Bytes a worker may use; auto: a share of its host's, by its threads."""
    username: Line | None = None
    """Who logs in there; without it, the user of this name."""
    port: Port = 22
    """Where the hosts' sshd listens."""
    client_keys: tuple[FilePath, ...] | None = None
    """Files of private keys; without them, the agent's and those in ~/.ssh."""
    known_hosts: FilePath | None = None
    """The file that tells the hosts' keys; without it, ~/.ssh/known_hosts."""
    interface: Line | None = None
    """Network interface that scheduler and workers speak on."""
    python: Line | None = None
    """The hosts' Python, with colonnade; without it, the path of the one that runs the job."""
    local_directory: FilePath | None = None
    """Where private directories for temporary files are made, on each host."""

    @property
    def size(self) -> int:
        """Workers to wait for before the first block."""
        return len(self.hosts) * self.workers_per_host

    def located(self) -> Self:
        """Return the settings with the paths of this machine made absolute."""
        found: Self = placed(super().located(), "client_keys", "known_hosts")
        return found
