"""Runs whose workers are jobs of a real Slurm, some of which are cancelled."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import pytest
import yaml

import colonnade as cn
from colonnade.clusters import queues
from colonnade.errors import ClusterError
from colonnade.events import ClusterReady, WaitingForWorkers, WorkerReplaced
from slurm import Slurm
from support import bits
from test_cli import colonnade
from test_disturbed import DISTURB, begun, wait_for
from test_hangs import STICKING


@pytest.fixture(scope="module", autouse=True)
def _quickly() -> Iterator[None]:
    """Take a worker for lost after two seconds, not fifteen."""
    with dask.config.set({"distributed.deploy.lost-worker-timeout": "2s"}):
        yield


@pytest.fixture
def settings(tmp_path: Path, slurm: Slurm) -> Iterator[dict[str, Any]]:
    """The section `cluster` of a job in that Slurm, of two workers."""
    yield {
        "kind": "slurm", "workers": 2, "cores": 1, "memory": "1 GiB", "walltime": "00:10:00",
        "queue": "debug", "interface": "lo", "log_directory": str(tmp_path / "logs"),
        "local_directory": str(tmp_path / "scratch"),
    }  # fmt: skip
    slurm.cancel_all()


def test_the_same_job_as_on_this_machine(
    job, settings, slurm: Slurm, tmp_path: Path, local_bits
) -> None:
    """Only the section `cluster` is another one."""
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job() | {"cluster": settings}))
    done = colonnade("run", tmp_path / "job.yaml")
    assert done.returncode == 0, done.stderr
    assert "waiting for 2 of 2 workers of Slurm, up to 60 s" in done.stderr
    assert "slurm cluster: 2 workers, 2 threads in all" in done.stderr
    assert bits(tmp_path / "out.zarr") == local_bits
    # Its jobs have gone, and left their logs
    wait_for(lambda: not slurm.jobs())
    assert len(list((tmp_path / "logs").glob("colonnade-*.err"))) == 2


@pytest.mark.parametrize("cancelled", [1, 2])
def test_jobs_that_are_cancelled_are_replaced(
    job: Callable[..., Any], settings, slurm: Slurm, tmp_path: Path, local_bits, cancelled: int
) -> None:
    """One of two, or both, in the middle of their blocks: the run ends well."""
    (tmp_path / "disturb.py").write_text(DISTURB)
    (tmp_path / "wait").touch()
    preload = f"export DASK_DISTRIBUTED__WORKER__PRELOAD={tmp_path / 'disturb.py'}"
    events: list[Any] = []
    seen: set[str] = set()

    def disturb() -> None:
        wait_for(lambda: len(begun(tmp_path)) == 2)
        first = slurm.jobs()
        slurm.call("scancel", *list(first)[:cancelled])
        wait_for(lambda: len([i for i, s in running().items() if i not in first]) == cancelled)
        seen.update(first, running())
        (tmp_path / "wait").unlink()

    def running() -> dict[str, str]:
        return {i: state for i, state in slurm.jobs().items() if state == "RUNNING"}

    disturbing = threading.Thread(target=disturb)
    disturbing.start()
    try:
        document = job() | {"cluster": settings | {"job_script_prologue": [preload]}}
        finished = cn.run(document, listener=events.append)
    finally:
        disturbing.join()
    assert (finished.state, finished.blocks_failed) == ("complete", 0)
    assert len(seen) == 2 + cancelled
    assert bits(tmp_path / "out.zarr") == local_bits


def test_a_cluster_that_adapts(job, settings, tmp_path: Path, local_bits) -> None:
    del settings["workers"]
    cluster = settings | {"adaptive": {"minimum": 1, "maximum": 2}}
    events: list[Any] = []
    assert cn.run(job() | {"cluster": cluster}, listener=events.append).state == "complete"
    (ready,) = (event for event in events if isinstance(event, ClusterReady))
    assert ready.workers == 1
    assert bits(tmp_path / "out.zarr") == local_bits


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"queue": "nowhere"}, "Slurm has not accepted a job: .*invalid partition specified"),
        ({"memory": "1 TiB"}, "Slurm has not accepted a job: .*Memory specification can not be"),
        ({"interface": "nothing0"}, "no cluster in Slurm: .*'nothing0' is not a valid network int"),
        ({"log_directory": "/proc/logs"}, "no cluster in Slurm: .*/proc/logs"),
    ],
)
def test_what_slurm_refuses(job, settings, slurm: Slurm, changes, told: str) -> None:
    with pytest.raises(ClusterError, match=told) as caught:
        cn.run(job() | {"cluster": settings | changes})
    assert caught.value.exit_status == 2
    assert not slurm.jobs()


def test_workers_that_do_not_come(job, settings, tmp_path: Path) -> None:
    """Said is what the queue says of their jobs, and where these write."""
    events: list[Any] = []
    cluster = settings | {"workers": 1, "timeout": 3, "job_script_prologue": ["exit 7"]}
    told = (
        r"0 of 1 workers of Slurm came within 3 s .*Slurm reports for the jobs (\d+): "
        rf"\1 FAILED NonZeroExitCode\. Their logs are in {tmp_path / 'logs'}\."
    )
    with pytest.raises(ClusterError, match=told):
        cn.run(job() | {"cluster": cluster}, listener=events.append)
    assert events == [WaitingForWorkers("Slurm", 1, 1, 3)]
    assert not (tmp_path / "out.zarr").exists()


def test_a_stuck_worker_is_replaced(
    job, settings, slurm: Slurm, tmp_path: Path, monkeypatch
) -> None:
    """Its thread never returns: its job is cancelled, and another is submitted."""
    (tmp_path / "sticking.py").write_text(STICKING)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    document = job(network={"activation": "sticking:sigma"})
    expected = bits(cn.run(document | {"output": elsewhere(document, tmp_path)}).store)
    (tmp_path / "stick").touch()
    events: list[Any] = []
    seen: set[str] = set()

    def listen(event: Any) -> None:
        events.append(event)
        seen.update(slurm.jobs())

    cluster = settings | {"stall_timeout": 10, "timeout": 120}
    finished = cn.run(document | {"cluster": cluster}, listener=listen)
    assert (finished.state, finished.blocks_failed) == ("complete", 0)
    (event,) = (event for event in events if isinstance(event, WorkerReplaced))
    assert "it has computed for" in event.cause
    assert len(seen) == 3
    assert bits(tmp_path / "out.zarr") == expected


def elsewhere(document: dict[str, Any], folder: Path) -> dict[str, Any]:
    return document["output"] | {"path": str(folder / "expected.zarr")}


def test_a_job_that_is_cancelled_while_it_is_pending_is_submitted_again(
    job, settings, slurm: Slurm, tmp_path: Path, monkeypatch, local_bits
) -> None:
    """Its worker has never been there, so that Dask waits for it."""
    monkeypatch.setattr(queues, "_LOOK", 1.0)
    (tmp_path / "disturb.py").write_text(DISTURB)
    (tmp_path / "wait").touch()
    preload = f"export DASK_DISTRIBUTED__WORKER__PRELOAD={tmp_path / 'disturb.py'}"
    gone: list[str] = []

    def disturb() -> None:
        try:
            wait_for(lambda: len(begun(tmp_path)) == 2)
            first = list(slurm.jobs())
            # What takes its place stays pending
            slurm.call("scontrol", "update", "PartitionName=debug", "State=DOWN")
            slurm.call("scancel", first[0])
            (pending,) = wait_for(lambda: [i for i in slurm.jobs() if i not in first])
            slurm.call("scancel", pending)
            wait_for(lambda: [i for i in slurm.jobs() if i not in (*first, pending)])
            gone.extend([first[0], pending])
        finally:
            slurm.call("scontrol", "update", "PartitionName=debug", "State=UP")
            (tmp_path / "wait").unlink()

    disturbing = threading.Thread(target=disturb)
    disturbing.start()
    try:
        document = job() | {"cluster": settings | {"job_script_prologue": [preload]}}
        finished = cn.run(document)
    finally:
        disturbing.join()
    assert len(gone) == 2
    assert (finished.state, finished.blocks_failed) == ("complete", 0)
    assert bits(tmp_path / "out.zarr") == local_bits
