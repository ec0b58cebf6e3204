"""The command line as people and queues meet it: real processes, statuses, signals, terminals."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from colonnade.job import Job
from support import N, P, Q, make_columns, make_network, save_network
from test_run import bits

COLONNADE = [sys.executable, "-m", "colonnade"]
# So many columns, each a block, that a run can be caught in its middle
MANY = 307


def colonnade(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COLONNADE, *map(str, arguments)], text=True, capture_output=True, check=False, **options
    )


def until(reached: Callable[[], bool], process: subprocess.Popen[Any]) -> None:
    deadline = time.monotonic() + 60
    while not reached():
        assert process.poll() is None, "the run ended before it could be disturbed"
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def many_blocks(tmp_path: Path, job_file) -> Path:
    path = job_file(output={"block_size": Q * N * 4})
    np.save(tmp_path / "X.npy", make_columns(p=MANY))
    return path


def shards(tmp_path: Path) -> dict[str, int]:
    """Finished shards of the tensor, and when each was written."""
    with os.scandir(tmp_path / "out.zarr" / "jacobian") as entries:
        return {e.name: e.stat().st_mtime_ns for e in entries if e.name.count(".") == 3}


def has_shards(tmp_path: Path, count: int) -> Callable[[], bool]:
    store = tmp_path / "out.zarr" / "jacobian"
    return lambda: store.is_dir() and len(shards(tmp_path)) >= count


def test_a_run_from_a_file(job_file, tmp_path: Path) -> None:
    path = job_file()
    done = colonnade("run", path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{tmp_path / 'out.zarr'} is complete: 8 of 8 blocks computed")
    assert done.stdout.count("\n") == 1
    assert f"{P} columns in 8 blocks" in done.stderr
    assert "dashboard http://127.0.0.1:" in done.stderr
    assert "columns/s" in done.stderr
    # Not on a terminal: lines, and no control characters
    assert "\x1b" not in done.stderr

    again = colonnade("run", path)
    assert again.returncode == 0
    assert "nothing to compute" in again.stdout

    status = colonnade("status", tmp_path / "out.zarr", "--json")
    assert json.loads(status.stdout)["state"] == "complete"
    assert "8 of 8 (101 of 101 columns)" in colonnade("status", tmp_path / "out.zarr").stdout


def test_paths_are_relative_to_the_current_directory(job, tmp_path: Path) -> None:
    document = job(
        network={"weights": "network.npz"}, input={"path": "X.npy"}, output={"path": "made/o.zarr"}
    )
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "job.yaml").write_text(yaml.safe_dump(document))
    done = colonnade("run", "jobs/job.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "made" / "o.zarr" / "zarr.json").is_file()


def test_plan_and_schema(job_file, tmp_path: Path) -> None:
    path = job_file()
    planned = json.loads(colonnade("plan", path, "--json", "--set", "output.dtype=float64").stdout)
    assert planned["shapes"] == {"p": P, "n": N, "m": 7, "q": Q}
    assert planned["dtype"] == "float64"
    assert "blocks    8 of 13 columns" in colonnade("plan", path).stdout
    assert not (tmp_path / "out.zarr").exists()
    schema = json.loads(colonnade("schema").stdout)
    assert set(schema["properties"]) == set(Job.model_fields)


@pytest.mark.parametrize("arguments", [["--help"], ["run", "-h"], ["--version"]])
def test_help(arguments: list[str]) -> None:
    done = colonnade(*arguments)
    assert done.returncode == 0
    assert "colonnade" in done.stdout


Spoil = Callable[[Path, dict[str, Any]], list[str]]
WRONG: dict[str, tuple[Spoil, str]] = {}


def wrong(told: str) -> Callable[[Spoil], Spoil]:
    def register(spoil: Spoil) -> Spoil:
        WRONG[spoil.__name__] = (spoil, told)
        return spoil

    return register


@wrong("output.blok_size: unknown key; did you mean block_size?")
def unknown_key(_: Path, job: dict[str, Any]) -> list[str]:
    job["output"]["blok_size"] = job["output"].pop("block_size")
    return []


@wrong("leaky_relu")
def misspelt_activation(_: Path, job: dict[str, Any]) -> list[str]:
    job["network"]["activation"] = "leaky_rellu"
    return []


@wrong("W2 (3, 5) float32")
def w2_of_shape_q_n(path: Path, _: dict[str, Any]) -> list[str]:
    network = make_network()
    np.savez(
        path / "network.npz", W1=network.W1, b1=network.b1, W2=network.W2[:, :N], b2=network.b2
    )
    return []


@wrong("n = 5 inputs, but X has n = 7 rows")
def rows_too_many(path: Path, _: dict[str, Any]) -> list[str]:
    np.save(path / "X.npy", make_columns(N + 2))
    return []


@wrong("output.path: given 'ftp://bucket/out.zarr'; allowed: a path, or s3://, gs://, az:// with")
def output_at_a_url(_: Path, job: dict[str, Any]) -> list[str]:
    job["output"]["path"] = "ftp://bucket/out.zarr"
    return []


@wrong("there is no such file")
def missing_weights(_: Path, job: dict[str, Any]) -> list[str]:
    job["network"]["weights"] += "x.npz"
    return []


@wrong("there is no such file or directory (input.path)")
def missing_input(_: Path, job: dict[str, Any]) -> list[str]:
    job["input"]["path"] += "x"
    return []


class Trap:
    """Unpickled, it would leave a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path / "pickle-was-loaded",))


@wrong("cannot be read as a .npy file")
def npy_of_objects(path: Path, _: dict[str, Any]) -> list[str]:
    np.save(path / "X.npy", np.array([[Trap(path)] * 2] * N), allow_pickle=True)
    return []


@wrong("cannot be read as a .npz archive")
def npz_of_objects(path: Path, _: dict[str, Any]) -> list[str]:
    np.savez(path / "network.npz", W1=np.array([[Trap(path)]]), allow_pickle=True)
    return []


@wrong("complex64")
def complex_input(path: Path, _: dict[str, Any]) -> list[str]:
    np.save(path / "X.npy", make_columns().astype(np.complex64))
    return []


@wrong("raise cluster.memory_per_worker")
def too_large_for_memory(_: Path, job: dict[str, Any]) -> list[str]:
    job["cluster"]["memory_per_worker"] = "100 MiB"
    return []


@wrong("this is no store of colonnade, but a file")
def output_is_a_file(path: Path, job: dict[str, Any]) -> list[str]:
    job["output"]["path"] = str(path / "job.yaml")
    return []


@wrong("the store cannot be made")
def output_below_a_file(path: Path, job: dict[str, Any]) -> list[str]:
    job["output"]["path"] = str(path / "job.yaml" / "out.zarr")
    return []


@wrong("expected section.key=value")
def malformed_set(*_: Any) -> list[str]:
    return ["--set", "output.dtype"]


@wrong("No such option")
def unknown_option(*_: Any) -> list[str]:
    return ["--overwritten"]


@pytest.mark.parametrize("name", WRONG)
def test_wrong_inputs(name: str, job, tmp_path: Path) -> None:
    spoil, told = WRONG[name]
    document = job()
    arguments = spoil(tmp_path, document)
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(document))
    before = sorted(tmp_path.rglob("*"))
    done = colonnade("run", tmp_path / "job.yaml", *arguments)
    assert done.returncode == 2, done.stderr
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert sorted(tmp_path.rglob("*")) == before


def test_another_jobs_store(job_file, tmp_path: Path) -> None:
    assert colonnade("run", job_file()).returncode == 0
    before = bits(tmp_path / "out.zarr")
    save_network(tmp_path / "network.npz", make_network(seed=3))
    done = colonnade("run", job_file())
    assert done.returncode == 2
    assert "holds the store of another job, which differs in the network" in done.stderr
    assert bits(tmp_path / "out.zarr") == before
    assert colonnade("run", job_file(), "--overwrite").returncode == 0
    assert bits(tmp_path / "out.zarr") != before


@pytest.mark.parametrize("command", ["plan", "schema"])
def test_the_reader_of_the_output_has_gone(job_file, command: str) -> None:
    arguments = [] if command == "schema" else [str(job_file())]
    with subprocess.Popen(
        [*COLONNADE, command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        told = process.stderr.read()
    assert process.returncode == 141, told
    assert "Traceback" not in told


def test_a_run_outlives_the_reader_of_its_progress(job_file, tmp_path: Path) -> None:
    process = subprocess.Popen([*COLONNADE, "run", str(job_file())], stderr=subprocess.PIPE)
    assert process.stderr is not None
    process.stderr.close()
    assert process.wait() == 0
    assert (
        json.loads((tmp_path / "out.zarr" / "zarr.json").read_text())["attributes"]["colonnade"][
            "state"
        ]
        == "complete"
    )


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = colonnade("run", tmp_path / "no.yaml", "--debug")
    assert "Traceback" in done.stderr
    assert "JobError" in done.stderr


def test_killed_half_way(many_blocks: Path, tmp_path: Path) -> None:
    """kill -9, the same command again: equal bit by bit to an undisturbed run."""
    undisturbed = tmp_path / "undisturbed.zarr"
    assert colonnade("run", many_blocks, "--set", f"output.path={undisturbed}").returncode == 0

    process = subprocess.Popen(
        [*COLONNADE, "run", str(many_blocks)], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    until(has_shards(tmp_path, MANY // 5), process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    # The workers of a killed run end by themselves, but each may still finish the block it is at
    before = shards(tmp_path)
    assert MANY // 5 <= len(before) < MANY

    done = colonnade("run", many_blocks)
    assert done.returncode == 0, done.stderr
    found = int(done.stderr.split("blocks, ")[1].split(" of them")[0].replace(",", ""))
    assert len(before) <= found < MANY
    assert f"{MANY - found} of {MANY} blocks computed in this run" in done.stdout
    after = shards(tmp_path)
    assert sum(after[name] == written for name, written in before.items()) >= len(before) - 2
    assert bits(tmp_path / "out.zarr") == bits(undisturbed)


@pytest.mark.parametrize(
    ("signum", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)]
)
def test_stopped_by_a_signal(many_blocks: Path, tmp_path: Path, signum: int, status: int) -> None:
    process = subprocess.Popen(
        [*COLONNADE, "run", str(many_blocks)], stderr=subprocess.PIPE, text=True
    )
    until(has_shards(tmp_path, 50), process)
    process.send_signal(signum)
    _, told = process.communicate(timeout=60)
    assert process.returncode == status, told
    assert "Traceback" not in told
    assert told.splitlines()[-1].startswith(f"colonnade: stopped by {signal.Signals(signum).name}")
    done = colonnade("run", many_blocks)
    assert done.returncode == 0
    assert f"{MANY} of {MANY} blocks computed" not in done.stdout


# Loaded before all: Ctrl-C comes when a module is imported
INTERRUPTED = """
import signal, sys
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "distributed":
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
"""


def test_interrupted_before_it_begins(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(INTERRUPTED)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = colonnade("schema", env={**os.environ, "PYTHONPATH": path})
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


# Its terminal becomes the one that controls it, so that Ctrl-C there is a signal
ON_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def read_terminal(fd: int) -> Iterator[str]:
    while True:
        try:
            data = os.read(fd, 65536)
        except OSError:  # the other end is closed
            return
        yield data.decode(errors="replace")


@pytest.mark.parametrize("interrupted", [False, True], ids=["to the end", "Ctrl-C"])
def test_on_a_terminal(many_blocks: Path, interrupted: bool) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", ON_TERMINAL, *COLONNADE[1:], "run", str(many_blocks)],
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "40"},
    )  # fmt: skip
    os.close(theirs)
    shown, sent = "", False
    for text in read_terminal(ours):
        shown += text
        if interrupted and not sent and "columns/s" in shown:
            os.write(ours, b"\x03")
            sent = True
    os.close(ours)
    status = process.wait()
    assert "━" in shown
    assert "columns/s" in shown
    assert "Traceback" not in shown
    if interrupted:
        assert status == 130, shown
        assert "stopped by SIGINT" in shown
    else:
        assert status == 0, shown
        assert f"{MANY}/{MANY} columns" in shown
