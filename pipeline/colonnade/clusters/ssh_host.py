"""The process on a host of an ssh cluster: a scheduler, or workers.

The process reads its whole configuration from standard input, as a JSON document in one line:
nothing of the document is on a command line, in the environment or in a file. The input stays open
while the run lives; when the input ends, the process ends. On standard output the process answers
in lines that begin with `MARK`, because a login shell may print there, too.
"""

from __future__ import annotations

import asyncio
import io
import json
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import dask
import distributed
from distributed.config import initialize_logging
from distributed.utils import format_dashboard_link

from colonnade.clusters import http_servers
from colonnade.clusters.private_directory import private_directory, temporary_directory

__all__ = ["MARK", "main"]

MARK = "colonnade: "
# Seconds between two heartbeats. Sending them lets the host's sshd notice a lost connection
_BEAT = 5
# Seconds for servers to close before they are killed
_GRACE = 7
# Seconds before a worker is restarted: the first delay and the longest
_PAUSE, _LONGEST_PAUSE = 1.0, 60.0

Say = Callable[..., None]


def main() -> None:
    """Run a scheduler, or workers, as the document on standard input says, until the input ends."""
    orders, answers = _own_streams()
    saying = threading.Lock()

    def say(**answer: Any) -> None:
        line = f"{MARK}{json.dumps(answer)}\n" if answer else "\n"
        # If nobody reads the output any more, the input ends as well
        with saying, suppress(OSError):
            os.write(answers, line.encode())

    try:
        document = json.loads(orders.readline())
        _configure(document["config"])
        with _scratch(document["local_directory"]) as scratch:
            _settle(scratch)
            asyncio.run(_serve(document, scratch, say, orders))
    except Exception as error:  # noqa: BLE001 (the other end reports it)
        say(error=f"{type(error).__name__}: {error}")
        sys.exit(1)


def _own_streams() -> tuple[io.FileIO, int]:
    """Reserve the ssh channel's input and output, so that no print or child process uses them.

    Returns
    -------
    The input, and the file descriptor of the output.
    """
    orders, answers = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    # Unbuffered: a thread that waits in a buffered reader disturbs the interpreter's shutdown
    return io.FileIO(orders), answers


def _configure(config: dict[str, Any]) -> None:
    """Apply the client's Dask configuration; the host's own environment has priority."""
    dask.config.update(dask.config.global_config, config)
    dask.config.update(dask.config.global_config, dask.config.collect_env())
    initialize_logging(dask.config.global_config)


def _scratch(parent: str | None) -> AbstractContextManager[Path]:
    if parent is None:
        return private_directory(temporary_directory(), "TMPDIR")
    return private_directory(parent, "cluster.local_directory")


def _settle(scratch: Path) -> None:
    """Put all temporary files of this process and its workers into its private directory.

    Dask puts its scratch directory first on `sys.path`, for a scheduler as well.
    """
    dask.config.set({"temporary-directory": str(scratch)})
    os.environ["TMPDIR"] = tempfile.tempdir = str(scratch)


async def _serve(document: dict[str, Any], scratch: Path, say: Say, orders: io.FileIO) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(signum, stop.set)

    def end() -> None:
        while orders.read(1):
            pass
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(stop.set)
        time.sleep(_GRACE)
        for child in multiprocessing.active_children():
            child.kill()
        shutil.rmtree(scratch, ignore_errors=True)
        os._exit(1)

    def beat() -> None:
        while True:
            say()
            time.sleep(_BEAT)

    for each in (end, beat):
        threading.Thread(target=each, daemon=True).start()
    be = _be_scheduler if document["role"] == "scheduler" else _be_workers
    serving = asyncio.ensure_future(be(document["options"], _security(document["tls"]), say))
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
    if serving.done():
        serving.result()
    # Whether the servers run or are still starting
    serving.cancel()
    await asyncio.wait((serving,), timeout=_GRACE)
    for child in multiprocessing.active_children():
        child.kill()


async def _be_scheduler(
    options: dict[str, Any], security: distributed.Security | None, say: Say
) -> None:
    """Run a scheduler until it ends, and close it if cancelled."""
    kind, http = http_servers.scheduler(dashboard=options["dashboard"])
    scheduler = kind(
        port=0,
        interface=options["interface"],
        protocol="tcp" if security is None else "tls",
        security=security,
        **http,
    )
    async with scheduler:
        pages = scheduler.services.get("dashboard")
        link = "" if pages is None else format_dashboard_link("127.0.0.1", pages.port)
        say(scheduler=scheduler.address, dashboard=link)
        await scheduler.finished()


async def _be_workers(
    options: dict[str, Any], security: distributed.Security | None, say: Say
) -> None:
    """Run workers until all of them have ended, and close them if cancelled."""

    def make() -> distributed.Nanny:
        return distributed.Nanny(
            options["scheduler"],
            nthreads=options["nthreads"],
            memory_limit=options["memory_limit"],
            interface=options["interface"],
            death_timeout=options["timeout"],
            worker_class=http_servers.ClosedWorker,
            security=security,
        )

    nannies = [make() for _ in range(options["number"])]
    running = set(range(len(nannies)))
    none_left = asyncio.Event()

    async def keep(i: int) -> None:
        pause = _PAUSE
        while True:
            await nannies[i].finished()
            running.discard(i)
            if not running:
                none_left.set()
            while i not in running:
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                nannies[i] = make()
                # Dask has logged the cause
                with suppress(Exception):
                    await nannies[i]
                    running.add(i)

    keeping: list[asyncio.Task[None]] = []
    try:
        await asyncio.gather(*nannies)
        say(workers=len(nannies))
        keeping += [asyncio.create_task(keep(i)) for i in running]
        await none_left.wait()
    finally:
        for task in keeping:
            task.cancel()
        await asyncio.gather(*(nanny.close() for nanny in nannies), return_exceptions=True)


def _security(tls: dict[str, str | None] | None) -> distributed.Security | None:
    """Return Dask's security object for certificates given as text."""
    if tls is None:
        return None
    kinds = {kind: tls[kind] for kind in ("cert", "key")}
    roles = ("client", "scheduler", "worker")
    named = {f"tls_{role}_{kind}": text for role in roles for kind, text in kinds.items()}
    return _Security(  # type: ignore[no-untyped-call]
        require_encryption=True, tls_ca_file=tls["ca_file"], tls_ciphers=tls["ciphers"], **named
    )


class _Security(distributed.Security):
    """Certificates in memory; OpenSSL reads them from private files that exist for a moment."""

    def _get_tls_context(self, tls: Any, purpose: Any) -> Any:
        before = os.umask(0o077)
        try:
            return super()._get_tls_context(tls, purpose)  # type: ignore[no-untyped-call]
        finally:
            os.umask(before)
