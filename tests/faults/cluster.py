"""A Dask cluster of real processes that comes back whatever is killed of it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from socket import socket
from types import TracebackType
from typing import Any

import psutil
from distributed import Client

from faults.waiting import until

# How soon a client and workers give a dead scheduler up; Dask's own are for large networks
ENVIRONMENT = {
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "3s",
    "PYTHONUNBUFFERED": "1",
}


def workers_of(parent: int) -> list[psutil.Process]:
    """The workers that a nanny, or a driver with a cluster of its own, has started."""
    with suppress(psutil.NoSuchProcess):
        return [child for child in psutil.Process(parent).children() if _is_worker(child)]
    return []


def _is_worker(process: psutil.Process) -> bool:
    """Whether it is a worker that has started: a nanny gives one up that dies before."""
    with suppress(psutil.NoSuchProcess):
        if any("spawn_main" in word for word in process.cmdline()):
            return any(c.status == psutil.CONN_LISTEN for c in process.net_connections("tcp"))
    return False


class Cluster:
    """A scheduler and two nannies; a thread starts what has died again, as a service would.

    Parameters
    ----------
    folder
        For logs and scratch.
    prefix
        The beginning of each command.
    """

    def __init__(self, folder: Path, prefix: list[str] | None = None, memory: str = "0") -> None:
        with socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{port}"
        self.folder = folder
        self.prefix = prefix or []
        worker = ["worker", self.address, "--nthreads", "1", "--no-dashboard",
                  "--memory-limit", memory, "--local-directory", str(folder)]  # fmt: skip
        self._commands = {
            "scheduler": [
                "scheduler",
                "--host",
                "127.0.0.1",
                "--port",
                str(port),
                "--no-dashboard",
            ],
            "nanny 0": worker,
            "nanny 1": worker,
        }
        self._processes: dict[str, subprocess.Popen[Any]] = {}
        self._closing = threading.Event()
        self._keeper = threading.Thread(target=self._keep, daemon=True)

    def __enter__(self) -> Cluster:
        self._keeper.start()
        try:
            self.heal()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._closing.set()
        self._keeper.join()
        workers = [worker for nanny in self.nannies for worker in workers_of(nanny.pid)]
        for process in [*self._processes.values(), *workers]:
            process.kill()
        for process in self._processes.values():
            process.wait()

    @property
    def scheduler(self) -> psutil.Process:
        return psutil.Process(self._processes["scheduler"].pid)

    @property
    def nannies(self) -> list[psutil.Process]:
        found = []
        for name, process in list(self._processes.items()):
            with suppress(psutil.NoSuchProcess):
                if name != "scheduler" and process.poll() is None:
                    found.append(psutil.Process(process.pid))
        return found

    @property
    def workers(self) -> list[psutil.Process]:
        return [worker for nanny in self.nannies for worker in workers_of(nanny.pid)]

    def heal(self) -> None:
        """Wait until the scheduler has both of its workers, each with a nanny."""
        until(lambda: self._processes.get("scheduler") is not None, "a scheduler is started")
        until(lambda: len(self.workers) == 2, "two workers run")
        with Client(self.address, timeout=60) as client:
            until(lambda: self._known(client), "the scheduler has exactly the two workers")

    def _known(self, client: Client) -> bool:
        workers = client.scheduler_info(n_workers=-1)["workers"]
        return len(workers) == 2 and all(w["status"] == "running" for w in workers.values())

    def _keep(self) -> None:
        environment = {**os.environ, **ENVIRONMENT}
        while not self._closing.wait(0.02):
            for name, command in self._commands.items():
                process = self._processes.get(name)
                if process is None or process.poll() is not None:
                    module = f"distributed.cli.dask_{command[0]}"
                    with (self.folder / f"{name}.log").open("a") as log:
                        self._processes[name] = subprocess.Popen(
                            [*self.prefix, sys.executable, "-m", module, *command[1:]],
                            stdout=log, stderr=log, env=environment,
                        )  # fmt: skip
