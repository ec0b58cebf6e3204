"""Workers that are stopped, stuck or dead, at the start, in the middle and at the end of a run."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import colonnade as cn
from colonnade.clusters.stuck import Occupation, Tracker
from colonnade.events import WorkerReplaced
from colonnade.progress import describe
from support import N, Q, bits, make_columns
from test_cli import COLONNADE, has_shards

# Processes start and are given up one after the other, and the machine may be busy with much else
pytestmark = pytest.mark.timeout(900)

# Loaded before all, in each worker's process of a local cluster: it notes its number, and, but for
# as many as are to start, does to itself what a file says
AT_THE_START = """
import os, sys
from pathlib import Path
if any("spawn_main" in word for word in sys.orig_argv):
    folder = Path(os.environ["PROCESSES"])
    number = 0
    while True:
        try:
            folder.with_name(f"slot-{number}").touch(exist_ok=False)
            break
        except FileExistsError:
            number += 1
    (folder / str(os.getpid())).touch()
    if number >= int(os.environ["START"]):
        os.kill(os.getpid(), int(os.environ["DO"]))
"""


def wait_for(reached: Callable[[], Any]) -> None:
    """Wait until something is so, also on a machine that is busy with much else."""
    deadline = time.monotonic() + 240
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Run:
    """A process of `colonnade run`, and the processes that it starts."""

    def __init__(self, job: Path, folder: Path, environment: dict[str, str]) -> None:
        self.processes = folder / "processes"
        self.processes.mkdir()
        (folder / "sitecustomize.py").write_text(AT_THE_START)
        path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._told = folder / "stderr"
        with self._told.open("w") as stderr:
            self.process = subprocess.Popen(
                [*COLONNADE, "run", str(job), "--log", "json"], stderr=stderr,
                env={**os.environ, "PYTHONPATH": path, "PROCESSES": str(self.processes),
                     "START": "1000", "DO": "0", **environment},
            )  # fmt: skip

    @property
    def workers(self) -> list[int]:
        return [int(path.name) for path in self.processes.iterdir()]

    @property
    def lines(self) -> list[dict[str, Any]]:
        text = self._told.read_text()
        assert "Traceback" not in text, text
        lines = text.splitlines(keepends=True)
        return [
            json.loads(line) for line in lines if line.startswith('{"time": ') and line[-1] == "\n"
        ]

    def alive(self) -> list[int]:
        return [pid for pid in self.workers if _alive(pid)]

    def ended(self) -> tuple[int, list[dict[str, Any]]]:
        """Wait for its end: its status, and what it has told."""
        self.process.wait(timeout=500)
        # No process is left, not even a stopped one
        wait_for(lambda: not self.alive())
        return self.process.returncode, self.lines

    def kill(self) -> None:
        for pid in [*self.workers, self.process.pid]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


def _alive(pid: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def state(pid: int) -> str:
    with suppress(psutil.NoSuchProcess):
        return str(psutil.Process(pid).status())
    return "gone"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    runs: list[Run] = []

    def started(job: Path, **environment: str) -> Run:
        runs.append(Run(job, tmp_path, environment))
        return runs[-1]

    yield started
    for run in runs:
        run.kill()


@pytest.mark.parametrize("workers", ["0", "1"], ids=["no worker starts", "one starts"])
@pytest.mark.parametrize(
    ("do", "said"),
    [
        (signal.SIGSTOP, r"of 2 workers of this machine came within 5 s \(cluster\.workers, clus"),
        (signal.SIGKILL, "of 2 workers of this machine came: a worker process has ended while it"),
    ],
    ids=["stopped", "dead"],
)
def test_workers_that_do_not_start(job_file, start, tmp_path, workers, do, said) -> None:
    job = job_file(cluster={"timeout": 5 if do == signal.SIGSTOP else 120})
    run = start(job, START=workers, DO=str(int(do)))
    status, lines = run.ended()
    assert status == 2, lines
    assert lines[-1]["error"] == "ClusterError"
    assert re.search(said, lines[-1]["message"])
    if do == signal.SIGSTOP:
        assert "not come up: see whether it is stopped (kill -CONT)" in lines[-1]["message"]
    assert len(run.workers) == 2
    assert not (tmp_path / "out.zarr").exists()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_workers_start(job_file, start, tmp_path, signum: int) -> None:
    run = start(job_file(cluster={"timeout": 600}), START="0", DO=str(int(signal.SIGSTOP)))
    wait_for(lambda: [state(pid) for pid in run.workers] == [psutil.STATUS_STOPPED] * 2)
    run.process.send_signal(signum)
    status, lines = run.ended()
    assert status == 128 + signum
    assert f"stopped by {signal.Signals(signum).name}" in lines[-1]["message"]
    assert not (tmp_path / "out.zarr").exists()


def test_a_second_signal_while_a_cluster_closes(job_file, start) -> None:
    """One worker has started, is stopped then, and would have some seconds to end by itself."""
    run = start(job_file(cluster={"timeout": 600}), START="1", DO=str(int(signal.SIGSTOP)))
    wait_for(lambda: len(run.workers) == 2 and any(state(p) == "stopped" for p in run.workers))
    (first,) = [pid for pid in run.workers if state(pid) != "stopped"]
    # The scheduler knows it
    wait_for(lambda: [line.get("missing") for line in run.lines[-1:]] == [1])
    os.kill(first, signal.SIGSTOP)
    run.process.send_signal(signal.SIGTERM)
    # What has not started is killed at once
    wait_for(lambda: len(run.alive()) < 2)
    run.process.send_signal(signal.SIGTERM)
    status, lines = run.ended()
    assert (status, lines[-1]["exit_status"]) == (143, 143)


# An activation whose blocks stand still in a worker: in the one that finds a file `stick`, once,
# and in each that has a column beyond all measure
STICKING = """
import sys, time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
import numpy as np
WORKER = any("spawn_main" in word or "dask_worker" in word for word in sys.orig_argv)
def value(Z):
    return np.tanh(Z)
def slope(Z):
    sticks = bool(np.any(abs(Z) > 1e5))
    if WORKER:
        with suppress(FileNotFoundError):
            Path(__file__).with_name("stick").unlink()
            sticks = True
    while sticks and not Path(__file__).with_name("never").exists():
        time.sleep(0.05)
    return 1 - np.tanh(Z) ** 2
sigma = SimpleNamespace(value=value, slope=slope)
"""
STALL = 8


@pytest.fixture
def sticking(job, tmp_path: Path) -> Callable[..., Path]:
    """A job with that activation, many blocks, and little patience."""
    (tmp_path / "sticking.py").write_text(STICKING)

    def make(name: str = "out", **cluster: Any) -> Path:
        document = job(
            network={"activation": "sticking:sigma"},
            output={"path": str(tmp_path / f"{name}.zarr"), "block_size": 2 * Q * N * 4},
            cluster={"stall_timeout": STALL, "timeout": 120} | cluster,
        )
        (tmp_path / "job.yaml").write_text(json.dumps(document))
        return tmp_path / "job.yaml"

    return make


@pytest.fixture
def expected(sticking, tmp_path: Path, monkeypatch) -> dict[str, bytes]:
    """What an undisturbed run stores."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    return bits(cn.run(sticking("expected")).store)


def replaced(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line for line in lines if line["event"] == "worker_replaced"]


def test_a_thread_that_never_returns(start, sticking, expected, tmp_path: Path) -> None:
    """Its worker is alive to the scheduler, and is replaced."""
    (tmp_path / "stick").touch()
    run = start(sticking(workers=1))
    status, lines = run.ended()
    assert status == 0, lines
    (event,) = replaced(lines)
    assert "it has computed for" in event["cause"]
    assert event["worker"].startswith(("tcp://127.0.0.1:", "tls://127.0.0.1:"))
    assert event["blocks"]
    assert event["seconds"] >= STALL
    assert lines[-1]["blocks_failed"] == 0
    assert len(run.workers) == 2
    assert bits(tmp_path / "out.zarr") == expected


def test_a_worker_that_is_stopped(start, sticking, expected, tmp_path: Path) -> None:
    """As by a debugger, or a machine that swaps: it says nothing, and its connection stands."""
    (tmp_path / "stick").touch()
    run = start(sticking(workers=2))
    # One is stuck, so that the run is not over before the other one is stopped
    wait_for(has_shards(tmp_path, 1))
    for pid in run.workers:
        os.kill(pid, signal.SIGSTOP)
    status, lines = run.ended()
    assert status == 0, lines
    assert len(replaced(lines)) >= 1
    assert lines[-1]["blocks_failed"] == 0
    assert bits(tmp_path / "out.zarr") == expected


def test_a_block_that_sticks_every_worker(start, sticking, tmp_path: Path) -> None:
    """It fails, the others are computed, and once the cause is gone so is it."""
    X = make_columns()
    X[:, 37] *= 1e7
    np.save(tmp_path / "X.npy", X)
    run = start(sticking())
    status, lines = run.ended()
    assert status == 3, lines
    (failed,) = [line for line in lines if line["event"] == "block_failed"]
    assert (failed["start"], failed["stop"]) == (36, 38)
    assert "workers were stuck at its task" in failed["cause"]
    assert "cluster.stall_timeout" in failed["cause"]
    assert len([line for line in lines if line["event"] == "block_done"]) == 50
    (tmp_path / "never").touch()
    again = subprocess.run(
        [*COLONNADE, "run", str(tmp_path / "job.yaml")], capture_output=True, text=True,
        check=False, env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    assert "1 of 51 blocks computed in this run" in again.stdout


def test_a_stopped_worker_does_not_hold_the_end(start, sticking, tmp_path: Path) -> None:
    """A signal, and its grace is over: the cluster is closed all the same."""
    (tmp_path / "stick").touch()
    run = start(sticking(workers=1, grace=1, stall_timeout=600))
    wait_for(lambda: not (tmp_path / "stick").exists())
    os.kill(run.workers[0], signal.SIGSTOP)
    run.process.send_signal(signal.SIGTERM)
    status, lines = run.ended()
    assert (status, lines[-1]["event"]) == (143, "error")


@pytest.mark.parametrize("step", [1.0, 7.0])
def test_how_long_a_worker_has_been_at_a_task(step: float) -> None:
    tracker, beats = Tracker(), iter(range(100))
    now = 0.0

    def look(**workers: tuple[tuple[str, ...], tuple[str, ...]]) -> list[tuple[str, Any, bool]]:
        nonlocal now
        now += step
        found = {w: Occupation(next(beats), *keys) for w, keys in workers.items()}
        tracker.look(found, now, longest=7.0)
        return [(s.address, s.keys, s.sure) for s in tracker.stuck(3 * step, {"twice": 2.0})]

    # Seen once, twice, three times: nothing is overdue
    for _ in range(3):
        assert look(a=(("1",), ("2",)), b=(("twice",), ())) == []
    assert look(a=(("1",), ("2",)), b=(("twice",), ())) == [("a", ("1",), True)]
    # Another task of the same worker begins anew; where one has ended, none waits in vain
    assert look(a=(("3",), ("2",)), b=(("twice",), ())) == []
    assert look(a=((), ("2", "4")), b=(("twice",), ())) == []
    assert look(a=((), ("2", "4")), b=(("twice",), ())) == [("b", ("twice",), True)]
    # Gone, and back: from the beginning
    assert look(a=((), ("2", "4"))) == []
    assert look(a=((), ("2", "4")), b=(("twice",), ())) == [("a", ("2", "4"), False)]


def test_a_pause_of_the_run_itself_is_no_fault_of_its_workers() -> None:
    tracker = Tracker()
    for now in (0.0, 1.0, 1000.0):
        tracker.look({"a": Occupation(now, ("1",), ())}, now, longest=2.0)
        assert tracker.stuck(5.0, {}) == []
    # One that is silent, and holds results
    for now in (1001.0, 1002.0, 1003.0):
        tracker.look({"b": Occupation(7.0, (), ())}, now, longest=2.0)
        assert tracker.stuck(5.0, {}) == []
    tracker.look({"b": Occupation(7.0, (), ())}, 1004.0, longest=9.0)
    assert tracker.stuck(5.0, {}) == []
    tracker.look({"b": Occupation(7.0, (), ())}, 1007.0, longest=9.0)
    (stuck,) = tracker.stuck(5.0, {})
    assert (stuck.address, stuck.keys, stuck.seconds) == ("b", (), 6.0)
    assert describe(WorkerReplaced("tcp://h:1", 6.0, (), stuck.cause)) == (
        "the worker tcp://h:1 is replaced, and others take its blocks: it has sent no "
        "heartbeat for 6 s"
    )
