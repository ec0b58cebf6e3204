"""Submit `colonnade run` to the cluster's own queue, for unattended work, and follow the job."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from colonnade.errors import EndedError, StoreError, UsageError
from colonnade.job import Job, KubernetesCluster, QueueCluster
from colonnade.job.file import load_job
from colonnade.running.prepare import check_job
from colonnade.storage.urls import is_url
from colonnade.store import Store
from colonnade.submit.base import Handover
from colonnade.submit.pods import PodJob
from colonnade.submit.queues import BatchJob

__all__ = ["Submission", "prepare"]

_INSTEAD = {
    "local": "let systemd or cron start colonnade run, as deploy/README.md shows; under Slurm, "
    "deploy/slurm/colonnade.sbatch is one job on one node",
    "address": "let systemd or cron start colonnade run where the scheduler can be reached, as "
    "deploy/README.md shows",
    "ssh": "let systemd or cron start colonnade run on a host that reaches the others, as "
    "deploy/README.md shows",
    "gateway": "let systemd or cron start colonnade run where the gateway can be reached, as "
    "deploy/README.md shows",
}


@dataclass(frozen=True)
class Submission:
    """A run that is ready to be submitted."""

    job: Job
    handover: Handover

    def wait(self, job_id: str) -> str:
        """Wait until the queue's job has ended; return the result in one line.

        Raises
        ------
        EndedError
            The job has failed; the error has the run's own exit status.
        IncompleteError
            The queue does not report the job's state.
        """
        status = self.handover.follow(job_id)
        path = self.job.output.path
        complete = self._is_complete()
        # The store decides: a queue may lose the run's exit status
        if status is None:
            status = 0 if complete else 3
        elif status == 0 and complete is False:
            status = 3
        log = self.handover.log(job_id)
        if status:
            raise EndedError(
                status,
                f"job {job_id} has ended with status {status}, and {path} is not complete; its log "
                f"states the cause: {log}.",
            )
        return f"job {job_id} has ended, and {path} is complete"

    def _is_complete(self) -> bool | None:
        """Return whether the store is complete; None if it cannot be read from here."""
        output = self.job.output
        if not _shared(self.job, output.path):
            return None
        try:
            found = Store.find(output.path, output.storage_options)
        except (OSError, StoreError):
            return None
        return found is not None and found.is_whole() and not found.missing()


def prepare(job: str | Path, overrides: Iterable[str] = ()) -> Submission:
    """Check a job as `run` does, and prepare its submission.

    Parameters
    ----------
    job
        Path of a job file.
    overrides
        Settings as ``section.key=value``.

    Raises
    ------
    UsageError
        The job or its files are wrong, or its cluster has no queue.
    """
    overrides = tuple(overrides)
    given = load_job(job, overrides)
    located = given.located()
    cluster = located.cluster
    name = f"colonnade-{re.sub(r'[^a-z0-9]+', '-', Path(job).stem.lower()).strip('-')[:30]}"
    if isinstance(cluster, QueueCluster):
        check_job(located)
        sets = [word for override in overrides for word in ("--set", override)]
        command = [sys.executable, "-m", "colonnade", "run", str(Path(job).absolute()), *sets]
        return Submission(located, BatchJob(cluster, name, command, Path.cwd()))
    if isinstance(cluster, KubernetesCluster):
        if _shared(given, given.network.weights) and _shared(given, given.input.path):
            check_job(given)
        return Submission(given, PodJob(given, cluster, name))
    raise UsageError(
        f"cluster.kind {cluster.kind} has no queue that accepts a job: {_INSTEAD[cluster.kind]}."
    )


def _shared(job: Job, path: str) -> bool:
    """Return whether a path names the same file here as where the run will be."""
    return not isinstance(job.cluster, KubernetesCluster) or is_url(path)
