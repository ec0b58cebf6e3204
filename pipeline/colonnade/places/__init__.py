"""Where files are: directories, and prefixes of object stores, behind the same few verbs."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from colonnade.places.base import Place
from colonnade.places.directory import Directory
from colonnade.places.objects import SCHEMES, Objects

__all__ = ["SCHEMES", "URL", "Directory", "Objects", "Place", "is_url", "overlap", "place_at"]

# What an object's key may not hold, others read in two ways
URL = rf"^({'|'.join(SCHEMES)})://[A-Za-z0-9._-]+(/[^%?#\\]*)?$"


def is_url(path: str | Path) -> bool:
    """Whether a path is an object store's."""
    return re.match(URL, str(path)) is not None


def place_at(path: str | Path, options: Mapping[str, str] | None = None) -> Place:
    """Find the place at a path, or at a URL of an object store, with its options.

    Raises
    ------
    UsageError
        The object store cannot be used.
    """
    return Objects(str(path), options) if is_url(path) else Directory(path)


def overlap(one: str, other: str) -> bool:
    """Whether one of two paths is, or lies below, the other."""
    a, b = _parts(one), _parts(other)
    shorter = min(len(a), len(b))
    return a[:shorter] == b[:shorter]


def _parts(path: str) -> tuple[str, ...]:
    # Path.resolve fails at a loop of links
    return tuple(path.rstrip("/").split("/")) if is_url(path) else Path(os.path.realpath(path)).parts
