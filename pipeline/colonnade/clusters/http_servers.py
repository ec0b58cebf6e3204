"""Where the servers of a run's own cluster listen for HTTP: on loopback, or not at all."""

from __future__ import annotations

from typing import Any

import distributed

__all__ = ["ANY_PORT", "ClosedScheduler", "ClosedWorker", "scheduler", "worker_class"]

_DASHBOARD = "127.0.0.1:8787"
ANY_PORT = "127.0.0.1:0"
"""Where a worker's HTTP server listens, if it has one."""


class _Closed:
    """Starts no HTTP server: Dask starts one without a dashboard, too."""

    def start_http_server(self, *arguments: Any, **options: Any) -> None:
        """Start none."""


class ClosedScheduler(_Closed, distributed.Scheduler):
    """A scheduler without an HTTP server."""


class ClosedWorker(_Closed, distributed.Worker):
    """A worker without an HTTP server."""


def scheduler(*, dashboard: bool) -> tuple[type[distributed.Scheduler], dict[str, Any]]:
    """Return a scheduler's class, and its options that concern HTTP."""
    if dashboard:
        return distributed.Scheduler, {"dashboard": True, "dashboard_address": _DASHBOARD}
    return ClosedScheduler, {"dashboard": False, "dashboard_address": None}


def worker_class(*, dashboard: bool) -> type[distributed.Worker]:
    """Return a worker's class."""
    return distributed.Worker if dashboard else ClosedWorker
