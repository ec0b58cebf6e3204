"""Versions of Python and packages, which must agree between the client and its workers."""

from __future__ import annotations

import platform
import socket
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import version

__all__ = ["differences", "environment", "versions"]

# Number of version parts that must agree; other packages that a store records may differ
_PARTS = {"python": 2, "colonnade": 3, "numpy": 3, "zarr": 3}


@cache
def versions() -> dict[str, str]:
    """Return the versions of Python and of packages in this process."""
    packages: Iterable[str] = ("colonnade", "numpy", "zarr", "dask")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def environment() -> dict[str, str]:
    """Return the versions and the host's name; called on workers."""
    return {"host": socket.gethostname(), **versions()}


def differences(there: Mapping[str, str], here: Mapping[str, str]) -> str:
    """Describe the versions in which a worker, `there`, differs from the client; '' if none."""
    found = [
        f"{name} {there.get(name)} instead of {here[name]}"
        for name, parts in _PARTS.items()
        if _cut(there.get(name, ""), parts) != _cut(here[name], parts)
    ]
    return ", ".join(found)


def _cut(text: str, parts: int) -> list[str]:
    return text.partition("+")[0].split(".")[:parts]
