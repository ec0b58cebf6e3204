"""Settings that every kind of cluster has."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import model_validator

from colonnade.job.values import Patience, Seconds, Whole
from colonnade.storage.locations import FilePath, Settings, absolute

__all__ = ["Adaptive", "Cluster", "Secured", "Sized", "TlsSettings", "placed"]


class Cluster(Settings):
    """Settings that every kind of cluster has."""

    timeout: Seconds = 60
    """Seconds to wait for the scheduler and workers, at the start and when all workers are lost."""
    # Slurm and Kubernetes kill 30 s after SIGTERM, and closing a cluster takes part of that time
    grace: Seconds = 20
    """Seconds that blocks in flight may take to finish when a signal stops the run."""
    stall_timeout: Patience = "auto"
    """Seconds without progress before a worker is replaced; auto: from the slowest blocks."""

    def located(self) -> Self:
        """Return the settings with their paths made absolute."""
        return self


class TlsSettings(Settings):
    """PEM files of certificates with which a cluster's processes authenticate each other."""

    ca_file: FilePath
    """Certificate of the authority that signed all certificates of the cluster."""
    cert: FilePath
    """This process's certificate."""
    key: FilePath
    """This process's private key."""


class Secured(Cluster):
    """A cluster whose scheduler and workers the run itself starts."""

    security: Literal["auto", "none"] | TlsSettings = "auto"
    """auto: TLS with certificates made for this run alone; or certificate files; none: no TLS."""
    dashboard: bool = True
    """Whether the scheduler serves Dask's dashboard, on its own host's loopback interface."""

    def located(self) -> Self:
        """Return the settings with the certificates' paths made absolute."""
        if not isinstance(self.security, TlsSettings):
            return self
        security = placed(self.security, *TlsSettings.model_fields)
        return self.model_copy(update={"security": security})


class Adaptive(Settings):
    """A cluster that grows and shrinks with its load."""

    minimum: Whole = 1
    """Least number of workers, for which the run waits before its first block."""
    maximum: Whole
    """Largest number of workers."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.maximum < self.minimum:
            raise ValueError("maximum is below minimum; raise maximum, or lower minimum")
        return self


class Sized(Cluster):
    """A cluster with as many workers as the job file asks for."""

    workers: Whole | None = None
    """Number of workers; default: 1."""
    adaptive: Adaptive | None = None
    """Instead of workers: let the cluster grow and shrink."""

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        if self.adaptive is not None and self.workers is not None:
            raise ValueError(
                "workers and adaptive: a cluster has a fixed size or adapts; give only one of them"
            )
        return self

    @property
    def size(self) -> int:
        """Workers to wait for before the first block."""
        if self.adaptive is not None:
            return self.adaptive.minimum
        return self.workers or 1

    @property
    def most(self) -> int:
        """Largest number of workers at any time."""
        return self.size if self.adaptive is None else self.adaptive.maximum


def placed(settings: Any, *fields: str) -> Any:
    """Return settings with the paths in the given fields made absolute."""
    found = {field: getattr(settings, field) for field in fields}
    return settings.model_copy(
        update={
            field: tuple(map(absolute, path)) if isinstance(path, tuple) else absolute(path)
            for field, path in found.items()
            if path is not None
        }
    )
