"""A directory of a local or mounted file system."""

from __future__ import annotations

import contextlib
import uuid
from pathlib import Path
from typing import Any

from colonnade.storage.base import Place
from colonnade.storage.regularfiles import RegularFiles, read_regular, replace

__all__ = ["Directory"]


class Directory(Place):
    """A directory, or a file, of a local or mounted file system."""

    def __init__(self, path: str | Path) -> None:
        self.url = str(path)
        self.path = Path(path)

    def names(self) -> set[str] | None:
        """Return the names directly below the location; None if it is a file."""
        if not self.path.exists():
            return set()
        return {path.name for path in self.path.iterdir()} if self.path.is_dir() else None

    def check(self, name: str, most: int) -> None:
        """Raise ValueError if reading a file would never end, or exceed `most` bytes."""
        path = self.path / name
        label = f"its {path.name}"
        if path.exists() and not path.is_file():
            raise ValueError(f"{label} is not a regular file")
        if path.exists() and path.stat().st_size > most:
            raise ValueError(f"{label} has more than {most:,} bytes")

    def read(self, name: str, most: int | None = None) -> bytes:
        """Read a whole file; FileNotFoundError if it is missing, ValueError above `most` bytes."""
        path = self.path / name
        return read_regular(path, most, label=path.name, follow=most is None)

    def write(self, name: str, data: bytes) -> None:
        """Write a file atomically, replacing an existing one."""
        replace(self.path / name, data)

    def create(self, name: str, data: bytes) -> None:
        """Create a file; FileExistsError if it exists. Of concurrent callers, one succeeds."""
        with (self.path / name).open("xb") as file:
            file.write(data)

    def take_over(self, name: str, old: bytes, new: bytes) -> bool:
        """Replace a file that holds `old` and is no longer renewed; only one caller succeeds."""
        place, aside = self.path / name, self._beside(name)
        try:
            place.rename(aside)
        except FileNotFoundError:
            return False
        try:
            moved = read_regular(aside, max(len(old), len(new)), follow=False)
        except ValueError:
            moved = b""
        aside.unlink()
        # Restore the file if another process had replaced it before we moved it
        with contextlib.suppress(FileExistsError):
            self.create(name, new if moved == old else moved)
            return moved == old
        return False

    def renew(self, name: str, old: bytes, new: bytes) -> bool:
        """Replace our own file, which holds `old`; False if its content has changed."""
        if self.read(name) != old:
            return False
        self.write(name, new)
        return True

    def remove(self, name: str) -> None:
        """Remove a file if it exists."""
        (self.path / name).unlink(missing_ok=True)

    def zarr(self) -> Any:
        """Return the Zarr store at this location."""
        return RegularFiles(self.path)

    def _beside(self, name: str) -> Path:
        return self.path / f"{name}.{uuid.uuid4().hex}.partial"
