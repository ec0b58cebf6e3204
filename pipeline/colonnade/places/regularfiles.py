"""A directory in which zarr reads regular files and nothing else: a pipe may never end."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

from zarr.storage import LocalStore

__all__ = ["RegularFiles"]


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
