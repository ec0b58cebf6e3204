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
        """Names directly below the place; None where the place is a file."""
        if not self.path.exists():
            return set()
        return {path.name for path in self.path.iterdir()} if self.path.is_dir() else None

    def check(self, name: str, most: int) -> None:
        """Raise ValueError where reading a file would take for ever, or more than `most` bytes."""
        path = self.path / name
        told = f"its {path.name}"
        if path.exists() and not path.is_file():
            raise ValueError(f"{told} is no regular file")
        if path.exists() and path.stat().st_size > most:
            raise ValueError(f"{told} has more than {most:,} bytes")

    def read(self, name: str, most: int | None = None) -> bytes:
        """Read a file whole; FileNotFoundError where there is none, ValueError above `most`."""
        path = self.path / name
        return read_regular(path, most, told=path.name, follow=most is None)

    def write(self, name: str, data: bytes) -> None:
        """Put a file there in one step, in place of what was there."""
        replace(self.path / name, data)

    def create(self, name: str, data: bytes) -> None:
        """Put a file there if there is none; FileExistsError where there is: of many, one can."""
        with (self.path / name).open("xb") as file:
            file.write(data)

    def take_over(self, name: str, old: bytes, new: bytes) -> bool:
        """Replace a file that holds `old` and that nobody renews; of many who try, one can."""
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
        # Where another has come before, what it put there is put back
        with contextlib.suppress(FileExistsError):
            self.create(name, new if moved == old else moved)
            return moved == old
        return False

    def renew(self, name: str, old: bytes, new: bytes) -> bool:
        """Replace a file that holds `old`, put there by oneself; False where another has it."""
        if self.read(name) != old:
            return False
        self.write(name, new)
        return True

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        (self.path / name).unlink(missing_ok=True)

    def zarr(self) -> Any:
        """Tell Zarr where this is."""
        return RegularFiles(self.path)

    def _beside(self, name: str) -> Path:
        return self.path / f"{name}.{uuid.uuid4().hex}.partial"
