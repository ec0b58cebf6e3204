"""Certificates by which a run's scheduler, workers and client authenticate each other."""

from __future__ import annotations

import os
from pathlib import Path

import distributed

from colonnade.errors import ClusterError, one_line
from colonnade.job import Secured, TlsSettings

__all__ = ["from_files", "run_security", "security_in"]


def run_security(settings: Secured) -> distributed.Security | None:
    """Create or load the certificates of a cluster that this run starts.

    Returns
    -------
    For ``auto``, the certificate and key of a new certificate authority, which exist in memory and
    for this run only; for files, their certificates; for ``none``, None.

    Raises
    ------
    ClusterError
        The files cannot be read, or no certificates can be created (cluster.security).
    """
    if settings.security == "none":
        return None
    if settings.security == "auto":
        return _made()
    return from_files(settings.security, "cluster.security")


def security_in(directory: Path, settings: Secured) -> distributed.Security | None:
    """Return the certificates of `run_security`, in files that only this user can read.

    Dask writes a key that exists in memory to a temporary file whenever a process uses it, and a
    killed process leaves that file behind.

    Parameters
    ----------
    directory
        A private directory for the files.

    Raises
    ------
    ClusterError
        See `run_security`.
    """
    security = run_security(settings)
    if security is None or settings.security != "auto":
        return security
    # All processes of the run have the same certificate, which is its own authority
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
    # A broken installation may raise any exception
    except Exception as error:
        raise ClusterError(
            "no certificates can be made for this run (cluster.security: auto), because "
            f"cryptography does not work here: {one_line(error).rstrip('.')}. Install it (pip "
            "install cryptography), name your own files ({ca_file, cert, key}), or, if no other "
            "user can connect to the cluster, set cluster.security to none."
        ) from error
    return made


def from_files(tls: TlsSettings, field: str) -> distributed.Security:
    """Load certificates from files; `field` is the setting that names them.

    Raises
    ------
    ClusterError
        The files cannot be read.
    """
    files = {"cert": tls.cert, "key": tls.key}
    roles = ("client", "scheduler", "worker")
    named = {f"tls_{role}_{kind}": path for role in roles for kind, path in files.items()}
    try:
        security = distributed.Security(tls_ca_file=tls.ca_file, require_encryption=True, **named)
        security.get_connection_args("client")
    except OSError as error:
        raise ClusterError(
            f"the certificates cannot be read ({field}): {error}. Name PEM files that this user "
            "can read."
        ) from error
    return security
