"""Runs that meet at one store: one writes, the other is refused, or succeeds it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr

import colonnade as cn
from colonnade.errors import IncompleteError, StoreError
from colonnade.events import BlockDone, ClusterReady
from colonnade.storage import Directory
from colonnade.store import Store, holder, lease
from support import N, Q, make_columns
from test_cli import COLONNADE, MANY, colonnade, has_shards, until
from test_run import bits


@pytest.fixture
def many_blocks(tmp_path: Path, job_file) -> Path:
    path = job_file(output={"block_size": Q * N * 4}, cluster={"workers": 1})
    np.save(tmp_path / "X.npy", make_columns(p=MANY))
    return path


@contextmanager
def paused_run(job: Path, tmp_path: Path) -> Iterator[subprocess.Popen[Any]]:
    """A run that stands still in its middle, its process alive; workers finish what they have."""
    process = subprocess.Popen([*COLONNADE, "run", str(job)], stderr=subprocess.DEVNULL)
    try:
        until(has_shards(tmp_path, 3), process)
        process.send_signal(signal.SIGSTOP)
        yield process
    finally:
        process.kill()
        process.wait()


def test_the_second_is_refused_while_the_first_lives(many_blocks: Path, tmp_path: Path) -> None:
    store = tmp_path / "out.zarr"
    with paused_run(many_blocks, tmp_path) as first:
        made = Store.open(store).record.id
        for option in ([], ["--overwrite"], ["--repair"]):
            second = colonnade("run", many_blocks, *option)
            assert second.returncode == 2, second.stderr
            assert f"is being written by a run on {os.uname().nodename}" in second.stderr
            assert f"process {first.pid}" in second.stderr
        assert Store.open(store).record.id == made
        told = colonnade("status", store)
        assert f"held by   a run on {os.uname().nodename} (process {first.pid}" in told.stdout
        status = json.loads(colonnade("status", store, "--json").stdout)
        assert status["held_by"]["pid"] == first.pid
        # Readers see neither the lease nor what is left of its renewals
        (store / lease.FILE).with_name("lease.json.0123.partial").touch()
        assert "jacobian" in dict(zarr.open_group(store, mode="r").members())
        assert "jacobian" in xr.open_zarr(store, consolidated=False)
        assert colonnade("verify", store).returncode in {0, 3}
        with pytest.raises(IncompleteError, match=rf"written by a run on .*process {first.pid}"):
            cn.open(store)
        ds = cn.open(store, incomplete=True)
        done = int(ds.jacobian.notnull().all(["output", "input"]).sum())
        assert ds.attrs["incomplete"].startswith(f"{done} of {MANY} blocks are there ({done} of")
        # Not one of them a plausible number
        assert int(ds.jacobian.isnull().all(["output", "input"]).sum()) == MANY - done
    # Killed: the same host knows so at once
    assert "which is dead" in colonnade("status", store).stdout
    third = colonnade("run", many_blocks)
    assert third.returncode == 0, third.stderr
    assert "of them done already" in third.stderr
    assert not list((store / lease.FILE).parent.glob("lease*"))
    assert "held" not in colonnade("status", store).stdout
    undisturbed = tmp_path / "undisturbed.zarr"
    assert colonnade("run", many_blocks, "--set", f"output.path={undisturbed}").returncode == 0
    assert bits(store) == bits(undisturbed)


def test_a_finished_store_needs_no_lease(job) -> None:
    path = Path(cn.run(job()).store)
    (path / lease.FILE).parent.chmod(0o500)
    assert cn.run(job()).blocks_computed == 0
    assert cn.verify(path).sound
    assert not (path / lease.FILE).exists()


def test_a_new_store_is_held_from_its_first_moment(job, tmp_path: Path) -> None:
    """Whoever finds it, or the one that replaces it, finds its lease too."""
    store = tmp_path / "out.zarr"
    seen: list[Any] = []
    replaced = b""

    def look() -> None:
        while True:
            with suppress(OSError):
                if (store / "zarr.json").read_bytes() != replaced:
                    seen.append(holder(Directory(store)))
                    return

    for overwrite in (False, True):
        watching = threading.Thread(target=look)
        watching.start()
        cn.run(job(), overwrite=overwrite)
        watching.join()
        replaced = (store / "zarr.json").read_bytes()
    assert [found and found.pid for found in seen] == [os.getpid()] * 2


def test_a_run_that_has_lost_its_store_ends(job, tmp_path: Path) -> None:
    """It was silent, and another host's run took it for dead; that one's store is not touched."""
    store = tmp_path / "out.zarr"

    def take_over(event: Any) -> None:
        if isinstance(event, ClusterReady):
            mine = holder(Directory(store))
            assert mine is not None
            other = replace(mine, run="other", host="another-host.example")
            Directory(store).write(lease.FILE, json.dumps(asdict(other)).encode())

    done: list[Any] = []

    def listen(event: Any) -> None:
        take_over(event)
        if isinstance(event, BlockDone):
            done.append(event)

    with pytest.raises(IncompleteError, match=r"taken over by a run on another-host\.example"):
        cn.run(job(), listener=listen)
    assert done == []
    assert Store.open(store).done() == set()
    found = holder(Directory(store))
    assert found is not None
    assert found.run == "other"


def test_a_store_that_cannot_be_held(job) -> None:
    store = Path(cn.run(job()).store)
    next((store / "norm").glob("c.*")).unlink()
    (store / lease.FILE).mkdir()
    with pytest.raises(StoreError, match=r"cannot be written"):
        cn.run(job())
