"""Which paths are those of object stores, and which lie within one another."""

from __future__ import annotations

import os
import re
from pathlib import Path

__all__ = ["SCHEMES", "URL", "is_url", "overlap"]

SCHEMES = ("s3", "gs", "az")
# What of an object's key different readers take for different things is left out
URL = rf"^({'|'.join(SCHEMES)})://[A-Za-z0-9._-]+(/[^%?#\\]*)?$"


def is_url(path: str | Path) -> bool:
    """Whether a path is an object store's."""
    return re.match(URL, str(path)) is not None


def overlap(one: str, other: str) -> bool:
    """Whether one of two paths is, or lies below, the other."""
    a, b = _parts(one), _parts(other)
    shorter = min(len(a), len(b))
    return a[:shorter] == b[:shorter]


def _parts(path: str) -> tuple[str, ...]:
    if is_url(path):
        return tuple(part for part in path.split("/") if part)
    return Path(os.path.realpath(path)).parts  # Path.resolve fails at a loop of links
