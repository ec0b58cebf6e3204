"""A cluster on hosts reached by ssh."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field

from colonnade.job.cluster.base import Secured, placed
from colonnade.job.values import Host, Line, Port, Size, Whole
from colonnade.storage.locations import FilePath

__all__ = ["SshCluster"]


class SshCluster(Secured):
    """Workers and a scheduler on hosts reached by ssh."""

    kind: Literal["ssh"]
    """Hosts reached by ssh."""
    hosts: Annotated[tuple[Host, ...], Field(min_length=1)]
    """Hosts of the workers; a host listed twice gets twice as many."""
    scheduler: Host | None = None
    """Host of the scheduler; default: the first of the workers' hosts."""
    workers_per_host: Whole = 1
    """Workers on each host."""
    threads_per_worker: Whole = 1
    """Blocks that a worker computes at a time, each on one core."""
    memory_per_worker: Size = "auto"
    """Bytes that a worker may use; auto: its threads' share of its host's memory."""
    username: Line | None = None
    """User name on the hosts; default: the local user's."""
    port: Port = 22
    """Port of sshd on the hosts."""
    client_keys: tuple[FilePath, ...] | None = None
    """Private key files; default: the agent's keys and those in ~/.ssh."""
    known_hosts: FilePath | None = None
    """File with the hosts' keys; default: ~/.ssh/known_hosts."""
    interface: Line | None = None
    """Network interface that the scheduler and workers use."""
    python: Line | None = None
    """Python on the hosts, with colonnade; default: the path of the Python that runs the job."""
    local_directory: FilePath | None = None
    """Directory on each host that gets private directories for temporary files."""

    @property
    def size(self) -> int:
        """Workers to wait for before the first block."""
        return len(self.hosts) * self.workers_per_host

    def located(self) -> Self:
        """Return the settings with the paths of this machine made absolute."""
        found: Self = placed(super().located(), "client_keys", "known_hosts")
        return found
