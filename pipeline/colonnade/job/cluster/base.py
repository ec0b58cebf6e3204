"""What every kind of cluster has."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import model_validator

from colonnade.job.values import Patience, Seconds, Whole
from colonnade.storage.locations import FilePath, Settings, absolute

__all__ = ["Adaptive", "Cluster", "Secured", "Sized", "TlsSettings", "placed"]


class Cluster(Settings):
    """What every kind of cluster has."""

    timeout: Seconds = 60
    """Seconds to wait for the scheduler and for workers, at the start and whenever all are gone."""
    # Slurm and Kubernetes kill 30 s after SIGTERM, and closing a cluster takes some of them
    grace: Seconds = 20
    """Seconds that blocks in flight may take to finish when a signal stops the run."""
    stall_timeout: Patience = "auto"
    """Seconds without progress after which a worker is replaced; auto: by the slowest blocks."""

    def located(self) -> Self:
        """Return the settings with their paths made absolute."""
        return self


class TlsSettings(Settings):
    """Certificates with which the processes of a cluster know each other: PEM files."""

    ca_file: FilePath
    """Of who has signed the certificates of all of the cluster."""
    cert: FilePath
    """This process's certificate."""
    key: FilePath
    """This process's private key."""


class Secured(Cluster):
    """A cluster whose scheduler and workers the run itself starts."""

    security: Literal["auto", "none"] | TlsSettings = "auto"
    """auto: TLS with certificates made for this run alone; or certificate files; or none."""
    dashboard: bool = True
    """Whether the scheduler serves Dask's dashboard, on its own host's loopback interface."""

    def located(self) -> Self:
        """Return the settings with the certificates' paths made absolute."""
        if not isinstance(self.security, TlsSettings):
            return self
        security = placed(self.security, *TlsSettings.model_fields)
        return self.model_copy(update={"security": security})


class Adaptive(Settings):
    """A cluster that grows and shrinks with what there is to do."""

    minimum: Whole = 1
    """Workers at the least, which the run waits for before its first block."""
    maximum: Whole
    """Workers at the most."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.maximum < self.minimum:
            raise ValueError("maximum: fewer than minimum")
        return self


class Sized(Cluster):
    """A cluster that is started with as many workers as the job says."""

    workers: Whole | None = None
    """Workers: 1 unless said otherwise."""
    adaptive: Adaptive | None = None
    """Instead of workers: let the cluster grow and shrink."""

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        if self.adaptive is not None and self.workers is not None:
            raise ValueError("workers and adaptive: a cluster is of one size or adapts; give one")
        return self

    @property
    def size(self) -> int:
        """Workers to wait for before the first block."""
        if self.adaptive is not None:
            return self.adaptive.minimum
        return self.workers or 1

    @property
    def most(self) -> int:
        """Workers that there may be at some time."""
        return self.size if self.adaptive is None else self.adaptive.maximum


def placed(settings: Any, *fields: str) -> Any:
    """Return settings with the paths in some fields, where there are any, made absolute."""
    found = {field: getattr(settings, field) for field in fields}
    return settings.model_copy(
        update={
            field: tuple(map(absolute, path)) if isinstance(path, tuple) else absolute(path)
            for field, path in found.items()
            if path is not None
        }
    )
