"""Workers on hosts that are reached by ssh; the scheduler runs on one of them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

import dask
import distributed
from dask.utils import parse_timedelta

from colonnade.clusters.base import Deployment, library, refusal
from colonnade.clusters.private_directory import private_directory, temporary_directory
from colonnade.clusters.security import security_in
from colonnade.clusters.ssh_process import Remote
from colonnade.errors import ClusterError, listed, one_line
from colonnade.job import SshCluster

__all__ = ["connection", "deploy", "document"]

# Seconds before workers are restarted on a host: the first delay and the longest
_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
# Concurrent logins on one host: of more than ten, sshd drops some (MaxStartups)
_LOGINS = 5
# Unanswered keepalive messages after which a connection is lost
_SIGNS = 3
# Number of hosts whose messages an error quotes
_TOLD = 3

Answer = TypeVar("Answer")


@contextmanager
def deploy(settings: SshCluster) -> Iterator[Deployment]:
    """Start a scheduler and workers on the hosts, and end them on exit."""
    library("asyncssh", "ssh")
    end = time.monotonic() + settings.timeout
    with private_directory(temporary_directory(), "TMPDIR") as private, _Loop() as loop:
        security = security_in(private, settings)
        hosts = _Hosts(settings, security, loop)
        try:
            address, dashboard = loop.run(hosts.start_scheduler(end))
            with _client(address, settings, security, end) as client:
                loop.run(hosts.start_workers(address, end))
                yield Deployment(client, hosts.name, hosts.replace, hosts.trouble, dashboard)
        finally:
            loop.run(hosts.close())


def _client(
    address: str, settings: SshCluster, security: distributed.Security | None, end: float
) -> distributed.Client:
    left = max(end - time.monotonic(), 0.1)
    try:
        return distributed.Client(address, timeout=left, security=security, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"the scheduler by ssh on {_scheduler_host(settings)} listens at {address}, which does "
            f"not answer within {settings.timeout:g} s (cluster.interface, cluster.timeout): "
            f"{one_line(error).rstrip('.')}. Name an interface that this machine can reach, or "
            "raise the timeout."
        ) from error


def connection(settings: SshCluster) -> dict[str, Any]:
    """Return the options of `asyncssh.connect` for the hosts."""
    # ssh considers a silent connection lost after the same time as Dask
    silence = parse_timedelta(dask.config.get("distributed.comm.timeouts.tcp"))
    options = {
        "port": settings.port,
        "username": settings.username,
        "client_keys": None if settings.client_keys is None else list(settings.client_keys),
        "known_hosts": settings.known_hosts,
        "login_timeout": settings.timeout,
        "keepalive_interval": silence / _SIGNS,
        "keepalive_count_max": _SIGNS,
    }
    return {name: value for name, value in options.items() if value is not None}


def document(
    settings: SshCluster, security: distributed.Security | None, role: str, scheduler: str = ""
) -> dict[str, Any]:
    """Return the configuration of a process on a host, for its standard input: see `ssh_host`.

    Parameters
    ----------
    role
        ``scheduler`` or ``worker``.
    scheduler
        For a worker, the scheduler's address.
    """
    # The host needs no other part of Dask's configuration, which may hold a gateway's password
    config = {
        name: value
        for name in ("distributed", "temporary-directory")
        if (value := dask.config.get(name, None)) is not None
    }
    options: dict[str, Any] = {"interface": settings.interface}
    if role == "scheduler":
        options["dashboard"] = settings.dashboard
    else:
        options |= {
            "scheduler": scheduler,
            "number": settings.workers_per_host,
            "nthreads": settings.threads_per_worker,
            "memory_limit": settings.memory_per_worker,
            "timeout": settings.timeout,
        }
    return {
        "role": role,
        "config": config,
        "tls": _texts(security, role),
        "local_directory": settings.local_directory,
        "options": options,
    }


def _texts(security: distributed.Security | None, role: str) -> dict[str, str | None] | None:
    """Return the certificates as text: the hosts may not have this machine's files."""
    if security is None:
        return None
    tls: dict[str, str | None] = security.get_tls_config_for_role(role)
    in_files = ("ca_file", "cert", "key")
    return {
        name: Path(value).read_text(encoding="ascii")
        if value is not None and name in in_files and "\n" not in value
        else value
        for name, value in tls.items()
    }


def _scheduler_host(settings: SshCluster) -> str:
    return settings.scheduler or settings.hosts[0]


class _Loop:
    """An event loop in its own thread."""

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def run(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        """Run a coroutine and wait for it; an exception that a signal raises cancels it."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def soon(self, call: Callable[[], None]) -> None:
        """Schedule a call in the loop."""
        self._loop.call_soon_threadsafe(call)


class _Hosts:
    """The processes on the hosts."""

    def __init__(
        self, settings: SshCluster, security: distributed.Security | None, loop: _Loop
    ) -> None:
        self.name = listed(dict.fromkeys(settings.hosts))
        self._settings = settings
        self._security = security
        self._loop = loop
        self._logins: dict[str, asyncio.Semaphore] = {}
        self._scheduler: Remote | None = None
        self._workers: list[_Workers] = []

    async def start_scheduler(self, end: float) -> tuple[str, str]:
        """Start the scheduler; return its address, and where its dashboard is."""
        host = _scheduler_host(self._settings)
        scheduler = self._scheduler = self._remote(host, "scheduler")
        with _refusing(host, scheduler, self._settings.timeout):
            async with asyncio.timeout(end - time.monotonic()):
                answer = await scheduler.start()
        dashboard = f"{answer['dashboard']} on {host}" if answer["dashboard"] else ""
        return answer["scheduler"], dashboard

    async def start_workers(self, address: str, end: float) -> None:
        """Start all workers and wait until they run."""
        self._workers = [
            _Workers(host, self._settings.timeout, partial(self._remote, host, "worker", address))
            for host in self._settings.hosts
        ]
        self._start_workers()
        firsts = [workers.first for workers in self._workers]
        done, waiting = await asyncio.wait(
            firsts, timeout=end - time.monotonic(), return_when=asyncio.FIRST_EXCEPTION
        )
        for first in done:
            first.result()
        if waiting:
            each = self._settings.workers_per_host
            raise ClusterError(
                f"{each * len(done)} of {each * len(firsts)} workers of {self.name} came within "
                f"{self._settings.timeout:g} s (cluster.workers_per_host, cluster.timeout)."
                f"{self.trouble()}"
            )

    def _remote(self, host: str, role: str, scheduler: str = "") -> Remote:
        settings = self._settings
        return Remote(
            host,
            connection(settings),
            settings.python,
            document(settings, self._security, role, scheduler),
            self._logins.setdefault(host, asyncio.Semaphore(_LOGINS)),
        )

    def _start_workers(self) -> None:
        for workers in self._workers:
            workers.start()

    def replace(self) -> None:
        """Restart lost workers, except on hosts where a restart was tried a moment ago."""
        self._loop.soon(self._start_workers)

    def trouble(self) -> str:
        """Quote the hosts' messages, hosts without workers first."""
        found = sorted(self._workers, key=lambda workers: workers.running)
        said = [f"{each.host}: {text}" for each in found if (text := each.trouble.rstrip("."))]
        return f" The hosts say: {' | '.join(said[:_TOLD])}." if said else ""

    async def close(self) -> None:
        """End the workers, then the scheduler."""
        await asyncio.gather(*(workers.close() for workers in self._workers))
        if self._scheduler is not None:
            await self._scheduler.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


@contextmanager
def _refusing(host: str, remote: Remote, timeout: float) -> Iterator[None]:
    """Turn any exception from asyncssh, a host or its Python into a ClusterError."""
    what = f"no cluster by ssh on {host} (cluster.hosts)"
    try:
        yield
    except TimeoutError as error:
        said = f"; it reports: {remote.said}" if remote.said else ""
        raise ClusterError(
            f"{what}: {_late(timeout)}{said}. Check the host, or raise the timeout."
        ) from error
    except Exception as error:
        raise refusal(what, error) from error


def _late(timeout: float) -> str:
    return f"it does not start within {timeout:g} s (cluster.timeout)"


class _Workers:
    """The workers of one entry of the hosts; lost workers can be restarted.

    Attributes
    ----------
    first
        Done once the workers run for the first time, or with an exception if they fail to.
    running
        Whether the workers run.
    """

    def __init__(self, host: str, timeout: float, make: Callable[[], Remote]) -> None:
        self.host = host
        self.running = False
        self.first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._timeout = timeout
        self._make = make
        self._remote: Remote | None = None
        self._task: asyncio.Task[None] | None = None
        self._error = ""
        self._pause = _PAUSE
        self._not_before = 0.0

    @property
    def trouble(self) -> str:
        """The known reason why no workers run, in one line."""
        said = "" if self._remote is None else self._remote.said
        return self._error or said

    def start(self) -> None:
        """Start the workers, unless they run, are starting, or have just failed."""
        if self._task is not None and not self._task.done():
            return
        if time.monotonic() >= self._not_before:
            self._task = asyncio.create_task(self._live())

    async def close(self) -> None:
        """End the workers."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    async def _live(self) -> None:
        remote = self._remote = self._make()
        began = time.monotonic()
        try:
            with _refusing(self.host, remote, self._timeout):
                async with asyncio.timeout(self._timeout):
                    await remote.start()
            self.running, self._error, began = True, "", time.monotonic()
            if not self.first.done():
                self.first.set_result(None)
            await remote.ended()
        except ClusterError as error:
            late = isinstance(error.__cause__, TimeoutError)
            self._error = _late(self._timeout) if late else one_line(error.__cause__ or error)
            if not self.first.done():
                self.first.set_exception(error)
        finally:
            self.running = False
            # Workers that ran for long are restarted after the shortest delay
            if time.monotonic() - began > _LONGEST_PAUSE:
                self._pause = _PAUSE
            self._not_before = time.monotonic() + self._pause
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
            await remote.close()
