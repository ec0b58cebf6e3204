"""Regular files are read, by zarr in a directory too, and nothing else: a pipe may never end.

And they are replaced whole, through a new file: a link that another has put there is not followed.
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
"""Inode, size, and times of the last changes of a file's content and of its metadata."""


def stamp(path: str | Path) -> Stamp:
    """Tell by what it is noticed that somebody has written to a file, or replaced it.

    The file is opened for it: then NFS asks its server, and does not trust its cache.
    """
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(number)
    finally:
        os.close(number)
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def read_regular(
    path: Path, most: int | None = None, *, told: str = "it", follow: bool = True
) -> bytes:
    """Read a regular file whole.

    It is looked at when it is open: by its name it could be another one by then.

    Parameters
    ----------
    most
        Bytes that it may have.
    told
        What the texts of errors call it.
    follow
        Whether it may be a link.

    Raises
    ------
    ValueError
        It is something else, or has more bytes.
    OSError
        It is not there, or cannot be read.
    """
    no_file = ValueError(f"{told} is no regular file")
    try:
        # Not to wait for whoever writes to a pipe, and not to follow a link to one
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
        raise ValueError(f"{told} has more than {most:,} bytes")
    return content


def replace(path: Path, data: bytes) -> None:
    """Put a file there in one step, in place of what was there; a link there is replaced itself.

    Nobody else in its folder can foresee the name that it has while it is made.
    """
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    try:
        with partial.open("xb") as file:
            file.write(data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


class RegularFiles(LocalStore):
    """A zarr store whose files may be anybody's; ValueError where one is a pipe or a device."""

    async def get(self, key: str, *arguments: Any, **options: Any) -> Any:
        """Read a file, or a part of it."""
        _check(self.root / key)
        return await super().get(key, *arguments, **options)

    def get_sync(self, key: str, *arguments: Any, **options: Any) -> Any:
        """Read a file, or a part of it."""
        _check(self.root / key)
        return super().get_sync(key, *arguments, **options)


def _check(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    # zarr has its own ways with what is not there
    except OSError:
        return
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise ValueError(f"its {path.name} is no regular file")
