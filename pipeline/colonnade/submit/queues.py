"""Slurm and its kin: a batch script that runs `colonnade run`, handed to the queue's own command.

The batch job is the run's own process and the Dask scheduler, on one core; its workers are jobs of
their own, as in a run from a terminal, so that the job file means the same in both.
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

# Of the run's own process and the scheduler
_MEMORY = "2GiB"
# Seconds before the end of the walltime, beside the grace, in which a run closes its cluster
_CLOSING = 60
# Seconds that a command of the queue may take
_SECONDS = 120.0


@dataclass(frozen=True)
class _Batch:
    """How a queue takes a run's own job."""

    submit: tuple[str, ...]
    ask: tuple[str, ...]
    """The command that shows a job, the id behind it."""
    directives: tuple[str, ...]
    variable: str
    """What holds the job's id, in the job."""
    log: str
    """The end of the log's name; `{id}` is the job's id."""


# The script comes on standard input, which all of them read
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
# Queued again, the run goes on with the store of its first night
export {date_variable}={date}
status_file={log}-"${variable}".status
rm -f "$status_file"
# The queue's own signals reach the run as well: this shell stays, to tell how it ended
trap 'signalled=yes' TERM INT USR1 USR2
{warned}{command} &
run=$!
while signalled=; wait "$run"; status=$?; [ -n "$signalled" ]; do :; done
{again}echo "$status" >"$status_file"
exit "$status"
"""
# Only Slurm lets a job queue itself again
_WARNED = """\
# The time is up soon: the run stops in good order, and this job is queued again
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
    """Of the run, with absolute paths."""
    directory: Path
    """Where the run's relative paths start, and without `log_directory` its logs lie."""

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
        """Hand the script to the queue's own command."""
        try:
            Path(self._log).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            told = f"the run's log cannot be made (cluster.log_directory): {one_line(error)}"
            raise ClusterError(f"{told}.") from error
        command, text = self._batch.submit, self.text
        try:
            answer = _call(command, text)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ClusterError(
                f"{command[0]} cannot be run here: {one_line(error)}. Call colonnade submit on a "
                f"host from which {self.settings.kind} takes jobs."
            ) from error
        found = _ID.search(answer.stdout)
        if answer.returncode or found is None:
            raise ClusterError(
                f"{command[0]} has not taken the job: {_said(answer)} "
                "(colonnade submit --print shows what it was given)."
            )
        return found[0]

    def log(self, job_id: str) -> str:
        """Tell where the run's log is."""
        return self._log + self._batch.log.format(id=job_id)

    def follow(self, job_id: str) -> int | None:
        """Ask the queue until it holds the job no more."""
        unanswered, last = 0, ""
        while unanswered < PATIENCE:
            try:
                answer = _call((*self._batch.ask, job_id))
            # A queue that is busy, a machine short of processes: the job knows nothing of it
            except (OSError, subprocess.TimeoutExpired) as error:
                unanswered, last = unanswered + 1, one_line(error)
            else:
                told = answer.stdout + answer.stderr
                if _GONE.search(told) or (answer.returncode == 0 and not told.strip()):
                    return self._status(job_id)
                unanswered, last = (unanswered + 1 if answer.returncode else 0), _said(answer)
            time.sleep(POLL)
        raise IncompleteError(
            f"{self._batch.ask[0]} does not tell how job {job_id} is: {last}. The job may go on "
            f"all the same; its log is {self.log(job_id)}."
        )

    @property
    def _batch(self) -> _Batch:
        return _BATCHES[self.settings.kind]

    @property
    def _log(self) -> str:
        return str(Path(self.settings.log_directory or self.directory) / self.name)

    def _header(self) -> str:
        """Ask the queue for one core, and for the rest as the workers do."""
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
