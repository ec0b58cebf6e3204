"""What a scheduler and a monitor need of a run that nobody watches: statuses, logs, metrics."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import LocalCluster
from prometheus_client.parser import text_string_to_metric_families

import colonnade as cn
from colonnade.errors import IncompleteError
from colonnade.events import (
    BlockDamaged,
    BlockDone,
    BlockFailed,
    ClusterReady,
    NoWorkers,
    RunFinished,
    RunStarted,
    Stopping,
)
from colonnade.progress import JsonLines, listening, measuring
from colonnade.storage import Directory
from colonnade.store import Store, hold
from support import N, P, Q, make_columns, needs
from test_cli import COLONNADE, INTERRUPTED, MANY, colonnade, has_shards, until


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, Any]]:
    with LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", memory_limit=0
    ) as running:
        yield {"kind": "address", "address": running.scheduler_address, "workers": 2}


@pytest.fixture
def path(job_file, cluster) -> Path:
    """A job on a cluster that all runs here share."""
    made: Path = job_file(cluster=cluster)
    return made


def lines(text: str) -> list[dict[str, Any]]:
    """Each line as JSON, which has no NaN."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def metrics(path: Path, name: str = "job") -> dict[str, float]:
    """The samples of a file of metrics, each with its HELP and TYPE, by name."""
    families = list(text_string_to_metric_families(path.read_text()))
    assert all(family.documentation and family.type == "gauge" for family in families)
    samples = [sample for family in families for sample in family.samples]
    assert all(sample.labels == {"name": name} for sample in samples)
    assert all(sample.name.startswith("colonnade_") for sample in samples)
    return {sample.name.removeprefix("colonnade_"): sample.value for sample in samples}


def test_a_run_in_json_and_metrics(path: Path, tmp_path: Path) -> None:
    file = tmp_path / "job.prom"
    before = time.time()
    done = colonnade("run", path, "--log", "json", "--metrics", file)
    assert (done.returncode, done.stdout) == (0, "")
    told = lines(done.stderr)
    assert [line["event"] for line in told] == [
        "run_started", "cluster_ready", *["block_done"] * 8, "run_finished",
    ]  # fmt: skip
    times = [datetime.fromisoformat(line["time"]) for line in told]
    assert times == sorted(times)
    assert {moment.tzinfo for moment in times} == {UTC}
    assert told[0] == {
        "time": told[0]["time"], "event": "run_started", "store": str(tmp_path / "out.zarr"),
        "columns": P, "columns_done": 0, "blocks": 8, "blocks_done": 0,
    }  # fmt: skip
    assert datetime.fromisoformat(told[2]["ended"]) <= times[2]
    assert (told[-1]["state"], told[-1]["blocks_computed"]) == ("complete", 8)

    found = metrics(file)
    assert found.pop("run_seconds") > 0
    assert before < found.pop("start_timestamp_seconds") < time.time()
    success = found.pop("last_success_timestamp_seconds")
    assert before < success < time.time()
    assert found == {
        "up": 0, "exit_status": 0, "columns": P, "columns_done": P, "blocks": 8, "blocks_done": 8,
        "blocks_failed": 0, "written_bytes": told[-1]["bytes_written"], "nonfinite_columns": 0,
        "nonfinite_result_columns": 0, "workers": 2,
    }  # fmt: skip
    assert list(tmp_path.glob("job.prom?*")) == []

    # X has changed: refused, and the last success stays what it was
    np.save(tmp_path / "X.npy", make_columns(seed=7))
    refused = colonnade("run", path, "--log=json", "--metrics", file)
    assert (refused.returncode, refused.stdout) == (2, "")
    (line,) = lines(refused.stderr)
    assert (line["event"], line["error"], line["exit_status"]) == ("error", "StoreError", 2)
    assert "its values" in line["message"]
    found = metrics(file)
    assert (found["up"], found["exit_status"]) == (0, 2)
    assert found["last_success_timestamp_seconds"] == pytest.approx(success)


def test_a_night_of_growth_in_json(path: Path, tmp_path: Path) -> None:
    cn.run(path)
    X = np.hstack([make_columns(), make_columns(p=31, seed=5)])
    np.save(tmp_path / "X.npy", X)
    again = colonnade("run", path, "--log", "json")
    assert again.returncode == 0, again.stderr
    told = lines(again.stderr)
    assert [line["event"] for line in told] == [
        "store_grown", "run_started", "cluster_ready", *["block_done"] * 4, "run_finished",
    ]  # fmt: skip
    grown = {k: v for k, v in told[0].items() if k not in ("time", "event", "store")}
    assert grown == {"columns_before": P, "columns": P + 31, "blocks_new": 3, "blocks_again": 1}
    assert told[-1]["columns_new"] == 31
    np.save(tmp_path / "X.npy", np.hstack([X, make_columns(p=1)]))
    plain = colonnade("run", path)
    said = "X has grown from 132 to 133 columns: the store has 0 new blocks, and its last one is"
    assert said in plain.stderr
    assert "is complete, 1 column more than before: 1 of 11 blocks computed" in plain.stdout
    assert "from 132 columns" in colonnade("status", tmp_path / "out.zarr").stdout


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["run", "nowhere.yaml", "--log", "json"], "JobError"),
        (["run", "--log=json", "--no-such-option"], "NoSuchOption"),
        (["run", "--log", "json"], "MissingParameter"),
        (["verify", "nowhere.zarr", "--log", "json"], "StoreError"),
    ],
)
def test_errors_are_a_json_line_too(arguments: list[str], error: str, tmp_path: Path) -> None:
    done = colonnade(*arguments, cwd=tmp_path)
    (line,) = lines(done.stderr)
    assert (done.returncode, line["exit_status"], line["event"]) == (2, 2, "error")
    assert line["error"] == error
    assert line["message"]


def test_statuses_for_a_scheduler(path: Path, tmp_path: Path) -> None:
    store = tmp_path / "out.zarr"
    assert colonnade("status", store).returncode == 2
    X = make_columns()
    X[3, 40] = np.nan
    np.save(tmp_path / "X.npy", X)
    fail = ["--set", "input.nonfinite=fail"]
    failed = colonnade("run", path, *fail)
    assert failed.returncode == 3
    status = colonnade("status", store, "--json")
    assert status.returncode == 3
    said = json.loads(status.stdout)
    assert (said["state"], said["blocks_done"], said["missing"]) == ("writing", 7, [3])
    (block,) = said["failed"]
    assert (block["block"], block["start"], block["stop"]) == (3, 39, 52)
    assert "column 40 of X has nan as its feature 3" in block["cause"]
    assert said["held_by"] is None
    assert datetime.fromisoformat(said["created"]).tzinfo is not None
    assert "failed    block 3: ValueError: column 40" in colonnade("status", store).stdout

    with hold(Directory(store), "another"):
        held = json.loads(colonnade("status", store, "--json").stdout)["held_by"]
        assert (held["pid"], held["gone"]) == (os.getpid(), False)
        assert -1 < held["seconds_silent"] < 60
        assert "last heartbeat " in colonnade("status", store).stdout

    assert colonnade("run", path).returncode == 0
    done = colonnade("status", store, "--json")
    assert done.returncode == 0
    assert (json.loads(done.stdout)["failed"], json.loads(done.stdout)["missing"]) == ([], [])
    (store / "norm" / "c.4").unlink()
    damaged = colonnade("status", store, "--json")
    assert (damaged.returncode, json.loads(damaged.stdout)["state"]) == (3, "damaged")


def test_a_store_a_night(path: Path, tmp_path: Path) -> None:
    for night in ("2026-03-01", "2026-03-02", "2026-03-01"):
        done = colonnade(
            "run", path, "--set", f"output.path={tmp_path}/{{job}}-{{date}}.zarr",
            env={**os.environ, "COLONNADE_DATE": night},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert "nothing to compute" in done.stdout
    made = sorted(found.name for found in tmp_path.glob("*.zarr"))
    assert made == ["job-2026-03-01.zarr", "job-2026-03-02.zarr"]


DONE = BlockDone(3, 39, 52, 0.1, math.nan, math.inf, 1e9, 1e9 + 1, 780, 2, 10**8, "here:1")
FAILED = BlockFailed(5, 65, 78, "OSError: s3://user:pass-word@host/x: no answer\nat all")


def test_a_json_line_is_valid_and_tells_no_secret(capsys) -> None:
    with listening("json") as listener:
        ready = ClusterReady("address", 2, 4, "http://user:pass-word@host/status")
        for event in (DONE, FAILED, Stopping(15, 20.0), BlockDamaged(None, 0, 9, "W1"), ready):
            listener(event)
    out, err = capsys.readouterr()
    assert out == ""
    assert "pass-word" not in err
    done, failed, stopping, damaged, reached = lines(err)
    assert (done["seconds_compute"], done["seconds_write"]) == (None, None)
    assert done["started"] == "2001-09-09T01:46:40.000+00:00"
    assert "OSError: s3://…@host/x: no answer" in failed["cause"]
    assert (stopping["event"], stopping["signal"], stopping["seconds"]) == (
        "stopping", "SIGTERM", 20,
    )  # fmt: skip
    assert damaged["block"] is None
    assert reached["dashboard"] == "http://…@host/status"


def test_who_reads_the_lines_may_go() -> None:
    read, write = os.pipe()
    os.close(read)
    with open(write, "w", buffering=1) as file:  # noqa: PTH123 (a number)
        JsonLines(file)(NoWorkers(3.0))
        JsonLines(file).error("StoreError", "…", 2)
        # What it still holds is nobody's
        os.dup2(os.open(os.devnull, os.O_WRONLY), write)


@pytest.mark.parametrize("log", ["plain", "bar", "json"])
def test_a_log_on_a_full_disk(path: Path, tmp_path: Path, log: str) -> None:
    """A run ends as it would, and so does the refusal of one."""

    def status(*arguments: str | Path) -> int:
        with open("/dev/full", "w") as full:  # noqa: PTH123 (a device)
            command = [*COLONNADE, *map(str, arguments), "--log", log]
            return subprocess.run(command, stdout=full, stderr=full, check=False).returncode

    assert status("run", path) == 0
    assert Store.open(tmp_path / "out.zarr").record.state == "complete"
    assert status("run", tmp_path / "nowhere.yaml") == 2
    assert status("run") == 2


@pytest.mark.parametrize("log", ["plain", "bar", "json"])
def test_thousands_of_failures_are_few_lines(log: str, capsys) -> None:
    with listening(log) as listener:
        listener(RunStarted("o.zarr", 10**5, 0, 10**4, 0))
        listener(ClusterReady("local", 1, 1, "none"))
        for block in range(1234):
            listener(BlockFailed(block, block, block + 1, "nan"))
        for block in range(11):
            listener(BlockDamaged(block, block, block + 1, "bits"))
    err = capsys.readouterr().err
    if log == "json":
        assert err.count("block_failed") == 1234
        return
    assert err.count(" failed: nan") == err.count("damaged: bits") == 10
    assert "and 1,224 more blocks failed; --log json lists them all" in err
    assert "and 1 more block damaged; " in err


def run_started(path: Path) -> Any:
    """A run that is measured, and has begun."""
    measured = measuring(str(path), "night", lambda _: None)
    listener = measured.__enter__()
    listener(RunStarted("o.zarr", 100, 39, 8, 3))
    listener(ClusterReady("local", 2, 2, "none"))
    return measured, listener


def test_metrics_while_it_runs(tmp_path: Path) -> None:
    file = tmp_path / "x.prom"
    file.write_text("no { metrics\n")
    measured, listener = run_started(file)
    found = metrics(file, "night")
    assert (found["up"], found["columns"], found["columns_done"]) == (1, 100, 39)
    assert "exit_status" not in found
    for event in (DONE, FAILED):
        listener(event)
    error = IncompleteError("blocks failed")
    assert not measured.__exit__(IncompleteError, error, None)
    found = metrics(file, "night")
    assert (found["up"], found["exit_status"]) == (0, 3)
    assert (found["columns_done"], found["blocks_done"], found["blocks_failed"]) == (52, 4, 1)
    assert (found["written_bytes"], found["nonfinite_columns"]) == (780, 2)
    assert "last_success_timestamp_seconds" not in found
    # A file that is another job's, or in another's hands, is not read as ours
    measured, _ = run_started(tmp_path / "y.prom")
    measured.__exit__(None, None, None)
    assert metrics(tmp_path / "y.prom", "night")["exit_status"] == 0


def test_metrics_follow_no_planted_link(tmp_path: Path) -> None:
    """A folder that a collector reads may be others' as well."""
    file, mine = tmp_path / "x.prom", tmp_path / "mine"
    mine.write_text("precious")
    planted = tmp_path / f"x.prom.{os.getpid()}.{threading.get_ident()}"
    planted.symlink_to(mine)
    measured, _ = run_started(file)
    measured.__exit__(None, None, None)
    assert mine.read_text() == "precious"
    assert (file.is_symlink(), metrics(file, "night")["up"]) == (False, 0)
    assert sorted(tmp_path.iterdir()) == [mine, file, planted]


def test_metrics_that_cannot_be_written(path: Path, tmp_path: Path) -> None:
    done = colonnade("run", path, "--metrics", tmp_path / "nowhere" / "x.prom")
    assert done.returncode == 2
    assert "the metrics cannot be written" in done.stderr
    assert not (tmp_path / "out.zarr").exists()


def test_a_disk_that_fills_up_stops_no_run(tmp_path: Path) -> None:
    folder = tmp_path / "metrics"
    folder.mkdir()
    measured, listener = run_started(folder / "x.prom")
    for found in folder.iterdir():
        found.unlink()
    folder.rmdir()
    listener(RunFinished("o.zarr", "complete", 100, 8, 5, 0, 780, 0, 1.0, 10**8))
    assert not measured.__exit__(None, None, None)


def test_a_signal_is_in_the_log_and_the_metrics(job_file, cluster, tmp_path: Path) -> None:
    many = job_file(output={"block_size": Q * N * 4}, cluster=cluster)
    np.save(tmp_path / "X.npy", make_columns(p=1009))
    file = tmp_path / "job.prom"
    process = subprocess.Popen(
        [*COLONNADE, "run", str(many), "--log", "json", "--metrics", str(file)],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    until(has_shards(tmp_path, 1), process)
    assert metrics(file)["up"] == 1
    process.send_signal(signal.SIGTERM)
    err = process.communicate(timeout=60)[1]
    assert process.returncode == 143
    told = lines(err)
    assert told[-1]["exit_status"] == 143
    assert "stopping" in {line["event"] for line in told}
    assert (metrics(file)["up"], metrics(file)["exit_status"]) == (0, 143)


# Of a shell without a terminal, jobs in the background ignore Ctrl-C
IN_THE_BACKGROUND = ["sh", "-c", '"$@" & echo $!; wait $!', "sh"]


@pytest.mark.parametrize(
    ("prefix", "ignored"),
    [(["nohup"], signal.SIGHUP), (IN_THE_BACKGROUND, signal.SIGINT)],
    ids=["nohup", "a shell's background"],
)
@pytest.mark.parametrize("stopped", [False, True], ids=["to the end", "SIGTERM"])
def test_a_signal_that_was_ignored_stays_ignored(
    job_file, tmp_path: Path, prefix: list[str], ignored: int, stopped: bool
) -> None:
    needs("nohup", "apt-get install coreutils")
    many = job_file(output={"block_size": Q * N * 4})
    np.save(tmp_path / "X.npy", make_columns(p=MANY))
    process = subprocess.Popen(
        [*prefix, *COLONNADE, "run", str(many)],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    pid = process.pid if prefix == ["nohup"] else int(process.stdout.readline())
    until(has_shards(tmp_path, 5), process)
    os.kill(pid, ignored)
    if stopped:
        os.kill(pid, signal.SIGTERM)
    _, told = process.communicate(timeout=120)
    assert process.returncode == (143 if stopped else 0), told
    assert signal.Signals(ignored).name not in told
    assert Store.open(tmp_path / "out.zarr").record.state == ("writing" if stopped else "complete")


def test_ctrl_c_that_is_ignored_does_not_end_the_imports(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(INTERRUPTED)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [*IN_THE_BACKGROUND, *COLONNADE, "schema"],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.partition("\n")[2])["title"]
