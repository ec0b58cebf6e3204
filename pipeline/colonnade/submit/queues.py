"""Slurm and similar queues: a batch script with `colonnade run`, submitted by the queue's command.

The batch job is the run's own process, with the Dask scheduler, on one core. Its workers are
separate jobs, as in a run from a terminal, so that the job file means the same in both.
"""

from __future__ import annotations

import math
import re
import shlex
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from colonnade.clusters.queues import arguments, queue_class
from colonnade.errors import ClusterError, IncompleteError, one_line, sanitize
from colonnade.job import QueueCluster, pathfields
from colonnade.submit.base import PATIENCE, POLL

__all__ = ["BatchJob"]

# Memory of the run's own process and the scheduler
_MEMORY = "2GiB"
# Seconds for a run to close its cluster, in addition to the grace, before the walltime ends
_CLOSING = 60
# Timeout of a queue command, in seconds
_SECONDS = 120.0


@dataclass(frozen=True)
class _Batch:
    """How to submit the run's own job to a queue."""

    submit: tuple[str, ...]
    ask: tuple[str, ...]
    """The command that shows a job; the job's id is its last argument."""
    directives: tuple[str, ...]
    variable: str
    """The environment variable that holds the job's id within the job."""
    log: str
    """The end of the log's name; `{id}` is the job's id."""


# All of them read the script from standard input
_BATCHES = {
    "slurm": _Batch(
        ("sbatch", "--parsable"),
        ("squeue", "--noheader", "--format=%T", "--jobs"),
        ("--output={log}-%j.log", "--open-mode=append", "--requeue", "--signal=B:USR1@{notice}"),
        "SLURM_JOB_ID",
        "-{id}.log",
    ),
    "pbs": _Batch(
        ("qsub",), ("qstat",), ("-o {log}.log", "-j oe", "-r y", "-V"), "PBS_JOBID", ".log"
    ),
    "sge": _Batch(
        ("qsub",), ("qstat", "-j"), ("-o {log}-$JOB_ID.log", "-r y", "-V"), "JOB_ID", "-{id}.log"
    ),
    "lsf": _Batch(
        ("bsub",), ("bjobs", "-noheader", "-o", "stat"), ("-o {log}-%J.log", "-r"),
        "LSB_JOBID", "-{id}.log",
    ),
}  # fmt: skip
_GONE = re.compile(
    r"invalid job id|unknown job|job has finished|do not exist|is not found|^(DONE|EXIT)\b",
    re.IGNORECASE | re.MULTILINE,
)

_ID = re.compile(r"(?<![\w.])\d[\w.-]*")

_SCRIPT = """\
#!/usr/bin/env bash
{header}
{prologue}
cd {directory} || exit
# A job that is queued again keeps its date, and so resumes the same store
export {date_variable}={date}
status_file={log}-"${variable}".status
rm -f "$status_file"
# The queue signals the run as well: this shell survives to record the run's exit status
trap 'signalled=yes' TERM INT USR1 USR2
{warned}{command} &
run=$!
while signalled=; wait "$run"; status=$?; [ -n "$signalled" ]; do :; done
{again}echo "$status" >"$status_file"
exit "$status"
"""
# Only Slurm lets a job queue itself again
_WARNED = """\
# The walltime ends soon: stop the run cleanly and queue this job again
trap 'signalled=yes; again=yes; kill -TERM "$run"' USR1
again=
"""
_AGAIN = """\
if [ "$status" = 143 ] && [ -n "$again" ]; then
    scontrol requeue "$SLURM_JOB_ID"
    exit "$status"
fi
"""


@dataclass(frozen=True)
class BatchJob:
    """A run as a batch job of Slurm, PBS, Grid Engine or LSF."""

    settings: QueueCluster
    name: str
    command: Sequence[str]
    """The run's command, with absolute paths."""
    directory: Path
    """The base of the run's relative paths; without `log_directory`, also holds its logs."""

    @property
    def text(self) -> str:
        """The batch script."""
        slurm = self.settings.kind == "slurm"
        return _SCRIPT.format(
            header=self._header(),
            prologue="\n".join(self.settings.job_script_prologue),
            directory=shlex.quote(str(self.directory)),
            date_variable=pathfields.VARIABLE,
            date=pathfields.moment().isoformat(timespec="seconds"),
            log=shlex.quote(self._log),
            variable=self._batch.variable,
            warned=_WARNED if slurm else "",
            command=shlex.join(self.command),
            again=_AGAIN if slurm else "",
        )

    def submit(self) -> str:
        """Submit the script by the queue's own command, and return the queue's id of the job."""
        try:
            Path(self._log).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            message = (
                "the directory of the run's log cannot be created (cluster.log_directory): "
                f"{one_line(error)}; name a directory that you can write to"
            )
            raise ClusterError(f"{message}.") from error
        command, text = self._batch.submit, self.text
        try:
            answer = _call(command, text)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ClusterError(
                f"{command[0]} cannot be run here: {one_line(error)}. Call colonnade submit on a "
                f"host from which {self.settings.kind} accepts jobs."
            ) from error
        found = _ID.search(answer.stdout)
        if answer.returncode or found is None:
            raise ClusterError(
                f"{command[0]} has not accepted the job: {_said(answer)} "
                "(colonnade submit --print shows the script)."
            )
        return found[0]

    def log(self, job_id: str) -> str:
        """Return the path of the run's log."""
        return self._log + self._batch.log.format(id=job_id)

    def follow(self, job_id: str) -> int | None:
        """Poll the queue until it no longer holds the job; return the run's exit status, if any."""
        unanswered, last = 0, ""
        while unanswered < PATIENCE:
            try:
                answer = _call((*self._batch.ask, job_id))
            # A busy queue, or a machine short of processes, does not affect the job
            except (OSError, subprocess.TimeoutExpired) as error:
                unanswered, last = unanswered + 1, one_line(error)
            else:
                output = answer.stdout + answer.stderr
                if _GONE.search(output) or (answer.returncode == 0 and not output.strip()):
                    return self._status(job_id)
                unanswered, last = (unanswered + 1 if answer.returncode else 0), _said(answer)
            time.sleep(POLL)
        raise IncompleteError(
            f"{self._batch.ask[0]} does not report the state of job {job_id}: {last}. The job may "
            f"still be running; its log is {self.log(job_id)}."
        )

    @property
    def _batch(self) -> _Batch:
        return _BATCHES[self.settings.kind]

    @property
    def _log(self) -> str:
        return str(Path(self.settings.log_directory or self.directory) / self.name)

    def _header(self) -> str:
        """Return the queue's directives: one core, and otherwise the workers' settings."""
        settings = self.settings
        own = [
            directive.format(log=self._log, notice=math.ceil(settings.grace) + _CLOSING)
            for directive in self._batch.directives
        ]
        given = {
            **arguments(settings),
            "cores": 1,
            "memory": _MEMORY,
            "job_name": self.name,
            "job_extra_directives": [*settings.job_extra_directives, *own],
        }
        given.pop("log_directory", None)
        job_class = queue_class(settings).job_cls
        return str(job_class(scheduler="", name="colonnade", **given).job_header)

    def _status(self, job_id: str) -> int | None:
        try:
            return int(Path(f"{self._log}-{job_id}.status").read_text())
        except (OSError, ValueError):
            return None


def _call(command: Sequence[str], given: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 (the queue's own command)
        command, input=given, capture_output=True, text=True, check=False, timeout=_SECONDS
    )


def _said(answer: subprocess.CompletedProcess[str]) -> str:
    return sanitize(" ".join((answer.stderr or answer.stdout).split()) or "nothing", 300).rstrip(
        "."
    )
