"""Directories that no other user can enter, and that do not outlive their process.

The name says whose a directory is: host, boot, process namespace, process, and when that started.
So whoever comes later can tell, without opening it, that its owner is dead.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import blake2s
from pathlib import Path

import dask

from colonnade.errors import ClusterError, reason

__all__ = ["private_directory", "temporary_directory"]

_PREFIX = "colonnade"
_NAME = re.compile(rf"{_PREFIX}-([0-9a-f]{{8}})-([0-9a-f]{{8}})-(\d+)-(\d+)-(\d+)-\w{{8}}")


@contextmanager
def private_directory(parent: str | Path, field: str) -> Iterator[Path]:
    """Make a directory of mode 0700 below another one, and remove it at the end.

    What killed processes of this user and host have left in `parent` is removed first.

    Parameters
    ----------
    parent
        Where the directory is made; it is made itself where it is missing.
    field
        What determines `parent`, for the refusal: a setting or a variable.

    Raises
    ------
    ClusterError
        The directory cannot be made, or any user could replace it by another one.
    """
    try:
        Path(parent).mkdir(0o700, parents=True, exist_ok=True)
        mode = Path(parent).stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise ClusterError(
                f"{parent}: every user may replace what others keep there, since it is writable "
                f"for all and has no sticky bit ({field}): name another directory, or chmod +t it."
            )
        _remove_leftovers(Path(parent))
        made = Path(tempfile.mkdtemp(prefix=f"{_Owner.myself()}-", dir=parent))
    except OSError as error:
        raise ClusterError(
            f"{parent}: no private directory can be made there ({field}): {reason(error)}. Name a "
            "directory that you may write to."
        ) from error
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def temporary_directory() -> str:
    """Tell where Dask keeps temporary files on this machine."""
    return str(dask.config.get("temporary-directory", None) or tempfile.gettempdir())


@dataclass(frozen=True, slots=True)
class _Owner:
    """The process that made a directory."""

    host: str
    boot: str
    namespace: str
    pid: str
    started: str

    @classmethod
    def myself(cls) -> _Owner:
        """Tell who this process is; where the system does not say, some parts are 0."""
        host = f"{socket.gethostname()} {_text('/etc/machine-id')}"
        try:
            namespace = re.sub(r"\D", "", str(Path("/proc/self/ns/pid").readlink()))
        except OSError:
            namespace = "0"
        pid = str(os.getpid())
        boot = _text("/proc/sys/kernel/random/boot_id")
        return cls(_digest(host), _digest(boot), namespace, pid, _started(pid))

    def is_dead(self, me: _Owner) -> bool:
        """Whether it is known to be dead to `me`, who lives; of other hosts nothing is known."""
        # Without /proc nothing tells the living from the dead
        if self.host != me.host or me.started == "0":
            return False
        if self.boot != me.boot:
            return True
        return self.namespace == me.namespace and self.started != _started(self.pid)

    def __str__(self) -> str:
        return "-".join((_PREFIX, self.host, self.boot, self.namespace, self.pid, self.started))


def _remove_leftovers(parent: Path) -> None:
    me = _Owner.myself()
    for path in parent.iterdir():
        found = _NAME.fullmatch(path.name)
        if found is None or not _Owner(*found.groups()).is_dead(me):
            continue
        # Two may find the same one
        with suppress(OSError):
            # Anyone may give a directory such a name
            if path.lstat().st_uid == os.geteuid():
                shutil.rmtree(path)


def _started(pid: str) -> str:
    """When a process of this host started, in the kernel's own words; 0 where there is none."""
    # Behind the name, which may hold anything: the state is field 3, the start field 22
    fields = _text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return "0" if not fields or fields[0] in "ZX" else fields[19]


def _digest(text: str) -> str:
    return blake2s(text.encode(), digest_size=4).hexdigest()


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
