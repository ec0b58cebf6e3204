"""The store: what it says of itself, that others can read it, and that it never claims too much."""

from __future__ import annotations

import gc
import json
import math
import weakref
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Any

import distributed
import numpy as np
import pytest
import tensorstore
import xarray as xr
import zarr

import colonnade as cn
from colonnade.errors import IncompleteError, StoreError
from colonnade.events import BlockDone
from colonnade.grid import Shapes
from colonnade.inputs import open_columns
from colonnade.job.file import load_job
from colonnade.planning.plan import Capacity
from colonnade.planning.sizing import PlanRequest, make_plan
from colonnade.running import worker
from colonnade.running.worker import Failed, Skipped, StoreAddress, compute_block, compute_blocks
from colonnade.store import Store, hold, input_record
from colonnade.store import arrays as store_arrays
from colonnade.store.rounding import round_mantissa
from support import N, P, Q, make_columns, make_network, make_work, save_network

pytestmark = pytest.mark.shared_cluster

B = 13  # columns a block: 8 blocks, the last with 10


def make_store(job: dict[str, Any], network: cn.Network, p: int = P) -> Store:
    checked = load_job(job)
    output = checked.output
    shapes = Shapes(p, network.n, network.m, network.q)
    planned = make_plan(
        PlanRequest(
            shapes=shapes,
            products=output.products,
            dtype=output.dtype,
            x_itemsize=4,
            working_itemsize=4,
            kernel_bytes=0,
            strip_columns=1024,
            compression=output.compression,
            block_size=output.block_size,
            chunk_size=output.chunk_size,
            layout=output.layout,
            work=make_work(shapes),
        ),
        Capacity(1, 1, None),
    )
    x = input_record(open_columns(checked.input.path))
    return Store.create(planned, network, checked, x)


def fill(store: Store, blocks: list[int]) -> None:
    with hold(store.place, "run"):
        for block in blocks:
            compute_block(StoreAddress(store.path, store.record.id, "run"), block)


@pytest.fixture
def store(job, network) -> Store:
    return make_store(job(), network)


def test_group_describes_itself(store: Store, job) -> None:
    said = json.loads((Path(store.path) / "zarr.json").read_text())["attributes"]["colonnade"]
    assert said["format"] == 3
    assert said["state"] == "writing"
    assert said["grid"] == {"columns": P, "block_columns": B, "chunk_columns": B}
    assert said["network"]["fingerprint"] == store.network().fingerprint
    assert said["job"]["network"]["activation"] == {"name": "tanh"}
    assert said["versions"]["zarr"] == zarr.__version__
    assert load_job(said["job"]) == load_job(job())


def test_arrays_describe_themselves(store: Store) -> None:
    group = zarr.open_group(store.path, mode="r")
    dimensions = {name: array.metadata.dimension_names for name, array in group.arrays()}
    assert dimensions == {
        "jacobian": ("column", "output", "input"),
        "value": ("column", "output"),
        "norm": ("column",),
        "mean": ("output", "input"),
        "mean_blocks": ("block", "output", "input"),
        "nonfinite": ("block",),
        "nonfinite_results": ("block",),
        "W1": ("hidden", "input"),
        "b1": ("hidden",),
        "W2": ("output", "hidden"),
        "b2": ("output",),
    }
    for name, array in group.arrays():
        assert math.isnan(array.fill_value) or name.startswith("nonfinite"), name
        assert array.attrs["long_name"], name
        assert name in {"W1", "b1", "W2", "b2"} or "formula" in array.attrs, name


@pytest.mark.parametrize("chunk_columns", [B, 3])
@pytest.mark.parametrize("compression", ["none", "lz4", "zstd"])
def test_every_chunk_ends_in_a_checksum(job, network, compression: str, chunk_columns: int) -> None:
    size = chunk_columns * Q * N * 4
    store = make_store(job(output={"compression": compression, "chunk_size": size}), network)
    for _, array in zarr.open_group(store.path, mode="r").arrays():
        codecs = array.metadata.to_dict()["codecs"]
        if codecs[0]["name"] == "sharding_indexed":
            assert codecs[0]["configuration"]["index_codecs"][-1]["name"] == "crc32c"
            codecs = codecs[0]["configuration"]["codecs"]
        assert codecs[-1]["name"] == "crc32c"


@pytest.mark.parametrize("chunk_columns", [B, 3])
def test_significant_bits(job, network, chunk_columns: int) -> None:
    output = {"compression": "zstd", "chunk_size": chunk_columns * Q * N * 4}
    whole = make_store(job(output=output), network)
    fill(whole, list(range(whole.grid.blocks)))
    path = f"{whole.path}-rounded"
    rounded = make_store(job(output=output | {"path": path, "significant_bits": 7}), network)
    fill(rounded, list(range(rounded.grid.blocks)))
    T = zarr.open_array(f"{whole.path}/jacobian", mode="r")[...]
    found = zarr.open_array(f"{path}/jacobian", mode="r")
    round_mantissa(T, 7)
    np.testing.assert_array_equal(found[...], T)
    assert found.attrs["significant_bits"] == 7


@pytest.mark.parametrize("place", ["shard", "index"])
@pytest.mark.parametrize("chunk_columns", [B, 3])
def test_a_flipped_bit_is_noticed(job, network, chunk_columns: int, place: str) -> None:
    store = make_store(job(output={"chunk_size": chunk_columns * Q * N * 4}), network)
    fill(store, [0])
    shard = Path(store.path) / "jacobian" / "c.0.0.0"
    data = bytearray(shard.read_bytes())
    data[17 if place == "shard" else -9] ^= 4
    shard.write_bytes(data)
    with pytest.raises(ValueError, match=r"(?i)checksum|crc"):
        zarr.open_group(store.path, mode="r")["jacobian"][:3]


@pytest.mark.parametrize("compression", ["none", "lz4", "zstd"])
@pytest.mark.parametrize("chunk_columns", [B, 3])
def test_xarray_and_tensorstore_read_what_was_computed(
    job, network, X, compression: str, chunk_columns: int
) -> None:
    size = chunk_columns * Q * N * 4
    store = make_store(job(output={"compression": compression, "chunk_size": size}), network)
    fill(store, list(range(store.grid.blocks)))
    T = cn.jacobian(network, X)
    with xr.open_zarr(store.path, consolidated=False) as ds:
        assert ds.jacobian.sizes == {"column": P, "output": Q, "input": N}
        # A block's product may round in another order than that of all columns at once
        np.testing.assert_allclose(ds.jacobian.values, T, rtol=1e-5, atol=1e-6)
        whole = ds.jacobian.values
    read = tensorstore.open(
        {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{store.path}/jacobian/"}}
    ).result()
    assert read.domain.labels == ("column", "output", "input")
    np.testing.assert_array_equal(read.read().result(), whole)


def test_blocks_count_as_done_when_their_main_shard_is_there(store: Store) -> None:
    assert store.done() == set()
    fill(store, [2, 7])
    assert store.done() == {2, 7}
    assert store.status().missing == (0, 1, 3, 4, 5, 6)
    (Path(store.path) / "jacobian" / "c.2.0.0").unlink()
    # A writer that was killed leaves its unfinished file behind
    (Path(store.path) / "jacobian" / "c.3.0.0.0123abc.partial").write_bytes(b"half")
    assert store.done() == {7}


def test_finishing_clears_what_killed_writers_left(store: Store) -> None:
    fill(store, list(range(store.grid.blocks)))
    before = {path for path in Path(store.path).rglob("*") if path.is_file()}
    for array in store.record.arrays:
        (Path(store.path) / array / "c.3.0.0.0123abc.partial").write_bytes(b"half")
    store.finish({})
    assert {path for path in Path(store.path).rglob("*") if path.is_file()} == before


def test_finishing_clears_stores_that_killed_makers_left(store: Store, tmp_path: Path) -> None:
    """Each has another id; what merely looks alike is somebody else's."""
    fill(store, list(range(store.grid.blocks)))
    made = tmp_path / f".out.zarr.{'0f' * 16}"
    kept = [tmp_path / f".out.zarr.{'0f' * 15}", tmp_path / f".out-zarr.{'0f' * 16}"]
    for path in (made, *kept):
        (path / "jacobian").mkdir(parents=True)
    store.finish({"mean": np.zeros((Q, N), np.float32)})
    assert not made.exists()
    assert all(path.exists() for path in kept)


@pytest.mark.parametrize(
    ("products", "main"),
    [
        (["jacobian", "value", "norm", "mean"], "jacobian"),
        (["value", "norm", "mean"], "value"),
        (["norm", "mean"], "norm"),
        (["mean"], "mean_blocks"),
        (["norm"], "norm"),
    ],
)
def test_main_array_is_written_last(job, network, monkeypatch, products, main) -> None:
    store = make_store(job(output={"products": products}), network)
    assert store.record.arrays[-1] == main
    order: list[str] = []
    put = store_arrays._put
    monkeypatch.setattr(
        store_arrays, "_put", lambda array, *rest: (order.append(array.basename), put(array, *rest))
    )
    fill(store, [0])
    assert order[-1] == main
    assert sorted(order) == sorted(store.record.arrays)
    assert store.done() == {0}


def test_a_block_of_zeros_is_done_too(tmp_path: Path, job) -> None:
    """Saturated slopes: relu below its kink."""
    network = make_network(activation="relu")
    network = cn.Network(network.W1, network.b1 - 1000, network.W2, network.b2, "relu")
    save_network(tmp_path / "network.npz", network)
    store = make_store(job(network={"activation": "relu"}), network)
    fill(store, [0])
    assert store.done() == {0}
    assert not zarr.open_group(store.path, mode="r")["jacobian"][:B].any()


def test_missing_blocks_read_as_nan(store: Store) -> None:
    fill(store, [1])
    T = zarr.open_group(store.path, mode="r")["jacobian"]
    assert np.isnan(T[:B]).all()
    assert np.isfinite(T[B : 2 * B]).all()


def test_open_refuses_an_incomplete_store_unless_asked(store: Store) -> None:
    fill(store, [1])
    with pytest.raises(IncompleteError, match=r"1 of 8 blocks are there .* its state is writing"):
        cn.open(store.path)
    ds = cn.open(store.path, incomplete=True)
    assert int(ds.jacobian.isnull().all(("output", "input")).sum()) == P - B


def test_open_is_lazy_and_follows_the_chunks(job, network) -> None:
    store = make_store(job(output={"chunk_size": 3 * Q * N * 4}), network)
    ds = cn.open(store.path, incomplete=True)
    assert ds.jacobian.chunks[0] == (3,) * 33 + (2,)


def test_rewriting_a_block_gives_the_same_bytes(store: Store) -> None:
    fill(store, [4])
    shard = Path(store.path) / "jacobian" / "c.4.0.0"
    first = shard.read_bytes()
    fill(store, [4])
    assert shard.read_bytes() == first


def test_a_task_refuses_another_making_of_the_store(store: Store) -> None:
    with pytest.raises(StoreError, match="deleted or recreated"):
        compute_block(StoreAddress(store.path, "another", "run"), 0)


def test_a_task_of_a_run_that_has_lost_the_store_writes_nothing(store: Store) -> None:
    address = StoreAddress(store.path, store.record.id, "run")
    with pytest.raises(StoreError, match="no longer holds"):
        compute_block(address, 0)
    with hold(store.place, "its successor"), pytest.raises(StoreError, match="no longer holds"):
        compute_block(address, 0)
    assert store.done() == set()


def test_a_task_of_a_run_that_stops_begins_no_block(store: Store) -> None:
    address = StoreAddress(store.path, store.record.id, "run")
    with hold(store.place, "run") as lease:
        first = compute_blocks(address, [3])
        lease.stop()
        rest = compute_blocks(address, [5, 7])
    assert [type(receipt) for receipt in first] == [BlockDone]
    assert rest == [Skipped(5), Skipped(7)]
    assert store.done() == {3}


def test_a_block_fails_at_once_where_x_has_gone(job, network, X, tmp_path, monkeypatch) -> None:
    """Were each of thousands to wait for seconds, twice, the run would not end."""
    path = tmp_path / "X.zarr"
    zarr.create_array(path, data=X)
    store = make_store(job(input={"path": str(path)}), network)
    address = StoreAddress(store.path, store.record.id, "run")
    with hold(store.place, "run"):
        compute_blocks(address, [3])
        path.rename(tmp_path / "away.zarr")
        monkeypatch.setattr("time.sleep", lambda _: pytest.fail("it waits"))
        (gone,) = compute_blocks(address, [5])
    assert isinstance(gone, Failed)
    assert "X.zarr" in gone.cause


def test_runs_that_share_a_worker_keep_what_they_have_opened(
    job, network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two by turns open nothing anew; a third takes the place of the one that is longest idle."""
    stores = [make_store(job(output={"path": str(tmp_path / f"{i}.zarr")}), network) for i in "012"]
    addresses = [StoreAddress(store.path, store.record.id, f"run {store.path}") for store in stores]
    one, other, third = addresses
    monkeypatch.setattr(worker, "_prepared", worker._Prepared())
    with ExitStack() as held:
        for store, address in zip(stores, addresses, strict=True):
            held.enter_context(hold(store.place, address.run))
        kept = [weakref.ref(worker._prepared.get(address)) for address in (one, other)]
        for block in range(3):
            for address in (one, other):
                compute_block(address, block)
        assert [worker._prepared.get(address) for address in (one, other)] == [r() for r in kept]
        compute_block(third, 0)
        gc.collect()
        assert [reference() is None for reference in kept] == [True, False]
    worker.release(other)
    worker.release(third)
    gc.collect()
    assert kept[1]() is None
    assert not worker._prepared._works


def test_a_worker_that_outlives_a_run_keeps_nothing_of_it(job, shared_cluster) -> None:
    cn.run(job())
    with distributed.Client(shared_cluster["address"]) as client:
        kept = client.run(lambda: len(import_module("colonnade.running.worker")._prepared._works))
    assert set(kept.values()) == {0}


def test_a_receipt_tells_what_was_done(store: Store) -> None:
    with hold(store.place, "run"):
        receipt = compute_block(StoreAddress(store.path, store.record.id, "run"), 7)
    assert (receipt.start, receipt.stop, receipt.columns) == (91, 101, 10)
    assert receipt.bytes_written == 10 * (Q * N + Q + 1) * 4 + Q * N * 8
    assert receipt.started < receipt.ended
    assert receipt.peak_memory > 2**24


def test_one_column(job, tmp_path: Path, network) -> None:
    X = make_columns(p=1)
    np.save(tmp_path / "X.npy", X)
    store = make_store(job(output={"block_size": "auto"}), network, p=1)
    fill(store, [0])
    T = zarr.open_group(store.path, mode="r")["jacobian"]
    np.testing.assert_allclose(T[:], cn.jacobian(network, X), rtol=1e-5, atol=1e-6)


def test_find_refuses_what_is_not_ours(tmp_path: Path) -> None:
    assert Store.find(tmp_path / "nothing") is None
    (tmp_path / "empty").mkdir()
    assert Store.find(tmp_path / "empty") is None
    file = tmp_path / "file.zarr"
    file.write_text("mine")
    zarr.create_group(tmp_path / "group.zarr", attributes={"mine": 1})
    zarr.create_array(tmp_path / "array.zarr", shape=(2,), dtype="f4")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "letter.txt").write_text("mine")
    for name in ("file.zarr", "group.zarr", "array.zarr", "folder"):
        with pytest.raises(StoreError, match=f"{name}: this is no store of colonnade"):
            Store.find(tmp_path / name)
    with pytest.raises(StoreError, match="there is no store"):
        Store.open(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"format": 1}, "format 1"),
        ({"format": None}, "format None"),
        ({"state": "done"}, "damaged: state"),
        ({"grid": {"columns": P}}, "damaged: grid.block_columns"),
        ({"job": "none"}, "damaged: job"),
    ],
)
def test_damaged_attributes_are_told(store: Store, change: dict[str, Any], told: str) -> None:
    path = Path(store.path) / "zarr.json"
    document = json.loads(path.read_text())
    document["attributes"]["colonnade"] |= change
    path.write_text(json.dumps(document))
    with pytest.raises(StoreError, match=told):
        Store.open(store.path)


def test_status_tells_and_serialises(store: Store) -> None:
    fill(store, [0, 1, 2, 5])
    status = store.status()
    assert "4 of 8 (52 of 101 columns)" in str(status)
    assert "blocks 3–4, 6–7" in str(status)
    said = json.loads(json.dumps(status.as_dict()))
    assert said["missing"] == [3, 4, 6, 7]
    assert said["columns_done"] == 52
    assert said["state"] == "writing"
