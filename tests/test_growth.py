"""X gains columns from one night to the next: the same command appends what is new."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
import zarr
from distributed import LocalCluster

import colonnade as cn
from colonnade.errors import IncompleteError, InputError, StoreError
from colonnade.events import StoreGrown
from colonnade.inputs import base, open_columns
from colonnade.job.file import load_job
from colonnade.running.prepare import check_job
from colonnade.running.run import _final_results
from colonnade.running.worker import StoreAddress, compute_block
from colonnade.store import Store, hold, input_record
from support import P, make_columns, refusal, snapshot
from test_cli import colonnade
from test_run import bits

B = 13  # columns of a block; P = 7 B + 10
LATER = 10 * B + 7
X = make_columns(p=LATER + 1)


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    with LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", memory_limit=0
    ) as running:
        yield running.scheduler_address


@pytest.fixture
def make(job, cluster) -> Callable[..., dict[str, Any]]:
    def make_job(**sections: Any) -> dict[str, Any]:
        made = job(**sections)
        made["cluster"] = {"kind": "address", "address": cluster, "workers": 2}
        return made

    return make_job


def save(path: Path, columns: np.ndarray, orientation: str = "features_by_columns") -> None:
    """Put X there; an array of Zarr that is there grows."""
    stored = columns if orientation == "features_by_columns" else np.ascontiguousarray(columns.T)
    if path.suffix == ".npy":
        np.save(path, stored)
    elif not path.exists():
        chunks = (2, 17) if orientation == "features_by_columns" else (17, 2)
        zarr.create_array(path, shape=stored.shape, chunks=chunks, dtype="f4")[:] = stored
    else:
        array = zarr.open_array(path, mode="r+")
        array.resize(stored.shape)
        array[:] = stored


def at_once(make, tmp_path: Path, columns: np.ndarray) -> dict[str, bytes]:
    """The bits of a store that is made of all columns together."""
    np.save(tmp_path / "whole.npy", columns)
    made = make(
        input={"path": str(tmp_path / "whole.npy")}, output={"path": str(tmp_path / "whole.zarr")}
    )
    return bits(cn.run(made).store)


@pytest.mark.parametrize("orientation", ["features_by_columns", "columns_by_features"])
@pytest.mark.parametrize("suffix", ["npy", "zarr"])
def test_night_after_night(make, tmp_path: Path, suffix: str, orientation: str) -> None:
    path = tmp_path / f"growing.{suffix}"
    document = make(input={"path": str(path), "orientation": orientation})
    computed = []
    # The last block is partial, whole, partial
    for columns in (P, 8 * B, LATER):
        save(path, X[:, :columns], orientation)
        events: list[Any] = []
        finished = cn.run(document, listener=events.append)
        assert (finished.state, finished.columns) == ("complete", columns)
        computed.append((finished.blocks_computed, finished.columns_new))
        grown = [event for event in events if isinstance(event, StoreGrown)]
        assert len(grown) == (columns > P)
    assert computed == [(8, 0), (1, 3), (3, LATER - 8 * B)]
    assert grown == [StoreGrown(str(tmp_path / "out.zarr"), 8 * B, LATER, 3, 0)]
    assert bits(finished.store) == at_once(make, tmp_path, X[:, :LATER])
    again = cn.run(document)
    assert (again.blocks_computed, again.columns_new) == (0, 0)
    assert cn.verify(finished.store).sound
    assert cn.open(finished.store).sizes["column"] == LATER
    # What the store says of itself is what one made at once says, but for times and names
    said, whole = (Store.open(tmp_path / name).record for name in ("out.zarr", "whole.zarr"))
    assert (said.grid, said.input.fingerprint) == (whole.grid, whole.input.fingerprint)
    assert f"from {8 * B} columns" in str(Store.open(finished.store).status())


def test_a_store_keeps_its_blocks_where_sizes_are_automatic(make, tmp_path: Path) -> None:
    document = make(output={"block_size": "auto"})
    np.save(tmp_path / "X.npy", X[:, :P])
    assert cn.run(document).blocks == 1
    np.save(tmp_path / "X.npy", X)
    assert cn.run(document).blocks == 2
    T = cn.jacobian(Store.open(tmp_path / "out.zarr").network(), X)
    np.testing.assert_allclose(cn.open(tmp_path / "out.zarr").jacobian, T, rtol=1e-5, atol=1e-6)


def test_a_store_that_was_not_finished_grows_too(make, tmp_path: Path) -> None:
    document = make()
    np.save(tmp_path / "X.npy", X[:, :P])
    cn.run(document)
    for name in ("jacobian/c.2.0.0", "jacobian/c.7.0.0", "norm/c.5"):
        (tmp_path / "out.zarr" / name).unlink()
    np.save(tmp_path / "X.npy", X)
    assert cn.run(document).blocks_computed == 2 + 4
    assert bits(tmp_path / "out.zarr") == at_once(make, tmp_path, X)


def changed(columns: np.ndarray, column: int) -> np.ndarray:
    other = columns.copy()
    other[2, column] += 1
    return other


@pytest.mark.parametrize(
    ("now", "told"),
    [
        (X[:, : P - 1], "its columns 101 in the store, 100 in the job"),
        (changed(X, 0), "X (its values) (X has grown to 138 columns; its first 101"),
        (changed(X, P - 1), "X (its values) (X has grown to 138 columns; its first 101"),
        (X.astype(np.float64), "its type float32 in the store, float64 in the job) (X has grown"),
    ],
)
def test_old_columns_must_be_as_they_were(make, tmp_path: Path, now, told: str) -> None:
    document = make()
    np.save(tmp_path / "X.npy", X[:, :P])
    cn.run(document)
    np.save(tmp_path / "X.npy", now)
    before = snapshot(tmp_path)
    assert told in refusal(lambda: cn.run(document))
    assert snapshot(tmp_path) == before


def test_other_chunks_are_another_x(make, tmp_path: Path) -> None:
    path = tmp_path / "X.zarr"
    save(path, X[:, :P])
    document = make(input={"path": str(path)})
    cn.run(document)
    zarr.create_array(path, shape=X.shape, chunks=(5, 17), dtype="f4", overwrite=True)[:] = X
    before = snapshot(tmp_path)
    assert "its chunk grid" in refusal(lambda: cn.run(document))
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("whole", [10**9, 1])
@pytest.mark.parametrize("orientation", ["features_by_columns", "columns_by_features"])
@pytest.mark.parametrize("suffix", ["npy", "zarr"])
def test_the_fingerprint_that_it_had(
    tmp_path: Path, monkeypatch, suffix: str, orientation: Any, whole: int
) -> None:
    """Of all values, and of samples."""
    monkeypatch.setattr(base, "_WHOLE_BYTES", whole)
    path = tmp_path / f"X.{suffix}"
    save(path, X[:, :P], orientation)
    before = input_record(open_columns(path, orientation=orientation))
    save(path, X, orientation)
    now = open_columns(path, orientation=orientation)
    assert input_record(now, P) == before
    assert input_record(now) != before
    save(path, changed(X, 0), orientation)
    assert input_record(now, P) != before


def test_verifying_and_repairing_what_has_not_grown_yet(make, tmp_path: Path) -> None:
    document = make()
    np.save(tmp_path / "X.npy", X[:, :P])
    cn.run(document)
    np.save(tmp_path / "X.npy", X)
    found = cn.verify(tmp_path / "out.zarr", columns=7)
    assert found.sound
    assert found.sampled == 7
    shard = tmp_path / "out.zarr" / "jacobian" / "c.3.0.0"
    shard.write_bytes(b"\0" * shard.stat().st_size)
    # The damaged block, the last one, and those that are new
    assert cn.run(document, repair=True).blocks_computed == 1 + 1 + 3
    assert bits(tmp_path / "out.zarr") == at_once(make, tmp_path, X)


class Struck(BaseException):
    """What stands for the end of the process."""


class Strike:
    """Ends what is going on before its `left`-th change of a file."""

    def __init__(self) -> None:
        self.left = -1
        sys.addaudithook(self)

    def __call__(self, event: str, _: tuple[Any, ...]) -> None:
        if self.left < 0 or event not in ("os.rename", "os.remove"):
            return
        self.left -= 1
        if self.left < 0:
            raise Struck


@pytest.fixture(scope="module")
def strike() -> Strike:
    return Strike()


def work(document: dict[str, Any], *, compute: bool = True) -> None:
    """A run, in this process and without a cluster."""
    checked = check_job(load_job(document).located())
    path = checked.job.output.path
    store = Store.find(path)
    plan = checked.plan(cn.plan(document).capacity, None if store is None else store.grid)
    store = store or Store.create(plan, checked.network, checked.job, checked.x)
    with hold(store.place, "run"):
        store.adopt(checked.job, checked.x)
        for block in store.missing() if compute else ():
            compute_block(StoreAddress(path, store.record.id, "run"), block)
    if compute:
        store.finish(_final_results(store))


def test_an_end_at_any_moment(job, tmp_path: Path, strike: Strike) -> None:
    """Of the growth's own changes, of which each is one file's."""
    document = job()
    out = tmp_path / "out.zarr"
    np.save(tmp_path / "X.npy", X)
    work(document)
    expected = bits(out)
    moments = 0
    for moment in range(100):
        document = job(output={"path": str(tmp_path / f"{moment}.zarr")})
        out = tmp_path / f"{moment}.zarr"
        np.save(tmp_path / "X.npy", X[:, :P])
        work(document)
        np.save(tmp_path / "X.npy", X)
        checked = check_job(load_job(document).located())
        store = Store.open(out)
        before = bits(out)
        strike.left = moment
        try:
            store.adopt(checked.job, checked.x)
        except Struck:
            moments += 1
        else:
            break
        finally:
            strike.left = -1
        status = Store.open(out).status()
        if moment:
            assert status.state == "writing"
            assert 7 in status.missing
            with pytest.raises(IncompleteError):
                cn.open(out)
            with pytest.raises(IncompleteError, match="has not resized"):
                cn.open(out, incomplete=True)
            with pytest.raises(IncompleteError, match="has not resized"):
                cn.verify(out)
            assert json.loads(json.dumps(status.as_dict()))["growth"]["columns"] == P
        else:
            assert status.state == "complete"
            assert {k: v for k, v in bits(out).items() if ".partial" not in k} == before
        work(document)
        assert bits(out) == expected
    # The record twice, and of five arrays a shard and a shape, and the mean
    assert moments >= 2 + 2 * 5 + 1


def test_x_grows_again_after_a_kill(job, tmp_path: Path, strike: Strike) -> None:
    np.save(tmp_path / "X.npy", X[:, :P])
    work(job())
    np.save(tmp_path / "X.npy", X[:, : P + B])
    strike.left = 9
    try:
        with pytest.raises(Struck):
            work(job())
    finally:
        strike.left = -1
    np.save(tmp_path / "X.npy", X)
    work(job())
    again = job(output={"path": str(tmp_path / "whole.zarr")})
    work(again)
    assert bits(tmp_path / "out.zarr") == bits(tmp_path / "whole.zarr")


def test_a_worker_of_a_former_run_writes_no_block_that_ends_where_x_did(
    job, tmp_path: Path
) -> None:
    np.save(tmp_path / "X.npy", X[:, :P])
    work(job())
    late = Store.open(tmp_path / "out.zarr")
    address = StoreAddress(late.path, late.record.id, "run")
    with hold(late.place, "run"):
        buffers = {name: late.buffer(name) for name in late.record.arrays}
    np.save(tmp_path / "X.npy", X)
    work(job())
    # It looked before the store grew, and writes after
    with pytest.raises(StoreError, match="recreated"):
        late.write(7, buffers)
    assert Store.open(tmp_path / "out.zarr").missing() == [7]
    with hold(late.place, "run"), pytest.raises(StoreError, match="recreated"):
        compute_block(address, 3)


def test_what_cannot_be_read_of_the_old_columns_is_refused(make, tmp_path: Path) -> None:
    path = tmp_path / "X.zarr"
    save(path, X[:, :P])
    document = make(input={"path": str(path)})
    cn.run(document)
    save(path, X)
    os.truncate(path / "c" / "0" / "0", 3)
    before = snapshot(tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        cn.run(document)
    assert snapshot(tmp_path) == before


KILLED = """
import os, signal, sys
from colonnade.cli import main
from colonnade.store import arrays
left = int(sys.argv.pop())
def hook(event, arguments):
    global left
    if event == "os.rename" and "out.zarr" in str(arguments) and "lease" not in str(arguments):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
main()
"""


@pytest.mark.parametrize("renames", [1, 3])
def test_kill_9_while_it_grows(make, tmp_path: Path, renames: int) -> None:
    """After the record has changed; after some of the arrays have."""
    job_file = tmp_path / "job.yaml"
    job_file.write_text(yaml.safe_dump(make()))
    np.save(tmp_path / "X.npy", X[:, :P])
    cn.run(str(job_file))
    np.save(tmp_path / "X.npy", X)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, "run", str(job_file), str(renames)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    store = tmp_path / "out.zarr"
    assert Store.open(store).status().state == "writing"
    with pytest.raises(IncompleteError):
        cn.open(store)
    shapes = {zarr.open_array(store / name, mode="r").shape[0] for name in ("norm", "jacobian")}
    assert shapes == ({P} if renames == 1 else {P, X.shape[1]})
    done = colonnade("run", job_file)
    assert done.returncode == 0, done.stderr
    assert bits(store) == at_once(make, tmp_path, X)


def test_what_is_made_at_the_end_goes_when_x_has_grown(job, tmp_path: Path) -> None:
    products = ["jacobian", "spectral_norm", "mean"]
    np.save(tmp_path / "X.npy", X[:, :P])
    work(job(output={"products": products}))
    np.save(tmp_path / "X.npy", X)
    work(job(output={"products": products}), compute=False)
    group = zarr.open_group(tmp_path / "out.zarr", mode="r")
    for name in ("spectral_norm_max", "mean"):
        assert np.isnan(group[name][...]).all()
