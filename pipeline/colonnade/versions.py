"""What a process computes with: versions that must be the same on the client and its workers."""

from __future__ import annotations

import platform
import socket
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import version

__all__ = ["differences", "environment", "versions"]

# How much of each version must agree; of the others that a store tells of, nothing
_PARTS = {"python": 2, "colonnade": 3, "numpy": 3, "zarr": 3}


@cache
def versions() -> dict[str, str]:
    """Tell what computes in this process."""
    packages: Iterable[str] = ("colonnade", "numpy", "zarr", "dask")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def environment() -> dict[str, str]:
    """Tell the versions, and on which host; called on workers."""
    return {"host": socket.gethostname(), **versions()}


def differences(there: Mapping[str, str], here: Mapping[str, str]) -> str:
    """Tell in which versions a worker, there, is not what the client is; '' where in none."""
    found = [
        f"{name} {there.get(name)} instead of {here[name]}"
        for name, parts in _PARTS.items()
        if _cut(there.get(name, ""), parts) != _cut(here[name], parts)
    ]
    return ", ".join(found)


def _cut(text: str, parts: int) -> list[str]:
    return text.partition("+")[0].split(".")[:parts]
