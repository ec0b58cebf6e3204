"""Identify processes, and detect which are alive, across containers and reboots."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

__all__ = ["HIDDEN", "ProcessId", "started"]

HIDDEN = "hidden"
"""Stands for a process's start time where /proc hides other users' processes (hidepid)."""


@dataclass(frozen=True, slots=True)
class ProcessId:
    """The identity of a process.

    Attributes
    ----------
    host
        The host's name.
    boot, namespace
        Identifiers of the kernel's boot and of the PID namespace: containers may share a host's
        name, and each numbers its own processes. Empty where the system provides neither.
    pid, started
        The process's PID, and its start time as the kernel reports it, because PIDs are reused.
    """

    host: str
    boot: str
    namespace: str
    pid: int
    started: str

    @classmethod
    def current(cls) -> ProcessId:
        """Return the identity of this process."""
        pid = os.getpid()
        return cls(socket.gethostname(), *_numbered(), pid, started(pid))

    @property
    def is_here(self) -> bool:
        """Whether the process is, or was, one whose state this process can see."""
        if self.pid <= 0 or (self.host, self.boot, self.namespace) != (
            socket.gethostname(), *_numbered()
        ):  # fmt: skip
            return False
        return started(self.pid) != HIDDEN

    @property
    def is_gone(self) -> bool:
        """Whether the process is known to have ended; False for any process elsewhere."""
        return self.is_here and started(self.pid) != self.started


def started(pid: int) -> str:
    """Return when a process started, as the kernel reports it; empty if the process has ended."""
    try:
        # Split after the name, which may contain anything: field 3 is the state, 22 the start
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return _without_proc(pid)
    return "" if fields[0] in "ZX" else fields[19]


def _numbered() -> tuple[str, str]:
    """Return the boot and the PID namespace in which this process's view of PIDs is valid.

    Both are empty where the system has no /proc: only the host's name identifies a process there.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace, number = (str(Path(p).readlink()) for p in ("/proc/self/ns/pid", "/proc/self"))
    except OSError:
        return "", ""
    # With only `unshare --pid`, /proc shows the outer namespace's PIDs, which do not apply here
    return boot, namespace if number == str(os.getpid()) else f"{namespace}, unseen {os.getpid()}"


def _without_proc(pid: int) -> str:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return ""
    except OSError:
        pass
    return HIDDEN if Path("/proc/self/stat").exists() else "running"
