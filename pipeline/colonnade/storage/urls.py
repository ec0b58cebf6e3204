"""Recognise object-store URLs, and paths that lie within one another."""

from __future__ import annotations

import os
import re
from pathlib import Path

__all__ = ["SCHEMES", "URL", "is_url", "overlap"]

SCHEMES = ("s3", "gs", "az")
# Excludes the characters of a key that readers interpret in different ways
URL = rf"^({'|'.join(SCHEMES)})://[A-Za-z0-9._-]+(/[^%?#\\]*)?$"


def is_url(path: str | Path) -> bool:
    """Return whether a path is an object-store URL."""
    return re.match(URL, str(path)) is not None


def overlap(one: str, other: str) -> bool:
    """Return whether two paths are equal, or one lies below the other."""
    a, b = _parts(one), _parts(other)
    shorter = min(len(a), len(b))
    return a[:shorter] == b[:shorter]


def _parts(path: str) -> tuple[str, ...]:
    if is_url(path):
        return tuple(part for part in path.split("/") if part)
    return Path(os.path.realpath(path)).parts  # Path.resolve fails at a loop of links
