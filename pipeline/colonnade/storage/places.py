"""Storage locations: local directories and object-store prefixes behind one interface."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from colonnade.storage.base import Place
from colonnade.storage.directory import Directory
from colonnade.storage.objects import Objects
from colonnade.storage.urls import is_url

__all__ = ["place_at"]


def place_at(path: str | Path, options: Mapping[str, str] | None = None) -> Place:
    """Return the storage location for a path or an object-store URL.

    Raises
    ------
    UsageError
        The object store cannot be opened.
    """
    return Objects(str(path), options) if is_url(path) else Directory(path)
