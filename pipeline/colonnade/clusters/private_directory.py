"""Directories that no other user can enter, and that are removed after their process.

A directory's name identifies its owner: host, boot, PID namespace, PID and start time of the
process. A later process can thus detect that the owner is dead. Because hosts may share a name and
a file system, a directory of another boot is removed only if its lock is free.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from hashlib import blake2s
from pathlib import Path

import dask

from colonnade.errors import ClusterError, one_line
from colonnade.process import ProcessId

__all__ = ["private_directory", "temporary_directory"]

_PREFIX = "colonnade"
_LOCK = "lock"
_NAME = re.compile(rf"{_PREFIX}-([0-9a-f]{{8}})-([0-9a-f]{{8}})-(\d+)-(\d+)-(\w+)-\w{{8}}")


@contextmanager
def private_directory(parent: str | Path, field: str) -> Iterator[Path]:
    """Create a directory of mode 0700 in `parent`, and remove it on exit.

    Directories that killed processes of this user and host have left in `parent` are removed
    first.

    Parameters
    ----------
    parent
        Where the directory is created; `parent` is created too if it is missing.
    field
        The setting or variable that determines `parent`, for messages.

    Raises
    ------
    ClusterError
        The directory cannot be created, or any user could replace it.
    """
    try:
        Path(parent).mkdir(0o700, parents=True, exist_ok=True)
        mode = Path(parent).stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise ClusterError(
                f"{parent}: any user may replace other users' files there, because it is writable "
                f"for all and has no sticky bit ({field}): name another directory, or chmod +t it."
            )
        _remove_leftovers(Path(parent))
        name = "-".join((_PREFIX, *_parts(ProcessId.current()), ""))
        made = Path(tempfile.mkdtemp(prefix=name, dir=parent))
    except OSError as error:
        raise ClusterError(
            f"{parent}: no private directory can be created there ({field}): {one_line(error)}. "
            "Name a directory that you can write to."
        ) from error
    lock = os.open(made / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        # On a file system without locks, directories from before a reboot are kept
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
        os.close(lock)


def temporary_directory() -> str:
    """Return where Dask keeps temporary files on this machine."""
    return str(dask.config.get("temporary-directory", None) or tempfile.gettempdir())


def _parts(owner: ProcessId) -> tuple[str, ...]:
    """Encode an owner in the letters and digits of a directory's name."""
    host = _digest(f"{owner.host} {_text('/etc/machine-id')}")
    namespace = re.sub(r"\D", "", owner.namespace) or "0"
    return host, _digest(owner.boot), namespace, str(owner.pid), owner.started


def _remove_leftovers(parent: Path) -> None:
    me = ProcessId.current()
    here = _parts(me)
    for path in parent.iterdir():
        found = _NAME.fullmatch(path.name)
        # Whether processes of other hosts are alive is unknown
        if found is None or found[1] != here[0]:
            continue
        owner = replace(me, pid=int(found[4]), started=found[5])
        if found[2] == here[1]:
            is_dead = found[3] == here[2] and owner.is_gone
        else:
            is_dead = _is_unlocked(path / _LOCK)
        if not is_dead:
            continue
        # Another process may remove the same directory
        with suppress(OSError):
            # Any user may create a directory of this name
            if path.lstat().st_uid == os.geteuid():
                shutil.rmtree(path)


def _is_unlocked(path: Path) -> bool:
    try:
        lock = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(lock)


def _digest(text: str) -> str:
    return blake2s(text.encode(), digest_size=4).hexdigest()


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
