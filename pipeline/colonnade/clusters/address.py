"""A Dask scheduler that is already running."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import distributed

from colonnade.clusters.base import Deployment
from colonnade.clusters.security import from_files
from colonnade.errors import ClusterError
from colonnade.job import AddressCluster

__all__ = ["deploy"]

# Seconds of one connection attempt. The client also keeps this value as its timeout for
# reconnecting, which is useless here: a restarted scheduler does not know the run's blocks
_CONNECT = 5.0


@contextmanager
def deploy(settings: AddressCluster) -> Iterator[Deployment]:
    """Connect to the scheduler, and disconnect on exit."""
    with _client(settings) as client:
        yield Deployment(client, settings.address)


def _client(settings: AddressCluster) -> distributed.Client:
    security = _security(settings)
    end = time.monotonic() + settings.timeout
    while True:
        left = end - time.monotonic()
        try:
            return distributed.Client(
                settings.address, timeout=min(_CONNECT, max(left, 0.1)), security=security
            )
        except (TimeoutError, OSError, ValueError) as error:
            if left > _CONNECT and not isinstance(error, ValueError):
                continue
            doubt = (
                "Check that it runs; a scheduler with TLS has the address tls://…."
                if security is None
                else "Check that it runs and accepts the certificates (cluster.tls)."
            )
            raise ClusterError(
                f"no Dask scheduler answers at {settings.address} within {settings.timeout:g} s "
                f"(cluster.address): {str(error).rstrip('.')}. {doubt}"
            ) from error


def _security(settings: AddressCluster) -> distributed.Security | None:
    """Return the certificates for an encrypted address; None for a plain one."""
    if not settings.address.startswith(("tls://", "wss://")):
        return None
    if settings.tls is not None:
        return from_files(settings.tls, "cluster.tls")
    security = distributed.Security(require_encryption=True)
    try:
        found = security.get_connection_args("client")["ssl_context"]
    except OSError as error:
        raise ClusterError(
            "the certificates that Dask's configuration names cannot be read "
            f"(distributed.comm.tls): {error}. Correct its paths, or name files in cluster.tls."
        ) from error
    if found is None:
        raise ClusterError(
            f"{settings.address} asks for certificates: name them in cluster.tls (ca_file, cert, "
            "key), or in Dask's configuration (distributed.comm.tls)."
        )
    return security
