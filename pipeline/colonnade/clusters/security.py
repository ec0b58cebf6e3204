"""Certificates with which a run's scheduler, workers and client know each other."""

from __future__ import annotations

import distributed

from colonnade.errors import ClusterError
from colonnade.job import Secured, TlsSettings

__all__ = ["from_files", "run_security"]


def run_security(settings: Secured) -> distributed.Security | None:
    """Make, or load, the certificates of a cluster that this run starts.

    Returns
    -------
    For ``auto``, a certificate authority's own certificate and key that are made for this run
    alone and exist in memory; for files, those; None for ``none``.

    Raises
    ------
    ClusterError
        The files cannot be read (cluster.security).
    """
    if settings.security == "none":
        return None
    if settings.security == "auto":
        made: distributed.Security = distributed.Security.temporary()
        return made
    return from_files(settings.security, "cluster.security")


def from_files(tls: TlsSettings, field: str) -> distributed.Security:
    """Load certificates from files; `field` is where the job names them.

    Raises
    ------
    ClusterError
        They cannot be read.
    """
    files = {"cert": tls.cert, "key": tls.key}
    roles = ("client", "scheduler", "worker")
    named = {f"tls_{role}_{kind}": path for role in roles for kind, path in files.items()}
    try:
        security = distributed.Security(tls_ca_file=tls.ca_file, require_encryption=True, **named)
        security.get_connection_args("client")
    except OSError as error:
        raise ClusterError(f"the certificates cannot be read ({field}): {error}") from error
    return security
