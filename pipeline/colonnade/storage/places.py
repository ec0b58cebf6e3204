"""Where files are: directories, and prefixes of object stores, behind the same few verbs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from colonnade.storage.base import Place
from colonnade.storage.directory import Directory
from colonnade.storage.objects import Objects
from colonnade.storage.urls import is_url

__all__ = ["Directory", "Objects", "Place", "place_at"]


def place_at(path: str | Path, options: Mapping[str, str] | None = None) -> Place:
    """Find the place at a path, or at a URL of an object store, with its options.

    Raises
    ------
    UsageError
        The object store cannot be used.
    """
    return Objects(str(path), options) if is_url(path) else Directory(path)
