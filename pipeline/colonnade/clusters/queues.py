"""Workers as jobs of a batch queue, through dask-jobqueue; the scheduler runs in this process."""

from __future__ import annotations

import copy
import itertools
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
import distributed
from distributed.core import Status
from distributed.utils import format_dashboard_link

from colonnade.clusters import http_servers
from colonnade.clusters.base import Deployment, close, library
from colonnade.clusters.private_directory import private_directory, temporary_directory
from colonnade.clusters.security import run_security, security_in
from colonnade.errors import ClusterError, one_line, sanitize
from colonnade.job import QueueCluster

__all__ = ["arguments", "deploy", "queue_class"]


@dataclass(frozen=True)
class _Queue:
    """A batch queue: its name, the command that lists a cluster's jobs, and the queue's terms."""

    name: str
    ask: tuple[str, ...]
    ended: str
    """Regular expression for the line of an ended job, while the queue still lists the job."""
    account: str = "account"
    seconds: bool = True


_QUEUES = {
    "slurm": _Queue(
        "Slurm",
        ("squeue", "--noheader", "--states=all", "--format=%i %T %r", "--jobs={ids}"),
        r"BOOT_FAIL|CANCELLED|COMPLETED|DEADLINE|FAILED|NODE_FAIL|OUT_OF_MEM|PREEMPTED|TIMEOUT",
    ),
    "pbs": _Queue("PBS", ("qstat", "{each}"), r"\s[CFX]\s"),
    "sge": _Queue("Grid Engine", ("qstat",), r"(?!)", "project"),
    "lsf": _Queue("LSF", ("bjobs", "{each}"), r"\s(EXIT|DONE)\s", "project", seconds=False),
}
# Messages about a job that the queue no longer knows
_FORGOTTEN = re.compile(
    r"invalid job id|unknown job|job has finished|is not found|do not exist", re.IGNORECASE
)
# Shortest and longest interval, in seconds, between two queries for jobs without a worker: jobs
# that end as soon as they begin are submitted less and less often
_LOOK, _LONGEST_LOOK = 10.0, 600.0
# Workers leave before their jobs' walltime ends, and not all at once: the stagger as a fraction of
# the walltime, and its maximum in seconds
_STAGGER, _LONGEST_STAGGER = 1 / 20, 300
# Timeout of a query to the queue, in seconds
_PATIENCE = 10


@contextmanager
def deploy(settings: QueueCluster) -> Iterator[Deployment]:
    """Submit a job for each worker, and cancel the jobs on exit."""
    queue = _QUEUES[settings.kind]
    submit = queue_class(settings).job_cls.submit_command
    if shutil.which(submit) is None:
        raise ClusterError(
            f"there is no {submit} on this machine: start the run where {queue.name} accepts jobs "
            "(cluster.kind)."
        )
    with ExitStack() as stack:
        private = stack.enter_context(private_directory(temporary_directory(), "TMPDIR"))
        security = _security(settings, stack)
        try:
            cluster = _started(settings, private, security)
        # A missing network interface, for example, or a log directory that cannot be created
        except (OSError, RuntimeError, ValueError) as error:
            raise ClusterError(
                f"no cluster in {queue.name}: {_cause(error)}. Correct the job's cluster section."
            ) from error
        stack.enter_context(_closing(cluster))
        client = stack.enter_context(distributed.Client(cluster, set_as_default=False))
        try:
            cluster.sync(_submitted, cluster, settings, callback_timeout=settings.timeout)
        except (OSError, RuntimeError, ValueError) as error:
            raise ClusterError(
                f"{queue.name} has not accepted a job: {_cause(error)}. Correct the job's cluster "
                "section, or try again later."
            ) from error

        jobs = _Jobs(queue, cluster, settings)

        def trouble() -> str:
            return _trouble(queue, cluster, settings.log_directory)

        yield Deployment(
            client,
            queue.name,
            jobs.replace,
            trouble,
            _dashboard(cluster),
            discard=jobs.discard,
        )


def _security(settings: QueueCluster, stack: ExitStack) -> distributed.Security | None:
    """Create or load the certificates; created ones lie where the nodes can read them."""
    if settings.security != "auto":
        return run_security(settings)
    if settings.shared_directory is not None:
        parent, field = Path(settings.shared_directory), "cluster.shared_directory"
    else:
        field = "XDG_CACHE_HOME or ~/.cache; cluster.shared_directory names another directory"
        try:
            cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        except RuntimeError as error:
            raise ClusterError(
                "there is no home directory for this run's certificates: name a directory that "
                "this machine and the nodes can read (cluster.shared_directory)."
            ) from error
        parent = cache.absolute() / "colonnade"
    return security_in(stack.enter_context(private_directory(parent, field)), settings)


def _started(settings: QueueCluster, private: Path, security: distributed.Security | None) -> Any:
    """Start the scheduler; its own files and the jobs' scripts lie in `private`."""
    kind = queue_class(settings)
    if settings.log_directory is not None:
        Path(settings.log_directory).mkdir(parents=True, exist_ok=True)
    scheduler, http = http_servers.scheduler(dashboard=settings.dashboard)
    own = {"local_directory": str(private), **http}
    if security is not None:
        own |= {"security": security, "protocol": "tls://"}
    site = dask.config.get(f"jobqueue.{settings.kind}.scheduler-options", None)
    with warnings.catch_warnings():
        # If another run has the dashboard's port, Dask chooses another, which the run prints
        warnings.filterwarnings("ignore", "Port .* is already in use", UserWarning)
        return _numbering(kind)(
            job_cls=_job_class(kind.job_cls, private),
            security=security,
            scheduler_cls=scheduler,
            scheduler_options=(site or {}) | own,
            **arguments(settings),
        )


def _dashboard(cluster: Any) -> str:
    """Return the dashboard's URL on this machine; Dask's link has the scheduler's address."""
    services = cluster.scheduler_info["services"]
    return format_dashboard_link("127.0.0.1", services["dashboard"]) if services else ""


def queue_class(settings: QueueCluster) -> Any:
    """Return the class of dask-jobqueue that writes the queue's directives."""
    return getattr(library("dask_jobqueue", "jobqueue"), f"{settings.kind.upper()}Cluster")


def arguments(settings: QueueCluster) -> dict[str, Any]:
    """Return the job's settings for dask-jobqueue; unset ones keep the site's configuration."""
    queue = _QUEUES[settings.kind]
    stagger = min(settings.walltime * _STAGGER, _LONGEST_STAGGER)
    given = {
        "queue": settings.queue,
        queue.account: settings.account,
        "walltime": _clock(settings.walltime, seconds=queue.seconds),
        "cores": settings.cores,
        "processes": 1,
        "memory": settings.memory,
        "job_name": "colonnade",
        "job_extra_directives": list(settings.job_extra_directives) or None,
        "job_script_prologue": list(settings.job_script_prologue) or None,
        "interface": settings.interface,
        "log_directory": settings.log_directory,
        "local_directory": settings.local_directory,
        "python": settings.python,
        "worker_command": "colonnade.clusters.queue_worker",
        "worker_extra_args": [
            "--lifetime", f"{settings.walltime - 2 * stagger:.0f}s",
            "--lifetime-stagger", f"{stagger:.0f}s",
            *_http(dashboard=settings.dashboard),
        ],
    }  # fmt: skip
    return {name: value for name, value in given.items() if value is not None}


def _http(*, dashboard: bool) -> list[str]:
    """Return a worker's options for HTTP: a server on its node's loopback interface, or none."""
    if dashboard:
        return ["--no-dashboard", "--dashboard-address", http_servers.ANY_PORT]
    chosen = http_servers.worker_class(dashboard=False)
    return ["--no-dashboard", "--worker-class", f"{chosen.__module__}.{chosen.__qualname__}"]


def _clock(time: int, *, seconds: bool) -> str:
    """Format a time as HH:MM:SS, or as HH:MM for LSF, rounded up."""
    if not seconds:
        time = -(-time // 60) * 60
    text = f"{time // 3600:02}:{time // 60 % 60:02}"
    return f"{text}:{time % 60:02}" if seconds else text


def _job_class(job_cls: Any, private: Path) -> Any:
    """Return a class of jobs that set their status on closing, as Dask asserts at the end.

    Their scripts lie in `private` until they are submitted, and the paths of certificates may
    contain any characters.
    """

    class Job(job_cls):  # type: ignore[misc]
        def __init__(
            self, *given: Any, security: distributed.Security | None = None, **options: Any
        ) -> None:
            # dask-jobqueue writes the paths into a shell command
            security = copy.copy(security)
            if security is not None:
                for name in ("tls_ca_file", "tls_worker_cert", "tls_worker_key"):
                    setattr(security, name, shlex.quote(getattr(security, name)))
            super().__init__(*given, security=security, **options)

        @contextmanager
        def job_file(self) -> Iterator[str]:
            # Dask removes a temporary file and creates another of the same name: in between,
            # another user could create that file
            with tempfile.NamedTemporaryFile("w", suffix=".sh", dir=private) as file:
                file.write(self.job_script())
                file.flush()
                yield file.name

        async def close(self) -> None:
            await super().close()
            self.status = Status.closed

    return Job


def _numbering(kind: Any) -> Any:
    """Return a cluster class that never reuses a worker's name.

    Dask cancels the job of a lost worker by its name, perhaps after another worker has that name.
    """
    numbers = itertools.count()

    def named(cluster: Any, worker_number: int) -> Any:
        del worker_number
        return kind._new_worker_name(cluster, next(numbers))

    return type(kind.__name__, (kind,), {"_new_worker_name": named})


@contextmanager
def _closing(cluster: Any) -> Iterator[None]:
    try:
        yield
    finally:
        _forget_refused(cluster)
        close(cluster)


def _forget_refused(cluster: Any) -> None:
    """Forget jobs that the queue has not accepted: Dask considers them started."""
    for name in [name for name, job in cluster.workers.items() if job.job_id is None]:
        cluster.workers.pop(name).status = Status.failed


async def _submitted(cluster: Any, settings: QueueCluster) -> None:
    """Submit the jobs, and raise the queue's error if there is one."""
    cluster.scale(settings.size)
    await cluster
    if settings.adaptive is not None:
        cluster.adapt(minimum=settings.adaptive.minimum, maximum=settings.adaptive.maximum)


class _Jobs:
    """Resubmission of jobs whose workers are lost or never joined."""

    def __init__(self, queue: _Queue, cluster: Any, settings: QueueCluster) -> None:
        self._queue = queue
        self._cluster = cluster
        self._settings = settings
        self._pause = _LOOK
        self._next = 0.0

    def replace(self) -> None:
        """Submit jobs in place of those that have ended."""
        _forget_refused(self._cluster)
        # An adaptive cluster replaces the jobs of lost workers itself
        if self._settings.adaptive is None:
            self._cluster.scale(self._settings.size)
        if time.monotonic() >= self._next:
            self._submit_again()

    def discard(self, name: Any, worker: str) -> None:
        """Cancel the job of a stuck worker."""
        del worker
        self._forget([name])

    def _submit_again(self) -> None:
        """Replace jobs that ended before their worker joined: Dask would wait forever for them."""
        there = {info["name"] for info in self._cluster.scheduler_info["workers"].values()}
        absent = {
            job.job_id: name
            for name, job in list(self._cluster.workers.items())
            if name not in there and job.job_id
        }
        ended = _ended(self._queue, list(absent))
        if ended:
            self._forget([absent[job_id] for job_id in ended])
            self._pause = min(2 * self._pause, _LONGEST_LOOK)
        self._next = time.monotonic() + self._pause

    def _forget(self, names: list[Any]) -> None:
        """Cancel jobs, and submit others in their place."""
        # If the queue does not answer now, `replace` tries again
        with suppress(OSError, RuntimeError, ValueError):
            self._cluster.sync(self._cluster.scale_down, names, callback_timeout=_PATIENCE)
        if self._settings.adaptive is None:
            self._cluster.scale(self._settings.size)


def _ended(queue: _Queue, ids: list[str]) -> list[str]:
    """Return the jobs that have ended according to the queue; none if the queue does not answer."""
    if not ids:
        return []
    try:
        asked = _ask(queue, ids)
    except (OSError, subprocess.TimeoutExpired):
        return []
    if asked.returncode and not _FORGOTTEN.search(asked.stdout + asked.stderr):
        return []
    return [
        job_id
        for job_id in ids
        if all(
            re.search(queue.ended, line)
            for line in asked.stdout.splitlines()
            if re.match(rf"\s*{re.escape(job_id)}\b", line)
        )
    ]


def _ask(queue: _Queue, ids: list[str]) -> subprocess.CompletedProcess[str]:
    command: list[str] = []
    for word in queue.ask:
        command += ids if word == "{each}" else [word.format(ids=",".join(ids))]
    return subprocess.run(  # noqa: S603 (the queue's own command, and job ids from the queue)
        command, capture_output=True, text=True, timeout=_PATIENCE, check=False
    )


def _trouble(queue: _Queue, cluster: Any, logs: str | None) -> str:
    """Describe the jobs: their ids, the queue's report on them, and where their logs lie."""
    ids = [job.job_id for job in cluster.workers.values() if job.job_id]
    if not ids:
        return f" {queue.name} holds none of the cluster's jobs."
    try:
        asked = _ask(queue, ids)
        said = "; ".join((asked.stdout.strip() or asked.stderr.strip()).splitlines())
    except (OSError, subprocess.TimeoutExpired) as error:
        said = str(error)
    return (
        f" {queue.name} reports for the jobs {', '.join(ids)}: {sanitize(said, 300)}. Their logs "
        f"are in {logs or Path.cwd()}."
    )


def _cause(error: Exception) -> str:
    """Return a failed queue command's stderr, which dask-jobqueue's error contains."""
    _, found, said = str(error).partition("stderr:\n")
    return one_line(RuntimeError(said) if found else error).rstrip(".")
