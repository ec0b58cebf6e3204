"""Read only regular files, also through zarr, since a pipe may never end; replace files atomically.

A new file is renamed over the old one, so that a link that somebody else has made is not followed.
"""

from __future__ import annotations

import errno
import os
import stat
import uuid
from pathlib import Path
from typing import Any

from zarr.storage import LocalStore

__all__ = ["RegularFiles", "Stamp", "read_regular", "replace", "stamp"]

Stamp = tuple[int, ...]
"""Inode, size in bytes, and times in ns of the last content and metadata changes of a file."""


def stamp(path: str | Path) -> Stamp:
    """Return values that change when somebody writes to a file or replaces it.

    Opening the file makes NFS query its server instead of trusting its cache.
    """
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(number)
    finally:
        os.close(number)
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def read_regular(
    path: Path, most: int | None = None, *, label: str = "it", follow: bool = True
) -> bytes:
    """Read a whole regular file.

    The type is checked on the open file: a check by name before would be a race.

    Parameters
    ----------
    most
        Largest size in bytes; None for no limit.
    label
        Name of the file in error messages.
    follow
        Whether the path may be a symbolic link.

    Raises
    ------
    ValueError
        The file is not regular, or has more bytes.
    OSError
        The file is missing, or cannot be read.
    """
    no_file = ValueError(f"{label} is not a regular file")
    try:
        # O_NONBLOCK: do not wait for the writer of a pipe; O_NOFOLLOW: nor follow a link to one
        link = 0 if follow else os.O_NOFOLLOW
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | link)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise no_file from None
        raise
    try:
        if not stat.S_ISREG(os.fstat(number).st_mode):
            raise no_file
        with open(number, "rb", closefd=False) as file:
            content = file.read(-1 if most is None else most + 1)
    finally:
        os.close(number)
    if most is not None and len(content) > most:
        raise ValueError(f"{label} has more than {most:,} bytes")
    return content


def replace(path: Path, data: bytes) -> None:
    """Write a file atomically, replacing an existing one; a link itself is replaced.

    The temporary name is random, so that others with access to the folder cannot predict it.
    """
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    try:
        with partial.open("xb") as file:
            file.write(data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


class RegularFiles(LocalStore):
    """A zarr store of untrusted files that raises ValueError for a pipe or a device."""

    async def get(self, key: str, *arguments: Any, **options: Any) -> Any:
        """Read a file or a part of it."""
        _check(self.root / key)
        return await super().get(key, *arguments, **options)

    def get_sync(self, key: str, *arguments: Any, **options: Any) -> Any:
        """Read a file or a part of it."""
        _check(self.root / key)
        return super().get_sync(key, *arguments, **options)


def _check(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    # zarr handles missing files itself
    except OSError:
        return
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise ValueError(f"its {path.name} is not a regular file")
