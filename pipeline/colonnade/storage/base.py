"""What is done with a place, be it a directory or a prefix of an object store."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

__all__ = ["Place"]


class Place(ABC):
    """A directory of a file system, or all keys of an object store below a prefix.

    Names are relative and may hold slashes; the empty one is the place itself, as a file. Whatever
    fails raises OSError, whose errno tells what waiting does not mend.

    Attributes
    ----------
    url
        The place as users write it.
    options
        How its object store is reached, where it is in one.
    """

    url: str
    options: Mapping[str, str] = MappingProxyType({})

    def __str__(self) -> str:
        return self.url

    @abstractmethod
    def names(self) -> set[str] | None:
        """Names directly below the place; None where the place is a file."""

    @abstractmethod
    def check(self, name: str, most: int) -> None:
        """Raise ValueError where reading a file would take for ever, or more than `most` bytes."""

    @abstractmethod
    def read(self, name: str, most: int | None = None) -> bytes:
        """Read a file whole; FileNotFoundError where there is none, ValueError above `most`."""

    @abstractmethod
    def write(self, name: str, data: bytes) -> None:
        """Put a file there in one step, in place of what was there."""

    @abstractmethod
    def create(self, name: str, data: bytes) -> None:
        """Put a file there if there is none; FileExistsError where there is: of many, one can."""

    @abstractmethod
    def take_over(self, name: str, old: bytes, new: bytes) -> bool:
        """Replace a file that holds `old` and that nobody renews; of many who try, one can."""

    @abstractmethod
    def renew(self, name: str, old: bytes, new: bytes) -> bool:
        """Replace a file that holds `old`, put there by oneself; False where another has it."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""

    @abstractmethod
    def zarr(self) -> Any:
        """Tell Zarr where this is."""
