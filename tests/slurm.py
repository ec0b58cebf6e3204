"""A real Slurm for tests: a controller, two virtual nodes, and a munge of its own.

It runs as whoever runs the tests, in a folder and on ports of its own, beside any other.
"""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PARTITION = "debug"
NODES = ("n1", "n2")
CORES_PER_NODE = 2
# In the order in which they are started; they are in no ordinary user's PATH
_DAEMONS = ("/usr/sbin/munged", "/usr/sbin/slurmctld", "/usr/sbin/slurmd")
PROGRAMS = (*_DAEMONS, "sbatch")

_CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
# A job that is queued again waits until its credential has expired, else two minutes
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,batch_sched_delay=1,defer
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SwitchType=switch/none
ReturnToService=2
ScronParameters=enable
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
InactiveLimit=0
KillWait=5
MinJobAge=300
Waittime=0
SlurmdParameters=config_overrides
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} {node}
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} {node}
PartitionName={partition} Nodes=n[1-2] Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
"""
_NODE = "CPUs=2 Boards=1 SocketsPerBoard=1 CoresPerSocket=2 ThreadsPerCore=1 RealMemory=4000"


@dataclass(frozen=True)
class Slurm:
    """A Slurm that runs; `SLURM_CONF` in the environment leads its commands to it."""

    folder: Path

    def call(self, *command: str) -> str:
        """Run one of Slurm's commands and return what it prints."""
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def jobs(self) -> dict[str, str]:
        """The state of each job that is queued or runs, by its id."""
        lines = self.call("squeue", "--noheader", "--format=%i %T").splitlines()
        return dict(line.split() for line in lines)

    def cancel_all(self) -> None:
        """Cancel what is queued or runs, and wait until it has gone."""
        self.call("scancel", "--user", getpass.getuser())
        _wait(lambda: not self.jobs(), "Slurm's jobs do not end")


@contextmanager
def running() -> Iterator[Slurm]:
    """Start a Slurm, wait until its nodes are idle, and stop it with all its jobs."""
    # Not pytest's folder: a socket's path has up to 107 characters
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    (folder / "state").mkdir()
    conf = folder / "slurm.conf"
    conf.write_text(
        _CONF.format(
            host=socket.gethostname().partition(".")[0], user=getpass.getuser(), folder=folder,
            ports=_ports(3), node=_NODE, partition=PARTITION,
        )
    )  # fmt: skip
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(1024))
    munged, slurmctld, slurmd = _DAEMONS
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = str(conf)
    slurm = Slurm(folder)
    try:
        with ExitStack() as started:
            # In the foreground, so that what was started is what is stopped
            started.enter_context(_process(
                folder, munged, "--foreground", "--force", f"--key-file={key}",
                f"--socket={folder}/munge.socket", f"--pid-file={folder}/munged.pid",
                f"--log-file={folder}/munged.log", f"--seed-file={folder}/munged.seed",
            ))  # fmt: skip
            _wait((folder / "munge.socket").exists, "munged does not start")
            started.enter_context(_process(folder, slurmctld, "-D", "-i"))
            for node in NODES:
                (folder / f"spool.{node}").mkdir()
                started.enter_context(_process(folder, slurmd, "-D", "-N", node))
            _wait(lambda: _idle(slurm), f"Slurm does not start: see {folder}")
            try:
                yield slurm
            finally:
                slurm.cancel_all()
        shutil.rmtree(folder)
    finally:
        if before is None:
            del os.environ["SLURM_CONF"]
        else:
            os.environ["SLURM_CONF"] = before


def _idle(slurm: Slurm) -> bool:
    try:
        return slurm.call("sinfo", "--noheader", "--format=%D %T") == f"{len(NODES)} idle"
    except subprocess.CalledProcessError:
        return False


@contextmanager
def _process(folder: Path, *command: str) -> Iterator[None]:
    with (folder / f"{Path(command[0]).name}.out").open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def _wait(reached: Callable[[], Any], told: str) -> None:
    deadline = time.monotonic() + 60
    while not reached():
        if time.monotonic() > deadline:
            raise RuntimeError(told)
        time.sleep(0.05)
