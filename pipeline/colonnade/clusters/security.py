"""Certificates with which a run's scheduler, workers and client know each other."""

from __future__ import annotations

import os
from pathlib import Path

import distributed

from colonnade.errors import ClusterError, one_line
from colonnade.job import Secured, TlsSettings

__all__ = ["from_files", "run_security", "security_in"]


def run_security(settings: Secured) -> distributed.Security | None:
    """Make, or load, the certificates of a cluster that this run starts.

    Returns
    -------
    For ``auto``, a certificate authority's own certificate and key that are made for this run
    alone and exist in memory; for files, those; None for ``none``.

    Raises
    ------
    ClusterError
        The files cannot be read, or no certificates can be made (cluster.security).
    """
    if settings.security == "none":
        return None
    if settings.security == "auto":
        return _made()
    return from_files(settings.security, "cluster.security")


def security_in(directory: Path, settings: Secured) -> distributed.Security | None:
    """As `run_security`, with certificates in files that this user alone can read.

    Dask writes a key that exists in memory to a temporary file whenever a process uses it, and a
    process that is killed leaves that file behind.

    Parameters
    ----------
    directory
        A private one, for the files.

    Raises
    ------
    ClusterError
        As `run_security`.
    """
    security = run_security(settings)
    if security is None or settings.security != "auto":
        return security
    # The run's certificate is its own authority's, and the same for all of its processes
    made = security.get_tls_config_for_role("worker")
    texts = {"certificate.pem": made["cert"], "key.pem": made["key"]}
    for name, text in texts.items():
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with open(os.open(directory / name, flags, 0o600), "w") as file:  # noqa: PTH123
            file.write(text)
    certificate, key = (str(directory / name) for name in texts)
    tls = TlsSettings(ca_file=certificate, cert=certificate, key=key)
    return from_files(tls, "cluster.security")


def _made() -> distributed.Security:
    try:
        made: distributed.Security = distributed.Security.temporary()
    # An installation that is broken may fail in any way
    except Exception as error:
        raise ClusterError(
            "no certificates can be made for this run (cluster.security: auto), since cryptography "
            f"does not work here: {one_line(error).rstrip('.')}. Install it (pip install "
            "cryptography), name files of your own ({ca_file, cert, key}), or, where no other "
            "user reaches the cluster, give none."
        ) from error
    return made


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
