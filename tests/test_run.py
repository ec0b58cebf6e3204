"""The whole story on a real Dask cluster: results, resuming, refusing, failing, stopping."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
import zarr

import colonnade as cn
from colonnade.errors import (
    ClusterError,
    IncompleteError,
    InputError,
    StoppedError,
    StoreError,
    TooLargeError,
)
from colonnade.events import (
    BlockDone,
    BlockFailed,
    ClusterReady,
    RunFinished,
    RunStarted,
    WaitingForWorkers,
)
from colonnade.store import Store, lease
from support import M, N, P, Q, bits, make_columns, make_network, save_network

pytestmark = pytest.mark.shared_cluster

BLOCKS = 8


@pytest.fixture
def make(job):
    return job


def test_a_local_cluster_of_the_size_asked(job, network, X) -> None:
    events: list[Any] = []
    finished = cn.run(
        job(cluster={"kind": "local", "workers": 2, "threads_per_worker": 1}),
        listener=events.append,
    )
    # A busy machine is slow to start workers
    told = [event for event in events if not isinstance(event, WaitingForWorkers)]
    started, ready, *blocks, last = told
    assert (started.columns, started.blocks, started.blocks_done) == (P, BLOCKS, 0)
    assert (ready.kind, ready.workers, ready.threads) == ("local", 2, 2)
    assert ready.dashboard.startswith("http://127.0.0.1:")
    assert sorted(block.block for block in blocks) == list(range(BLOCKS))
    assert {type(block) for block in blocks} == {BlockDone}
    # Workers are processes of their own
    assert f":{os.getpid()}" not in {block.process[block.process.rindex(":") :] for block in blocks}
    assert last is finished
    assert isinstance(last, RunFinished)
    assert (last.state, last.blocks_computed, last.blocks_failed) == ("complete", BLOCKS, 0)
    assert last.bytes_written == P * (Q * N + Q + 1) * 4 + BLOCKS * Q * N * 8

    ds = cn.open(finished.store)
    T = cn.jacobian(network, X).astype(np.float64)
    np.testing.assert_allclose(ds.jacobian, T, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ds.value, cn.forward(network, X).T, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ds.norm, np.linalg.norm(T, axis=(1, 2)), rtol=1e-5)
    np.testing.assert_allclose(ds["mean"], T.mean(axis=0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "products", [["jacobian"], ["value"], ["norm"], ["mean"], ["mean", "norm"], ["value", "mean"]]
)
def test_each_product_alone(make, network, X, products: list[str], dtype: str) -> None:
    # 13 columns of the widest of X, the slopes and Y, where no tensor sets the block
    width = Q * N if "jacobian" in products else M
    size = 13 * width * (4 if dtype == "float32" else 8)
    job = make(output={"products": products, "dtype": dtype, "block_size": size})
    finished = cn.run(job)
    assert finished.blocks == BLOCKS
    ds = cn.open(finished.store)
    T = cn.jacobian(network, X, dtype=np.float64)
    expected = {
        "jacobian": T,
        "value": cn.forward(network, X).T,
        "norm": np.linalg.norm(T, axis=(1, 2)),
        "mean": T.mean(axis=0),
    }
    assert {"jacobian", "value", "norm", "mean"} & set(ds) == set(products)
    for product in products:
        assert ds[product].dtype == dtype
        np.testing.assert_allclose(ds[product], expected[product], rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("orientation", ["features_by_columns", "columns_by_features"])
@pytest.mark.parametrize("format", ["npy", "zarr2", "zarr3"])
def test_every_input_gives_the_same_bits(make, tmp_path, X, orientation: str, format: str) -> None:  # noqa: A002
    expected = bits(cn.run(make()).store)
    stored = X if orientation == "features_by_columns" else np.ascontiguousarray(X.T)
    path = tmp_path / f"other.{format}"
    if format == "npy":
        np.save(path, stored)
    else:
        chunks = (2, 17) if orientation == "features_by_columns" else (17, 2)
        array = zarr.create_array(
            path, shape=X.shape[:: 1 if stored is X else -1], chunks=chunks, dtype="f4",
            zarr_format=int(format[-1]),
        )  # fmt: skip
        array[:] = stored
    job = make(
        input={"path": str(path), "orientation": orientation},
        output={"path": str(tmp_path / "other-out.zarr")},
    )
    assert bits(cn.run(job).store) == expected


def test_a_complete_store_is_left_alone(make) -> None:
    first = cn.run(make())
    before = {path: path.stat().st_mtime_ns for path in Path(first.store).rglob("*")}
    events: list[Any] = []
    # No cluster is even asked for
    again = cn.run(
        make(cluster={"kind": "address", "address": "tcp://127.0.0.1:9"}), listener=events.append
    )
    assert again.blocks_computed == 0
    assert [type(event) for event in events] == [RunStarted, RunFinished]
    assert {path: path.stat().st_mtime_ns for path in Path(first.store).rglob("*")} == before


def test_resuming_computes_only_what_is_missing(make) -> None:
    store = Path(cn.run(make()).store)
    expected = bits(store)
    lost = [2, 7]
    for block in lost:
        (store / "jacobian" / f"c.{block}.0.0").unlink()
    attributes = zarr.open_group(store, mode="r+")
    attributes.update_attributes(
        {"colonnade": {**attributes.attrs["colonnade"], "state": "writing"}}
    )
    events: list[Any] = []
    finished = cn.run(make(), listener=events.append)
    assert events[0].blocks_done == BLOCKS - len(lost)
    assert sorted(event.block for event in events if isinstance(event, BlockDone)) == lost
    assert (finished.state, finished.blocks_computed) == ("complete", len(lost))
    assert bits(store) == expected


def test_resuming_keeps_the_grid_of_the_store(make, job) -> None:
    """block_size: auto may mean another size on another cluster."""
    output = {"block_size": "auto"}
    store = Path(cn.run(make(output=output)).store)
    expected = bits(store)
    (store / "jacobian" / "c.0.0.0").unlink()
    attributes = zarr.open_group(store, mode="r+")
    attributes.update_attributes(
        {"colonnade": {**attributes.attrs["colonnade"], "state": "writing"}}
    )
    cn.run(
        job(output=output, cluster={"kind": "local", "workers": 1, "memory_per_worker": "1 GiB"})
    )
    assert bits(store) == expected


@pytest.mark.parametrize("array", ["jacobian", "norm", "mean_blocks", "mean"])
def test_what_has_gone_from_a_complete_store_is_made_again(make, array: str) -> None:
    store = Path(cn.run(make()).store)
    expected = bits(store)
    final = array == "mean"
    lost = sorted((store / array).glob("c.*"))[0 if final else 3]
    lost.unlink()
    if not final:
        assert Store.open(store).status().state == "damaged"
        with pytest.raises(IncompleteError, match=r"7 of 8 blocks .* its state is damaged"):
            cn.open(store)
    assert cn.run(make()).blocks_computed == (0 if final else 1)
    assert bits(store) == expected
    assert cn.open(store).norm.notnull().all()


def test_a_run_whose_store_is_replaced_writes_nothing_into_the_new_one(make, tmp_path) -> None:
    """Its tasks find another store at the path; the new store's run is not mixed with it."""
    replaced: list[Any] = []

    def replace(event: Any) -> None:
        if isinstance(event, ClusterReady):
            # As where it was silent for too long
            (tmp_path / "out.zarr" / lease.FILE).unlink()
            replaced.append(cn.run(make(network={"activation": "relu"}), overwrite=True))

    with pytest.raises(IncompleteError, match="recreated by another run"):
        cn.run(make(), listener=replace)
    assert replaced[0].state == "complete"
    alone = cn.run(
        make(network={"activation": "relu"}, output={"path": str(tmp_path / "alone.zarr")})
    )
    assert bits(tmp_path / "out.zarr") == bits(alone.store)


def test_two_makers_of_one_store(make, tmp_path) -> None:
    """The second finds a store where there was none when it looked: it is refused, unharmed."""
    real, first = Store.create.__func__, []  # type: ignore[attr-defined]

    def create(cls: Any, *arguments: Any) -> Store:
        if not first:
            first.append(None)
            first.append(cn.run(make()))
        return real(cls, *arguments)  # type: ignore[no-any-return]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "create", classmethod(create))
        with pytest.raises(StoreError, match="another run has just made a store here"):
            cn.run(make())
    assert cn.run(make()).blocks_computed == 0
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    "place", [lambda x: x, lambda x: x / "out.zarr", lambda x: x.parent], ids=["is", "in", "holds"]
)
def test_output_apart_from_input(make, tmp_path, X, place) -> None:
    stored = tmp_path / "in" / "X.zarr"
    zarr.create_array(stored, data=X)
    job = make(input={"path": str(stored)}, output={"path": str(place(stored))})
    for overwrite in (False, True):
        with pytest.raises(StoreError, match=r"output\.path .* and input\.path .* overlap"):
            cn.run(job, overwrite=overwrite)
    np.testing.assert_array_equal(zarr.open_array(stored, mode="r")[:], X)


def test_the_scheduler_dies(job, tmp_path) -> None:
    scheduler = subprocess.Popen(
        [sys.executable, "-m", "distributed.cli.dask_scheduler", "--port", "0", "--host",
         "127.0.0.1", "--no-dashboard", "--scheduler-file", str(tmp_path / "scheduler.json")],
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    worker = subprocess.Popen(
        [sys.executable, "-m", "distributed.cli.dask_worker", "--no-dashboard", "--nthreads", "1",
         "--scheduler-file", str(tmp_path / "scheduler.json"), "--no-nanny"],
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        file = tmp_path / "scheduler.json"
        while not file.exists() or not file.read_text().endswith("}"):
            assert scheduler.poll() is None
        address = json.loads(file.read_text())["address"]
        document = job() | {"cluster": {"kind": "address", "address": address}}

        def kill(event: Any) -> None:
            if isinstance(event, ClusterReady):
                scheduler.kill()
                scheduler.wait()

        with pytest.raises(IncompleteError, match="the scheduler is lost"):
            cn.run(document, listener=kill)
    finally:
        scheduler.kill()
        worker.kill()
        scheduler.wait()
        worker.wait()
    assert cn.run(job()).state == "complete"


def other_weights(path: Path) -> dict[str, Any]:
    save_network(path / "other.npz", make_network(seed=9))
    return {"network": {"weights": str(path / "other.npz")}}


def other_columns(path: Path) -> dict[str, Any]:
    X = make_columns()
    X[0, 50] += 1
    np.save(path / "other.npy", X)
    return {"input": {"path": str(path / "other.npy")}}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (other_weights, "the network"),
        (lambda _: {"network": {"activation": "gelu"}}, "its activation"),
        (other_columns, " X"),
        (lambda _: {"output": {"dtype": "float64"}}, r"output.dtype \(float32 .* float64"),
        (lambda _: {"output": {"block_size": 1200}}, "output.block_size"),
        (lambda _: {"output": {"products": ["norm"]}}, r"output.products \(jacobian\+value"),
        (lambda _: {"output": {"compression": "zstd"}}, "output.compression"),
    ],
)
def test_another_job_is_refused_and_replaces_only_when_told(make, tmp_path, change, told) -> None:
    store = Path(cn.run(make()).store)
    before = bits(store)
    other = make(**change(tmp_path))
    with pytest.raises(StoreError, match=told):
        cn.run(other)
    assert bits(store) == before
    assert cn.run(other, overwrite=True).state == "complete"
    assert bits(store) != before


def test_what_has_changed_of_x_is_told(make, tmp_path, X) -> None:
    """X is replaced at its own place; nothing of the store is."""
    path = tmp_path / "X.zarr"

    def save(data: np.ndarray = X, **options: Any) -> None:
        zarr.create_array(path, data=data, overwrite=True, **{"chunks": (N, 20), **options})

    save()
    job = make(input={"path": str(path)})
    store = cn.run(job).store
    before = bits(store)
    changed = X.copy()
    changed[N - 1, P - 1] += 1
    for change, told in {
        lambda: save(changed): r"X \(its values\)",
        lambda: save(X[:, 1:]): r"X \(its columns 101 in the store, 100 in the job\)",
        lambda: save(X.astype("f8")): "X .its type float32 in the store, float64 in the job",
        lambda: save(chunks=(N, 21)): r"X \(its chunk grid\)\. Choose",
        lambda: save(compressors=None): r"X \(its codecs\)\. Choose",
        lambda: save(changed, compressors=None): r"X \(its codecs; its values\)",
        lambda: save(zarr_format=2): "X .its format zarr 3 in the store, zarr 2 in the job",
    }.items():
        change()
        with pytest.raises(StoreError, match=told):
            cn.run(job)
        assert told.split()[1][2:] in str(cn.verify(store).refused)
    assert bits(store) == before
    save()
    path.rename(tmp_path / "moved.zarr")
    assert cn.run(make(input={"path": str(tmp_path / "moved.zarr")})).blocks_computed == 0


@pytest.mark.parametrize("several", [False, True])
def test_what_differs_in_how_x_is_stored_is_told_in_short(make, tmp_path, X, several) -> None:
    """Its format and short values; of zarr's own metadata no more than the key."""
    group = zarr.create_group(tmp_path / "X.zarr")
    for name, rows in {"a": X[:2], "b": X[2:]}.items() if several else {"a": X}.items():
        group.create_array(name, data=rows, chunks=(1, 20))
    arrays = ["a", "b"] if several else ["a"]
    cn.run(make(input={"path": str(tmp_path / "X.zarr"), "array": arrays}))
    differs = (
        "its arrays"
        if several
        else "its chunk grid; its codecs; its fill value 0.0 in the store, none in the job"
    )
    with pytest.raises(StoreError) as caught:
        cn.run(make())
    assert (
        f"in X (its format zarr 3 in the store, npy in the job; {differs}). Choose another"
        in str(caught.value)
    )
    assert cn.run(make(), overwrite=True).state == "complete"
    np.save(tmp_path / "longer.npy", np.hstack([X, X[:, :1]]))
    chosen = make(input={"path": str(tmp_path / "longer.npy"), "columns": [0, P]})
    with pytest.raises(StoreError, match=r"its selected columns none in the store, \[0, 101\]"):
        cn.run(chosen)


def test_another_byte_order_is_the_same_x(make, tmp_path, X) -> None:
    store = Path(cn.run(make()).store)
    np.save(tmp_path / "big.npy", X.astype(">f4"))
    assert cn.run(make(input={"path": str(tmp_path / "big.npy")})).blocks_computed == 0
    assert (store / "zarr.json").is_file()


def test_home_in_paths(make, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    job = make(input={"path": "~/X.npy"}, output={"path": "~/out.zarr"})
    assert cn.plan(job).grid.blocks == BLOCKS
    assert cn.run(job).state == "complete"
    assert (tmp_path / "out.zarr" / "zarr.json").is_file()


@pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
def test_a_stop_that_python_drops_is_not_lost(make) -> None:
    """A signal that strikes in a finaliser raises into nothing; the next event must stop."""

    class Struck:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    def strike(event: Any) -> None:
        if isinstance(event, BlockDone):
            Struck()

    job = make()
    with pytest.raises(StoppedError, match="SIGTERM"):
        cn.run(job, listener=strike)
    assert cn.run(job).state == "complete"


def test_moved_files_are_the_same_job(make, tmp_path) -> None:
    store = Path(cn.run(make()).store)
    expected = bits(store)
    (store / "jacobian" / "c.3.0.0").unlink()
    attributes = zarr.open_group(store, mode="r+")
    attributes.update_attributes(
        {"colonnade": {**attributes.attrs["colonnade"], "state": "writing"}}
    )
    (tmp_path / "X.npy").rename(tmp_path / "moved.npy")
    cn.run(make(input={"path": str(tmp_path / "moved.npy")}))
    assert bits(store) == expected


def test_overwrite_never_takes_what_is_not_ours(make, tmp_path) -> None:
    (tmp_path / "folder").mkdir()
    letter = tmp_path / "folder" / "letter.txt"
    letter.write_text("mine")
    with pytest.raises(StoreError, match="no store of colonnade"):
        cn.run(make(output={"path": str(letter.parent)}), overwrite=True)
    assert letter.read_text() == "mine"


def test_failed_blocks_are_named_and_the_others_finish(make, tmp_path, X) -> None:
    """A corrupt chunk of X: columns 17 to 33 cannot be read, hence blocks 1 and 2."""
    array = zarr.create_array(tmp_path / "X.zarr", shape=X.shape, chunks=(N, 17), dtype="f4")
    array[:] = X
    expected = bits(cn.run(make(output={"path": str(tmp_path / "expected.zarr")})).store)
    job = make(input={"path": str(tmp_path / "X.zarr")})
    chunk = tmp_path / "X.zarr" / "c" / "0" / "1"
    whole = chunk.read_bytes()
    # The fingerprint reads X, so that the damage must come between it and the tasks
    events: list[Any] = []

    def damage(event: Any) -> None:
        events.append(event)
        if isinstance(event, ClusterReady):
            chunk.write_bytes(whole[:20])

    with pytest.raises(IncompleteError, match=r"block [12] .*and 1 more failed") as caught:
        cn.run(job, listener=damage)
    assert set(caught.value.failures) == {1, 2}
    assert {event.block for event in events if isinstance(event, BlockFailed)} == {1, 2}
    with pytest.raises(IncompleteError, match="6 of 8"):
        cn.open(job["output"]["path"])
    chunk.write_bytes(whole)
    finished = cn.run(job)
    assert finished.blocks_computed == 2
    assert bits(finished.store) == expected


def test_too_large_for_memory_is_refused_before_anything(job, tmp_path) -> None:
    with pytest.raises(TooLargeError, match=r"needs .* has 64.0 MiB.*memory_per_worker"):
        cn.run(job(cluster={"kind": "local", "workers": 2, "memory_per_worker": "64 MiB"}))
    assert not (tmp_path / "out.zarr").exists()


def test_shapes_side_by_side(make, tmp_path) -> None:
    np.save(tmp_path / "X.npy", make_columns(N + 2))
    with pytest.raises(InputError, match=r"n = 5 .* n = 7 .*\(7, 5\).*\(3, 7\).*\(7, 101\)"):
        cn.run(make())
    np.save(tmp_path / "X.npy", make_columns(P, N))
    with pytest.raises(InputError, match="orientation: columns_by_features"):
        cn.run(make())
    assert not (tmp_path / "out.zarr").exists()


def test_no_scheduler_at_the_address(job, tmp_path) -> None:
    document = job()
    document["cluster"] = {"kind": "address", "address": "tcp://127.0.0.1:9", "timeout": 0.5}
    with pytest.raises(ClusterError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9"):
        cn.run(document)
    assert not (tmp_path / "out.zarr").exists()


def test_too_few_workers_at_the_address(make, shared_cluster, tmp_path) -> None:
    with pytest.raises(ClusterError, match=r"2 of 3 workers of tcp:\S+ came within 0\.5 s"):
        cn.run(make() | {"cluster": {**shared_cluster, "workers": 3, "timeout": 0.5}})
    assert not (tmp_path / "out.zarr").exists()


def test_from_another_thread(make) -> None:
    """Signals can be caught by the main thread alone; a notebook's server may not be in it."""
    results: list[Any] = []
    job = make()
    thread = threading.Thread(target=lambda: results.append(cn.run(job)))
    thread.start()
    thread.join()
    assert results[0].state == "complete"


def test_a_script_without_main_guard_is_told_so(job, tmp_path) -> None:
    document = job(cluster={"kind": "local", "workers": 1})
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(document))
    script = tmp_path / "script.py"
    script.write_text("import colonnade as cn\ncn.run('job.yaml')\n")
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 1
    *_, last = done.stderr.splitlines()
    assert last.startswith("colonnade.errors.UsageError: colonnade starts worker processes")
    assert last.endswith("put the call under `if __name__ == '__main__':`.")
    # By the script itself, before it starts any process or makes a store
    assert done.stderr.count("colonnade.errors.UsageError") == 1
    assert not (tmp_path / "out.zarr").exists()


def test_a_call_beside_the_main_guard_is_told_in_a_line(job, tmp_path) -> None:
    """Only the processes notice, each of which says so without its traceback."""
    document = job(cluster={"kind": "local", "workers": 1, "timeout": 60})
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(document))
    script = tmp_path / "script.py"
    script.write_text(
        "import colonnade as cn\ncn.run('job.yaml')\nif __name__ == '__main__':\n    pass\n"
    )
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 1
    *_, last = done.stderr.splitlines()
    assert last.startswith("colonnade.errors.ClusterError: 0 of 1 workers of this machine came")
    assert "\ncolonnade.errors.UsageError: colonnade starts" in f"\n{done.stderr}"
    assert "multiprocessing/spawn.py" not in done.stderr


def test_plan_touches_nothing(job, tmp_path) -> None:
    before = sorted(tmp_path.rglob("*"))
    planned = cn.plan(job())
    assert planned.grid.blocks == BLOCKS
    assert planned.output_bytes == (P * (Q * N + Q + 1) + Q * N) * 4 + BLOCKS * Q * N * 8
    assert sorted(tmp_path.rglob("*")) == sorted(
        {*before, tmp_path / "network.npz", tmp_path / "X.npy"}
    )
