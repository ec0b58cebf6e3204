"""What every kind of cluster is to the rest: a deployment, asked for and perhaps on its way."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import distributed

from colonnade.errors import ClusterError, needed, reason
from colonnade.plan import Capacity

__all__ = ["Deployment", "Kind", "library", "refusal"]


def _nothing() -> None:
    """Replace no worker: the kind does that by itself, or cannot."""


def _silence() -> str:
    return ""


@dataclass(frozen=True)
class Deployment:
    """A cluster whose workers may still be on their way.

    Attributes
    ----------
    name
        As its users call it.
    replace
        Ask for workers in place of those that were lost; it may be called again and again.
    trouble
        Tell what is known of workers that do not come.
    dashboard
        Where the dashboard is; None where Dask's own link leads there.
    exposed
        Why the cluster's processes do not know each other by certificates, although the job asks
        for that; empty where they do.
    """

    client: distributed.Client
    name: str
    replace: Callable[[], None] = _nothing
    trouble: Callable[[], str] = _silence
    dashboard: str | None = None
    exposed: str = ""


class Kind(Protocol):
    """A module that knows one kind of cluster, or several that are alike."""

    def capacity(self, settings: Any, /) -> Capacity:
        """Tell what the cluster will give, without starting or reaching it."""

    def deploy(self, settings: Any, /) -> AbstractContextManager[Deployment]:
        """Start or reach the cluster, and leave it as it was."""


def library(name: str, extra: str) -> Any:
    """Import the library that deploys a kind of cluster.

    Raises
    ------
    ClusterError
        It is not installed.
    """
    told = f"this kind of cluster (cluster.kind) needs {name.partition('.')[0]}"
    return needed(name, extra, ClusterError, told)


def refusal(what: str, error: BaseException) -> ClusterError:
    """Say that a cluster cannot be had, and why."""
    return ClusterError(f"{what}: {reason(error).rstrip('.')}.")
