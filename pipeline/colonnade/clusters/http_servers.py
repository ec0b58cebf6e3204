"""Where the HTTP servers of a run's own cluster listen: on loopback, or nowhere."""

from __future__ import annotations

from typing import Any

import distributed

__all__ = ["ANY_PORT", "ClosedScheduler", "ClosedWorker", "scheduler", "worker_class"]

_DASHBOARD = "127.0.0.1:8787"
ANY_PORT = "127.0.0.1:0"
"""Address of a worker's HTTP server, if it has one."""


class _Closed:
    """A server without HTTP: Dask starts an HTTP server even without a dashboard."""

    def start_http_server(self, *arguments: Any, **options: Any) -> None:
        """Start no HTTP server."""


class ClosedScheduler(_Closed, distributed.Scheduler):
    """A scheduler without an HTTP server."""


class ClosedWorker(_Closed, distributed.Worker):
    """A worker without an HTTP server."""


def scheduler(*, dashboard: bool) -> tuple[type[distributed.Scheduler], dict[str, Any]]:
    """Return the scheduler's class and its HTTP options."""
    if dashboard:
        return distributed.Scheduler, {"dashboard": True, "dashboard_address": _DASHBOARD}
    return ClosedScheduler, {"dashboard": False, "dashboard_address": None}


def worker_class(*, dashboard: bool) -> type[distributed.Worker]:
    """Return the class of the workers."""
    return distributed.Worker if dashboard else ClosedWorker
