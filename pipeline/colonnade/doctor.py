"""Report what this environment would run with, and what would make runs faster."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

from packaging.requirements import Requirement

from colonnade.clusters import expected_capacity
from colonnade.compute.blas import blas_libraries
from colonnade.formatting import counted, format_bytes
from colonnade.job import LocalCluster
from colonnade.planning.plan import Capacity
from colonnade.versions import environment

__all__ = ["Diagnosis", "Extra", "doctor", "make_extra"]

_WIDTH = 15


@dataclass(frozen=True, slots=True)
class Extra:
    """An extra of the package: its installed packages, and the missing ones."""

    name: str
    installed: Mapping[str, str]
    lacking: tuple[str, ...]

    def __str__(self) -> str:
        if self.lacking:
            return f"lacks {', '.join(self.lacking)}: pip install 'colonnade[{self.name}]'"
        return ", ".join(f"{name} {number}" for name, number in self.installed.items())


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The result of `doctor`.

    Attributes
    ----------
    versions
        The host, and the versions that must be the same on the client and its workers.
    blas
        The BLAS libraries, with the processor for which each has chosen its kernels.
    local
        The capacity that `cluster.kind: local` takes on this machine. Memory in bytes.
    advice
        What slows runs down on this machine, and what to do.
    """

    versions: Mapping[str, str]
    blas: tuple[str, ...]
    local: Capacity
    extras: tuple[Extra, ...]
    advice: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the diagnosis as a dict for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        memory = self.local.memory_per_worker
        local = (
            f"{counted(self.local.workers, 'worker')} of "
            f"{counted(self.local.threads_per_worker, 'thread')}"
        )
        lines = [
            *self.versions.items(),
            *(("matrix products", name) for name in self.blas),
            ("kind: local", local if memory is None else f"{local}, {format_bytes(memory)} each"),
            *((f"extra {extra.name}", str(extra)) for extra in self.extras),
            *(("advice", text) for text in self.advice),
        ]
        width = max(_WIDTH, *(len(name) for name, _ in lines))
        return "\n".join(f"{name:{width}}  {text}" for name, text in lines)


def doctor() -> Diagnosis:
    """Inspect this environment, without starting or changing anything."""
    return Diagnosis(
        versions=environment(),
        blas=blas_libraries(),
        local=expected_capacity(LocalCluster(kind="local")),
        extras=_extras(),
        advice=tuple(_advice()),
    )


def _extras() -> tuple[Extra, ...]:
    wanted: dict[str, list[Requirement]] = {}
    for text in requires("colonnade") or ():
        requirement = Requirement(text)
        named = re.search(r"extra == ['\"]([\w-]+)['\"]", str(requirement.marker))
        if named:
            wanted.setdefault(named[1], []).append(requirement)
    return tuple(make_extra(name, wanted[name]) for name in sorted(wanted))


def make_extra(name: str, requirements: list[Requirement]) -> Extra:
    """Check which of an extra's requirements are installed."""
    installed, lacking = {}, []
    for requirement in requirements:
        try:
            number = version(requirement.name)
        except PackageNotFoundError:
            lacking.append(requirement.name)
            continue
        if requirement.specifier.contains(number, prereleases=True):
            installed[requirement.name] = number
        else:
            lacking.append(f"{requirement.name}{requirement.specifier} (installed: {number})")
    return Extra(name, installed, tuple(lacking))


def _advice() -> list[str]:
    found = []
    core = os.environ.get("OPENBLAS_CORETYPE")
    if core:
        found.append(
            f"OPENBLAS_CORETYPE={core} is set, so OpenBLAS uses the kernels of that processor; "
            "unset it to use this processor's kernels, which may be twice as fast"
        )
    return found
