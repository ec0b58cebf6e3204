"""Directories of a process's own, for temporary files that no other user may read or swap."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["private"]

_LOCK = "lock"


@contextmanager
def private(parent: str | None) -> Iterator[Path]:
    """Make a fresh directory with mode 0700, and remove it with all that is in it.

    What killed processes of this user have left on this host is removed as well.

    Parameters
    ----------
    parent
        Where to make it; None for the system's directory for temporary files.

    Raises
    ------
    OSError
        It cannot be made, or other users could replace it.
    """
    folder = Path(parent or tempfile.gettempdir())
    folder.mkdir(parents=True, exist_ok=True)
    _refuse_open(folder)
    # One file system may serve many hosts, and not all of them share its locks
    prefix = f"colonnade-{socket.gethostname()}-"
    for left in folder.glob(f"{prefix}*"):
        _remove_left(left)
    made = Path(tempfile.mkdtemp(prefix=".colonnade-", dir=folder))
    held = os.open(made / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        with suppress(OSError):
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Only now, since what has such a name and no lock counts as left behind
        made = made.rename(folder / f"{prefix}{made.name.rpartition('-')[2]}")
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
        os.close(held)


def _refuse_open(folder: Path) -> None:
    """Refuse a directory whose entries any user may rename."""
    mode = folder.stat().st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise PermissionError(
            f"every user may replace what lies in {folder}: take a directory of your own, or set "
            "its sticky bit (chmod +t)"
        )


def _remove_left(path: Path) -> None:
    """Remove a directory whose process has ended."""
    with suppress(OSError):
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            return
        lock = os.open(path / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(lock)
