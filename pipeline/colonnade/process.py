"""Which process this is, and whether another one lives, across containers and reboots."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

__all__ = ["HIDDEN", "ProcessId", "started"]

HIDDEN = "hidden"
"""In place of a process's start, where /proc hides the processes of other users (hidepid)."""


@dataclass(frozen=True, slots=True)
class ProcessId:
    """One process of one host.

    Attributes
    ----------
    host
        The host's name.
    boot, namespace
        Of the host's kernel, and of the numbers of its processes: containers may share a host's
        name, and each numbers its own. Empty where the system knows neither.
    pid, started
        Its number, and when it started, in the kernel's own words: numbers are used again.
    """

    host: str
    boot: str
    namespace: str
    pid: int
    started: str

    @classmethod
    def current(cls) -> ProcessId:
        """Return this process's own."""
        pid = os.getpid()
        return cls(socket.gethostname(), *_numbered(), pid, started(pid))

    @property
    def is_here(self) -> bool:
        """Whether it is, or was, one of those whose numbers this process knows."""
        if self.pid <= 0 or (self.host, self.boot, self.namespace) != (
            socket.gethostname(), *_numbered()
        ):  # fmt: skip
            return False
        return started(self.pid) != HIDDEN

    @property
    def is_gone(self) -> bool:
        """Whether it is known to have ended; of processes elsewhere nothing is known."""
        return self.is_here and started(self.pid) != self.started


def started(pid: int) -> str:
    """Tell when a process started, in the kernel's own words; empty where it is gone."""
    try:
        # Behind the name, which may hold anything: the state is field 3, the start field 22
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return _without_proc(pid)
    return "" if fields[0] in "ZX" else fields[19]


def _numbered() -> tuple[str, str]:
    """Tell the boot and the namespace in which the numbers of processes mean what they mean here.

    Empty where the system has no /proc: there, a host's name is all there is to tell.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace, number = (str(Path(p).readlink()) for p in ("/proc/self/ns/pid", "/proc/self"))
    except OSError:
        return "", ""
    # Under `unshare --pid` alone, /proc has the numbers of the namespace outside: it tells nothing
    return boot, namespace if number == str(os.getpid()) else f"{namespace}, unseen {os.getpid()}"


def _without_proc(pid: int) -> str:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return ""
    except OSError:
        pass
    return HIDDEN if Path("/proc/self/stat").exists() else "running"
