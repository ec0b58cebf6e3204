"""A job to disturb: start it, watch how far it is, read what it has written, finish it."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import psutil
import yaml
import zarr
from zarr.codecs import Crc32cCodec

import colonnade as cn
from faults.cluster import ENVIRONMENT, Cluster, workers_of
from faults.waiting import until
from support import SURVIVED, TRIED, N, Q, make_columns, make_network, save_network

# 131 blocks, the last of them partial, of three chunks each: a second for two workers.
# Most of that is spent on the norms, m² operations a column, so that what is stored is small
P, M, COLUMNS = 27_409, 401, 210
BLOCKS = -(-P // COLUMNS)
# Chunks of X end within blocks
X_CHUNK = 997
DONE, WRONG, INCOMPLETE = 0, 2, 3
STOPPED = {128 + signum for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}

Arrays = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Disk:
    """A small disk in a namespace of its own."""

    # The beginning of commands that find it at `inside`; here it is at `outside`
    prefix: list[str]
    inside: Path
    outside: Path


@dataclass(frozen=True)
class Truth:
    """The job's files in a folder, and the arrays and files of an undisturbed run."""

    folder: Path
    arrays: Arrays
    files: dict[str, bytes]

    def job(self, folder: Path, cluster: dict[str, Any]) -> dict[str, Any]:
        return {
            "network": {"weights": str(self.folder / "network.npz"), "activation": "tanh"},
            "input": {"path": str(folder / "X.zarr")},
            "output": {
                "path": str(folder / "out.zarr"),
                "block_size": COLUMNS * Q * N * 4,
                "chunk_size": COLUMNS // 3 * Q * N * 4,
                "products": ["jacobian", "value", "norm", "mean"],
            },
            "cluster": cluster,
        }


def make_x(folder: Path) -> None:
    array = zarr.create_array(
        folder / "X.zarr",
        shape=(N, P),
        chunks=(N, X_CHUNK),
        dtype="f4",
        compressors=[Crc32cCodec()],
    )
    array[:] = make_columns(p=P)


def make_truth(folder: Path) -> Truth:
    save_network(folder / "network.npz", make_network(m=M))
    make_x(folder)
    truth = Truth(folder, {}, {})
    store = Path(cn.run(truth.job(folder, {"kind": "local", "workers": 2})).store)
    group = zarr.open_group(store, mode="r", use_consolidated=False)
    return Truth(folder, {name: array[...] for name, array in group.arrays()}, contents(store))


def contents(store: Path) -> dict[str, bytes]:
    """Every file of a store but the group's attributes, which tell of times and ids."""
    files = (file for file in store.rglob("*") if file.is_file() and file != store / "zarr.json")
    return {str(file.relative_to(store)): file.read_bytes() for file in files}


class Driver:
    """A process of `colonnade run`, and what it says."""

    def __init__(self, command: list[str], folder: Path, number: int) -> None:
        self._told = folder / f"stderr-{number}"
        environment = {**os.environ, **ENVIRONMENT, "DASK_TEMPORARY_DIRECTORY": str(folder)}
        with self._told.open("w") as stderr:
            self.process = subprocess.Popen(
                command, stdout=stderr, stderr=stderr, env=environment, cwd=folder
            )
        self._workers: list[psutil.Process] = []
        self._sent: list[int] = []

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    @property
    def told(self) -> str:
        return self._told.read_text()

    @property
    def workers(self) -> list[psutil.Process]:
        """Workers of the driver's own cluster."""
        return workers_of(self.process.pid)

    def send(self, signum: int) -> None:
        self._workers += self.workers
        self._sent.append(signum)
        self.process.send_signal(signum)

    def ended(self, *allowed: int) -> int:
        """Wait for its end, and check that it ended as a user is promised."""
        status = self.process.wait(timeout=120)
        if -status in self._sent and status != -signal.SIGKILL:
            # Before it can answer a signal, or once it has, it dies of it; a shell says the same
            status = 128 - status
        told = self.told
        assert status in allowed, f"exit status {status}, not one of {allowed}:\n{told}"
        assert "Traceback" not in told, told
        if told and status not in (DONE, -signal.SIGKILL):
            last = told.rstrip().splitlines()[-1]
            assert last.startswith("colonnade: "), told
            assert "defect" not in told, told
        # No process that it started outlives it for long
        until(lambda: not any(w.is_running() for w in self._workers), "its workers end")
        return status


class Lab:
    """One job, disturbed in ways that a seed draws, on a cluster that is kept or its own."""

    def __init__(
        self,
        folder: Path,
        truth: Truth,
        seed: int,
        cluster: Cluster | None = None,
        disk: Disk | None = None,
    ) -> None:
        self.folder, self.truth, self.cluster = folder, truth, cluster
        self.random = random.Random(seed)  # noqa: S311
        self.seed = seed
        self.tried: Counter[str] = Counter()
        self.drivers: list[Driver] = []
        self.store = (disk.outside if disk else folder) / "out.zarr"
        self.x = folder / "X.zarr"
        if not self.x.exists():
            make_x(folder)
        kind: dict[str, Any] = {"kind": "local", "workers": 2}
        if cluster is not None:
            kind = {"kind": "address", "address": cluster.address, "workers": 1, "timeout": 60}
        self.job = truth.job(folder, kind)
        if disk is not None:
            self.job["output"]["path"] = str(disk.inside / "out.zarr")
        (folder / "job.yaml").write_text(yaml.safe_dump(self.job))

    def __enter__(self) -> Lab:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for driver in self.drivers:
            if driver.running:
                driver.process.send_signal(signal.SIGCONT)
                driver.process.kill()
                driver.process.wait()
        TRIED.update(self.tried)
        if kind is None:
            SURVIVED.update(self.tried)
        elif kind is not None and not issubclass(kind, BaseExceptionGroup):
            told = "\n".join(driver.told for driver in self.drivers[-2:])
            error and error.add_note(f"seed {self.seed}; the last drivers said:\n{told}")

    def start(self, *options: str) -> Driver:
        """Start `colonnade run`, which is always the same command but for the options."""
        prefix = [] if self.cluster is None else self.cluster.prefix
        command = [
            *prefix,
            sys.executable,
            "-m",
            "colonnade",
            "run",
            str(self.folder / "job.yaml"),
            *options,
        ]
        self.drivers.append(Driver(command, self.folder, len(self.drivers)))
        return self.drivers[-1]

    def fault(self, kind: str, count: int = 1) -> None:
        """Count a fault that has been done."""
        self.tried[kind] += count

    @property
    def done(self) -> int:
        """Blocks whose last shard is there."""
        try:
            with os.scandir(self.store / "jacobian") as entries:
                return sum(entry.name.count(".") == 3 for entry in entries)
        except FileNotFoundError:
            return 0

    def reached(self, blocks: int, driver: Driver) -> bool:
        """Wait until so many blocks are done; False where the driver ended before."""
        until(lambda: self.done >= blocks or not driver.running, f"{blocks} blocks are done")
        return driver.running

    def some_moment(self, driver: Driver, most: int = BLOCKS, least: int = 0) -> bool:
        """Wait for a moment that the seed draws, by the blocks done and then within a block.

        Of those that were missing, `least` to `most` are done then; False where the driver ended.
        """
        target = self.done + self.random.randint(least, most)
        # A block lasts some 20 ms
        pause = self.random.random() * 0.03
        running = self.reached(target, driver)
        if running:
            with suppress(subprocess.TimeoutExpired):
                driver.process.wait(timeout=pause)
        return driver.running

    def look(self) -> str | None:
        """Read the store as anyone may at any time: what is there is right, the rest is NaN.

        Returns its state; None where there is no store yet.
        """
        try:
            document = json.loads((self.store / "zarr.json").read_bytes())
        except FileNotFoundError:
            return None
        state: str = document["attributes"]["colonnade"]["state"]
        group = zarr.open_group(self.store, mode="r", use_consolidated=False)
        for name, right in self.truth.arrays.items():
            array = group[name]
            assert isinstance(array, zarr.Array)
            found = np.asarray(array[...])
            assert (found.dtype, found.shape) == (right.dtype, right.shape)
            same = equal_rows(found, right)
            missing = np.isnan(found).reshape(len(found), -1).all(axis=1)
            wrong = np.flatnonzero(~(same | missing))
            assert not len(wrong), f"{name}: rows {wrong[:5]} of {len(wrong)} are wrong"
            assert same.all() or state == "writing", f"{name}: {state} while rows are missing"
        return state

    def finish(self, *options: str) -> None:
        """Once the faults are over: the same command finishes, and all is as if nothing was."""
        self.start(*options).ended(DONE)
        self.check()

    def check(self) -> None:
        """Compare a finished store bit by bit with the undisturbed one; nothing else is left."""
        assert self.look() == "complete"
        found = contents(self.store)
        assert found.keys() == self.truth.files.keys()
        different = [name for name, data in self.truth.files.items() if found[name] != data]
        assert not different
        left = {
            path.name for folder in (self.folder, self.store.parent) for path in folder.iterdir()
        }
        ours = {"out.zarr", "X.zarr", "job.yaml", "dask-scratch-space"}
        assert {name for name in left if not name.startswith("stderr-")} <= ours, left


def equal_rows(found: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Which rows have the same bits."""
    one, other = (
        np.ascontiguousarray(array).view(f"u{array.itemsize}") for array in (found, right)
    )
    same: np.ndarray[Any, Any] = (one == other).reshape(len(one), -1).all(axis=1)
    return same
