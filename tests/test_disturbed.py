"""Runs that are stopped, and runs whose workers die."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Client

import colonnade as cn
from colonnade.errors import IncompleteError, UsageError
from colonnade.events import (
    BlockDone,
    BlockFailed,
    ClusterReady,
    NoWorkers,
    Stalled,
    WorkerReplaced,
)
from colonnade.progress import describe
from colonnade.running import retries
from colonnade.storage import Directory
from colonnade.store import Store, lease
from support import N, Q, make_columns
from test_cli import COLONNADE, MANY, colonnade, has_shards, shards, until
from test_run import BLOCKS, bits

# Loaded by workers: blocks that stand still while a file is there, one or all, and such as kill
DISTURB = """
import os, signal, time
from colonnade.running import worker
# Dask may load a file twice
real = getattr(worker.compute_block, "real", worker.compute_block)
def compute_block(address, block):
    folder = os.path.dirname(address.path)
    if os.path.exists(os.path.join(folder, f"kills-{block}")):
        os.kill(os.getpid(), signal.SIGKILL)
    open(os.path.join(folder, f"begun-{block}"), "w").close()
    for name in ("wait", f"wait-{block}"):
        while os.path.exists(os.path.join(folder, name)):
            time.sleep(0.01)
    return real(address, block)
compute_block.real = real
worker.compute_block = compute_block
"""


def wait_for(reached: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 60
    while not (found := reached()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


class Processes:
    """A scheduler and workers without nannies: what dies stays dead."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "scheduler.json"
        (folder / "disturb.py").write_text(DISTURB)
        self.preload = folder / "disturb.py"
        self.scheduler = self._start("scheduler", "--port", "0", "--host", "127.0.0.1")
        wait_for(lambda: self.file.exists() and self.file.read_text().endswith("}"))
        self.address = json.loads(self.file.read_text())["address"]
        self.workers: list[subprocess.Popen[bytes]] = []

    def add_worker(self) -> None:
        self.workers.append(self._worker(threads=1))
        with Client(self.address) as client:
            client.wait_for_workers(sum(worker.poll() is None for worker in self.workers))

    @contextmanager
    def replaced(self, workers: int) -> Iterator[None]:
        """Keep so many workers of two threads: for one that dies comes another."""
        done = threading.Event()

        def replace() -> None:
            while not done.wait(0.05):
                alive = sum(worker.poll() is None for worker in self.workers)
                self.workers += [self._worker(threads=2) for _ in range(workers - alive)]

        replacing = threading.Thread(target=replace)
        replacing.start()
        try:
            yield
        finally:
            done.set()
            replacing.join()

    def _worker(self, threads: int) -> subprocess.Popen[bytes]:
        options = ["--no-nanny", "--nthreads", str(threads), "--preload", str(self.preload)]
        return self._start("worker", *options)

    def _start(self, kind: str, *options: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.dask_{kind}", "--no-dashboard",
             "--scheduler-file", str(self.file), *options],
            stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def kill(self) -> None:
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    started = Processes(tmp_path)
    try:
        yield started
    finally:
        started.kill()


def begun(folder: Path) -> set[int]:
    return {int(path.name.removeprefix("begun-")) for path in folder.glob("begun-*")}


def test_all_workers_have_gone(job, processes: Processes, tmp_path: Path) -> None:
    processes.add_worker()
    events: list[Any] = []

    def listen(event: Any) -> None:
        events.append(event)
        if isinstance(event, ClusterReady):
            processes.workers[0].kill()
            processes.workers[0].wait()

    cluster = {"kind": "address", "address": processes.address, "timeout": 1}
    with pytest.raises(IncompleteError, match=r"all workers have left.* 1 s \(cluster\.timeout\)"):
        cn.run(job() | {"cluster": cluster}, listener=listen)
    assert events[-1] == NoWorkers(1)
    assert not (tmp_path / "out.zarr" / lease.FILE).exists()

    # Where one comes in time, the run goes on as if nothing had been
    processes.add_worker()

    def replace_worker(event: Any) -> None:
        if isinstance(event, ClusterReady):
            processes.workers[-1].kill()
            processes.workers[-1].wait()
        if isinstance(event, NoWorkers):
            processes.add_worker()

    cluster["timeout"] = 60
    assert cn.run(job() | {"cluster": cluster}, listener=replace_worker).state == "complete"


def test_the_batch_of_a_killed_worker_is_computed_by_another(
    job, processes: Processes, tmp_path: Path
) -> None:
    processes.add_worker()
    processes.add_worker()
    (tmp_path / "wait").touch()
    expected = bits(cn.run(job(output={"path": str(tmp_path / "expected.zarr")})).store)

    cluster = {"kind": "address", "address": processes.address, "workers": 2}
    (tmp_path / "job.json").write_text(json.dumps(job() | {"cluster": cluster}))
    run = subprocess.Popen([*COLONNADE, "run", str(tmp_path / "job.json")])
    wait_for(lambda: len(begun(tmp_path)) == 2)
    processes.workers[0].kill()
    (tmp_path / "wait").unlink()
    assert run.wait(timeout=120) == 0
    assert bits(tmp_path / "out.zarr") == expected


def test_a_worker_that_hangs_is_named(
    job, processes: Processes, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(retries, "_PATIENCE", 0.3)
    processes.add_worker()
    (tmp_path / "wait").touch()
    stalled: list[Stalled] = []

    def listen(event: Any) -> None:
        if isinstance(event, Stalled):
            stalled.append(event)
            # Told once more, and later
            if len(stalled) == 2:
                (tmp_path / "wait").unlink()

    cluster = {"kind": "address", "address": processes.address, "stall_timeout": 600}
    assert cn.run(job() | {"cluster": cluster}, listener=listen).state == "complete"
    with Client(processes.address) as client:
        (worker,) = client.scheduler_info()["workers"]
    assert [event.workers for event in stalled] == [(worker,)] * 2
    assert 0.3 <= stalled[0].seconds <= stalled[1].seconds / 2
    assert f"; {worker} has blocks to compute; a worker that hangs is" in describe(stalled[0])


def test_a_worker_that_hangs_loses_its_blocks(
    job, processes: Processes, tmp_path: Path, monkeypatch, local_bits
) -> None:
    """It has no nanny: it is asked to end, and where another one comes the run goes on."""
    monkeypatch.setattr(retries, "_PATIENCE", 3.0)
    processes.add_worker()
    with Client(processes.address) as client:
        (worker,) = client.scheduler_info()["workers"]
    (tmp_path / "wait").touch()
    replaced: list[WorkerReplaced] = []

    def listen(event: Any) -> None:
        if isinstance(event, WorkerReplaced):
            replaced.append(event)
            processes.add_worker()
            (tmp_path / "wait").unlink()

    cluster = {"kind": "address", "address": processes.address}
    finished = cn.run(job() | {"cluster": cluster}, listener=listen)
    assert (finished.state, finished.blocks_failed) == ("complete", 0)
    (event,) = replaced
    assert event.worker == worker
    assert event.seconds >= 3
    wait_for(lambda: processes.workers[0].poll() is not None)
    assert bits(tmp_path / "out.zarr") == local_bits


def test_a_calibration_whose_scheduler_is_lost(job, processes: Processes, tmp_path: Path) -> None:
    processes.add_worker()
    (tmp_path / "wait").touch()
    document = job() | {"cluster": {"kind": "address", "address": processes.address}}

    def end() -> None:
        wait_for(lambda: begun(tmp_path))
        processes.scheduler.kill()

    ending = threading.Thread(target=end)
    ending.start()
    before = {path.name for path in tmp_path.iterdir()}
    with pytest.raises(UsageError, match="the calibration has failed: the scheduler is lost"):
        cn.plan(document, calibrate=True)
    ending.join()
    after = {path.name for path in tmp_path.iterdir()}
    assert {name for name in after - before if not name.startswith("begun-")} == set()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_block_that_kills_its_workers_fails_alone(
    job, processes: Processes, tmp_path: Path, workers: int
) -> None:
    """Even where all blocks are neighbours of it, in its batch or its worker."""
    (tmp_path / "kills-3").touch()
    events: list[Any] = []
    cluster = {"kind": "address", "address": processes.address, "workers": workers}
    document = job() | {"cluster": cluster}
    with processes.replaced(workers):
        with pytest.raises(IncompleteError, match=r"block 3 \(columns 39 to 51\) failed: 4 work"):
            cn.run(document, listener=events.append)
        done = {event.block for event in events if isinstance(event, BlockDone)}
        assert done == set(range(BLOCKS)) - {3}
        assert [event.block for event in events if isinstance(event, BlockFailed)] == [3]
        (tmp_path / "kills-3").unlink()
        assert cn.run(document).blocks_computed == 1


def test_a_signal_lets_blocks_in_flight_finish(job, processes: Processes, tmp_path: Path) -> None:
    """Those that have begun are saved, and no other begins, in the same batch or in the queue."""
    np.save(tmp_path / "X.npy", make_columns(p=MANY))
    processes.add_worker()
    processes.add_worker()
    (tmp_path / "wait").touch()
    cluster = {"kind": "address", "address": processes.address, "workers": 2, "grace": 300}
    document = job(output={"block_size": Q * N * 4}) | {"cluster": cluster}
    (tmp_path / "job.json").write_text(json.dumps(document))
    run = subprocess.Popen(
        [*COLONNADE, "run", str(tmp_path / "job.json")], stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: len(begun(tmp_path)) == 2)
    run.send_signal(signal.SIGTERM)
    wait_for(lambda: getattr(lease.holder(Directory(tmp_path / "out.zarr")), "stopping", False))
    (tmp_path / "wait").unlink()
    _, told = run.communicate(timeout=120)
    assert run.returncode == 143, told
    assert "SIGTERM: blocks in flight have 300 s to finish" in told
    last = told.splitlines()[-1]
    assert last.startswith(f"colonnade: stopped by SIGTERM: 2 of {MANY} blocks are saved"), told
    assert len(begun(tmp_path)) == 2
    assert Store.open(tmp_path / "out.zarr").done() == begun(tmp_path)
    assert colonnade("run", tmp_path / "job.json").returncode == 0


@pytest.mark.parametrize("again", [True, False], ids=["a second signal", "the grace is over"])
def test_a_run_does_not_wait_for_ever(
    job, processes: Processes, tmp_path: Path, again: bool
) -> None:
    """What is in flight then is lost, and its worker must not write it later."""
    processes.add_worker()
    (tmp_path / "wait").touch()
    cluster = {"kind": "address", "address": processes.address, "grace": 300 if again else 0.5}
    (tmp_path / "job.json").write_text(json.dumps(job() | {"cluster": cluster}))
    run = subprocess.Popen(
        [*COLONNADE, "run", str(tmp_path / "job.json")], stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: begun(tmp_path))
    run.send_signal(signal.SIGINT)
    if again:
        wait_for(lambda: getattr(lease.holder(Directory(tmp_path / "out.zarr")), "stopping", False))
        run.send_signal(signal.SIGINT)
    _, told = run.communicate(timeout=120)
    assert run.returncode == 130, told
    assert "Traceback" not in told
    assert "stopped by SIGINT" in told.splitlines()[-1]
    (tmp_path / "wait").unlink()
    assert lease.holder(Directory(tmp_path / "out.zarr")) is None
    assert Store.open(tmp_path / "out.zarr").done() == set()
    assert colonnade("run", tmp_path / "job.json").returncode == 0


def test_a_signal_to_the_whole_group(job_file, tmp_path: Path) -> None:
    """As from a terminal that closes, or from systemd: local workers leave it to the run."""
    np.save(tmp_path / "X.npy", make_columns(p=MANY))
    job = job_file(output={"block_size": Q * N * 4})
    run = subprocess.Popen(
        [*COLONNADE, "run", str(job)], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    until(has_shards(tmp_path, 5), run)
    os.killpg(run.pid, signal.SIGHUP)
    _, told = run.communicate(timeout=120)
    assert run.returncode == 129, told
    assert f"{len(shards(tmp_path))} of {MANY} blocks are saved" in told
