"""The interface of a storage location: a directory or an object-store prefix."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

__all__ = ["Place"]


class Place(ABC):
    """A storage location: a directory, or all keys of an object store below a prefix.

    Names are relative and may contain slashes; the empty name is the location itself, as a file.
    Failures raise OSError, whose errno distinguishes permanent errors from temporary ones.

    Attributes
    ----------
    url
        The location as users write it.
    options
        Options of the object store; empty for a directory.
    """

    url: str
    options: Mapping[str, str] = MappingProxyType({})

    def __str__(self) -> str:
        return self.url

    @abstractmethod
    def names(self) -> set[str] | None:
        """Return the names directly below the location; None if it is a file."""

    @abstractmethod
    def check(self, name: str, most: int) -> None:
        """Raise ValueError if reading a file would never end, or exceed `most` bytes."""

    @abstractmethod
    def read(self, name: str, most: int | None = None) -> bytes:
        """Read a whole file; FileNotFoundError if it is missing, ValueError above `most` bytes."""

    @abstractmethod
    def write(self, name: str, data: bytes) -> None:
        """Write a file atomically, replacing an existing one."""

    @abstractmethod
    def create(self, name: str, data: bytes) -> None:
        """Create a file; FileExistsError if it exists. Of concurrent callers, one succeeds."""

    @abstractmethod
    def take_over(self, name: str, old: bytes, new: bytes) -> bool:
        """Replace a file that holds `old` and is no longer renewed; only one caller succeeds."""

    @abstractmethod
    def renew(self, name: str, old: bytes, new: bytes) -> bool:
        """Replace our own file, which holds `old`; False if its content has changed."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file if it exists."""

    @abstractmethod
    def zarr(self) -> Any:
        """Return the Zarr store at this location."""
