"""Stores whose metadata lie: every command works on them or refuses them, and changes nothing."""

from __future__ import annotations

import copy
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import colonnade as cn
from colonnade.errors import ColonnadeError, IncompleteError, StoreError
from colonnade.inputs import open_columns
from colonnade.job.file import load_job
from colonnade.running.calibrate import plan
from colonnade.running.worker import StoreAddress, compute_block
from colonnade.store import Store, hold, input_record
from support import (
    N,
    P,
    allowed,
    frugal_refusal,
    make_columns,
    make_network,
    refusal,
    save_network,
    snapshot,
)

ARRAYS = ("jacobian", "value", "norm", "mean", "mean_blocks", "nonfinite", "W1", "b1", "W2", "b2")
DOCUMENTS = ("zarr.json", *(f"{name}/zarr.json" for name in ARRAYS))
B, C = 12, 3
Document = dict[str, Any]


@pytest.fixture(scope="module", params=["none", "zstd"])
def made(request, tmp_path_factory) -> Document:
    """A job whose store is complete."""
    folder = tmp_path_factory.mktemp("made")
    network = make_network()
    save_network(folder / "network.npz", network)
    np.save(folder / "X.npy", make_columns())
    size = network.q * network.n * 4
    document = {
        "network": {"weights": str(folder / "network.npz"), "activation": "tanh"},
        "input": {"path": str(folder / "X.npy")},
        "output": {
            "path": str(folder / "out.zarr"), "compression": request.param,
            "products": ["jacobian", "value", "norm", "mean"],
            "block_size": B * size, "chunk_size": C * size,
        },
    }  # fmt: skip
    x = input_record(open_columns(folder / "X.npy"))
    store = Store.create(plan(document), network, load_job(document), x)
    with hold(store.place, "run"):
        for block in range(store.grid.blocks):
            compute_block(StoreAddress(store.path, store.record.id, "run"), block)
    store.finish({"mean": np.zeros((network.q, network.n), np.float32)})
    return document


@pytest.fixture
def store(made: Document) -> Iterator[Path]:
    """The store of that job; what a test changes of its metadata is undone."""
    path = Path(made["output"]["path"])
    kept = {name: (path / name).read_bytes() for name in DOCUMENTS}
    yield path
    for name, content in kept.items():
        (path / name).unlink(missing_ok=True)
        (path / name).write_bytes(content)


def change(store: Path, name: str, by: Callable[[Document], None]) -> None:
    document = json.loads((store / name).read_text())
    by(document)
    (store / name).write_text(json.dumps(document))


def said(**changes: Any) -> Callable[[Path], None]:
    """Change what the store says of itself; grid__columns stands for grid.columns."""

    def spoil(store: Path) -> None:
        def by(document: Document) -> None:
            for key, value in changes.items():
                *sections, last = key.split("__")
                place = document["attributes"]["colonnade"]
                for section in sections:
                    place = place[section]
                place[last] = value

        change(store, "zarr.json", by)

    return spoil


def array(name: str, **changes: Any) -> Callable[[Path], None]:
    """Change what an array's metadata say."""
    return lambda store: change(
        store, f"{name}/zarr.json", lambda document: document.update(changes)
    )


def chunks(*shape: int) -> Document:
    return {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": shape}}}


def everywhere(columns: int, block: int, chunk: int) -> Callable[[Path], None]:
    """A lie in which the record and all arrays agree."""

    def spoil(store: Path) -> None:
        def by(document: Document) -> None:
            blocks = -(-columns // block)
            by_blocks = names[0] in ("mean_blocks", "nonfinite")
            document["shape"][0] = blocks if by_blocks else columns
            if not by_blocks:
                document["chunk_grid"]["configuration"]["chunk_shape"][0] = block
            if document["codecs"][0]["name"] == "sharding_indexed":
                document["codecs"][0]["configuration"]["chunk_shape"][0] = chunk

        for names in (["jacobian"], ["value"], ["norm"], ["mean_blocks"], ["nonfinite"]):
            change(store, f"{names[0]}/zarr.json", by)
        grid = {"columns": columns, "block_columns": block, "chunk_columns": chunk}
        said(grid=grid, input__columns=columns)(store)

    return spoil


DAMAGED = "the store's attribute 'colonnade' is damaged: "
SIZES = f"{DAMAGED}grid: its sizes must be 1 ≤ chunk_columns"
LIES: list[tuple[Callable[[Path], None], str]] = [
    *((said(grid__block_columns=value), SIZES) for value in (0, -12, 10**18, 2)),
    *((said(grid__chunk_columns=value), SIZES) for value in (0, -3, 10**18)),
    *((said(grid__columns=value), SIZES) for value in (0, -101, 10**30, 11)),
    (said(grid__block_columns=24), "its array mean_blocks has the shape (9, 3, 5), not (5, 3, 5)"),
    (said(grid__block_columns=14), "block_columns must be a multiple of chunk_columns"),
    (said(grid__chunk_columns=1), "jacobian has the chunks (3, 3, 5), not (1, 3, 5)"),
    (said(grid__columns=102), "input.columns and grid.columns differ"),
    (said(grid__columns=102, input__columns=102), "norm has the shape (101,), not (102,)"),
    (said(grid__columns=10**18), "blocks in"),
    (said(grid=[P, B, C]), f"{DAMAGED}grid"),
    (said(grid__block_columns="x" * 99999), f"{DAMAGED}grid.block_columns"),
    (everywhere(10**12, 1, 1), "1,000,000,000,000 blocks in"),
    (everywhere(10**12, 10**6, 1), "1,000,000 blocks in 1,000,000,000,000 chunks are more than"),
    (said(arrays=["jacobian"]), "arrays are not those of its products"),
    (said(arrays=[]), "arrays are not those of its products"),
    (said(arrays=["../../X", "jacobian"]), "arrays are not those of its products"),
    (said(arrays=[3] * 999), f"{DAMAGED}arrays.0"),
    (said(network__hidden=[8]), "its array W1 has the shape"),
    (said(network__hidden=[0]), f"{DAMAGED}network.hidden"),
    (said(network__outputs=10**12), "its array mean has the shape"),
    (said(network__inputs=-1), f"{DAMAGED}network.inputs"),
    (said(id="../../elsewhere"), f"{DAMAGED}id"),
    (said(id=""), f"{DAMAGED}id"),
    (said(state="done"), f"{DAMAGED}state"),
    (said(format="\x1b[2J" * 999), "the store has format '"),
    (said(job={}), f"{DAMAGED}job.network"),
    (said(job__output__path="\0"), f"{DAMAGED}job.output.path"),
    (said(job__output__dtype="float64"), "has the type float32, not float64"),
    (said(job__output__products=["norm"]), "arrays are not those of its products"),
    (said(job__output__compression="lz5"), f"{DAMAGED}job.output.compression"),
    (said(job__network__activation="\x1b" * 999), f"{DAMAGED}job.network.activation"),
    (said(job__network__activation={"name": "elu", "alpha": 1e999}), f"{DAMAGED}job.network"),
    (array("jacobian", shape=[10**12, 3, 5]), "jacobian has the shape (1000000000000, 3, 5)"),
    (array("jacobian", shape=[P, 3]), "jacobian is damaged"),
    (array("norm", **chunks(10**12)), "norm has the shards (1000000000000,), not (12,)"),
    (array("value", **chunks(B, 1)), "value has the shards (12, 1), not (12, 3)"),
    (array("norm", chunk_grid={"name": "rectilinear", "configuration": {
        "kind": "inline", "chunk_shapes": [[[12, 8], 5]]}}), "array norm "),
    (array("mean", **chunks(0, 5)), "array mean "),
    (array("W1", **chunks(10**9, 10**9)), "W1 has the shards"),
    (array("W1", shape=[7, 10**12]), "W1 has the shape (7, 1000000000000), not (7, 5)"),
    (array("W1", data_type="float64"), "b1 has the type float32, not float64"),
    (array("W1", data_type="int32", fill_value=0), "W1 has the type int32, not float32"),
    (array("W1", shape=[10**30, 10**30]), "W1 has the shape"),
    (array("norm", data_type="float64"), "norm has the type float64, not float32"),
    (array("norm", fill_value=0.0), "norm has the fill value 0.0, not nan"),
    (array("norm", dimension_names=["x"]), "norm has the dimensions ('x',), not ('column',)"),
    (array("norm", codecs=[{"name": "bytes", "configuration": {"endian": "little"}}]), "codecs"),
    (array("b1", codecs=[{"name": "bytes", "configuration": {"endian": "big"}},
                         {"name": "crc32c"}]), "b1 has other codecs"),
    (array("norm", codecs=[{"name": "\x1b[2J" * 999}]), "norm is damaged"),
    (array("norm", chunk_key_encoding={"name": "default", "configuration": {"separator": "/"}}),
     "norm has its chunks under other names"),
    (array("nonfinite", fill_value=3), "nonfinite has the fill value 3, not 0"),
    (array("nonfinite", data_type="float64"), "nonfinite has the type float64, not int64"),
    *((said(growth=value), f"{DAMAGED}growth")
      for value in (3, [], {"columns": 0, "begun": ""}, {"columns": 50},
                    {"columns": 50, "begun": 3})),
    (said(failed=[{"block": 0, "cause": ""}] * 21), f"{DAMAGED}failed"),
    (said(failed=[{"block": -1, "cause": ""}]), f"{DAMAGED}failed.0.block"),
    *((said(growth={"columns": value, "begun": "", "resized": True}),
       "growth.columns must be at least block_columns and less than columns")
      for value in (B - 1, P, 10**30)),
    (said(growth={"columns": 50, "begun": ""}), "a store that is growing cannot be complete"),
    (said(growth={"columns": 50, "begun": ""}, state="writing", grid__columns=102,
          input__columns=102), "norm has the shape (101,), not (102,)"),
    (said(nonfinite=-1), f"{DAMAGED}nonfinite"),
    (said(nonfinite="3 or so"), f"{DAMAGED}nonfinite"),
    (array("norm", node_type="group"), "norm"),
    (array("norm", zarr_format=2), "norm"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("spoil", "told"), LIES, ids=lambda value: value[-60:] if isinstance(value, str) else "store"
)
def test_lies_are_refused(made, store: Path, spoil: Callable[[Path], None], told: str) -> None:
    spoil(store)
    before = snapshot(store.parent)
    assert told in frugal_refusal(lambda: Store.open(store))
    assert told in refusal(lambda: cn.run(made))
    assert told in refusal(lambda: cn.run(made, overwrite=True))
    assert told in refusal(lambda: cn.open(store, incomplete=True))
    assert snapshot(store.parent) == before


def test_the_truth_is_not(made, store: Path) -> None:
    """What the lies are variations of; a run of it is over before a cluster is started."""
    before = snapshot(store.parent)
    assert Store.open(store).status().state == "complete"
    assert cn.run(made).blocks_computed == 0
    assert cn.open(store).sizes["column"] == P
    assert snapshot(store.parent) == before


@pytest.mark.parametrize("name", ["zarr.json", "jacobian/zarr.json", "W1/zarr.json"])
@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"null", b"3", b"{", b"\xff", b"[" * 100_000, b"9" * 10_000, None, "pipe",
     "directory", "gigabytes"],
)  # fmt: skip
def test_documents_that_are_none(made, store: Path, name: str, content: Any) -> None:
    path = store / name
    path.unlink()
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "pipe":
        os.mkfifo(path)
    elif content == "directory":
        path.mkdir()
    elif content == "gigabytes":
        with path.open("wb") as file:
            file.truncate(2**34)
    try:
        with pytest.raises(StoreError):
            cn.run(made)
        frugal_refusal(lambda: Store.open(store))
    finally:
        if content == "directory":
            path.rmdir()


@pytest.mark.parametrize("kind", ["pipe", "socket"])
@pytest.mark.parametrize("name", ["jacobian/c.3.0.0", "norm/c.1", "mean_blocks/c.2.0.0",
                                  "mean/c.0.0", "nonfinite/c.4", "W1/c/0/0"])  # fmt: skip
def test_what_is_stored_is_no_pipe(made, store: Path, name: str, kind: str, monkeypatch) -> None:
    """Whoever opens a pipe waits for its writer; none ever comes."""
    path = store / name
    kept = path.read_bytes() if path.exists() else None
    path.unlink(missing_ok=True)
    # A socket's path may be short only
    monkeypatch.chdir(path.parent)
    if kind == "pipe":
        os.mkfifo(path.name)
    else:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path.name)
    try:
        assert Store.open(store).status().record.state == "complete"
        found = cn.verify(store)
        assert [f.array for f in found.failures if "not a regular file" in f.cause] == [
            name.partition("/")[0]
        ]
        assert cn.run(made).blocks_computed == 0
        ds = cn.open(store)
        if name.partition("/")[0] in ds:
            with pytest.raises(ValueError, match="not a regular file"):
                ds[name.partition("/")[0]].load()
    finally:
        path.unlink()
        if kept is not None:
            path.write_bytes(kept)


# Clears the screen; turns what follows round; ends a line and forges the next one
STRANGE = "a\x1b[2J\u202eb\u2066c\nstate     complete\x9b31m\u200f"
TEXTS: list[Document] = [
    {"created": STRANGE}, {"finished": STRANGE}, {"versions": {"colonnade": STRANGE}},
    {"folded": [STRANGE]}, {"growth": {"columns": 50, "begun": STRANGE, "resized": True}},
    {"job__input__path": "a\u202eb.npy"}, {"job__network__weights": "a\u202eb.npz"},
    {"job__network__activation": {"name": f"m{STRANGE}:f"}},
    {"labels__left_out": [STRANGE]}, {"labels__input_names": [f"\u202e{i}" for i in range(N)]},
    {"state": "writing", "failed": [{"block": 3, "cause": STRANGE}]},
    {"input__storage": {STRANGE: STRANGE}}, {"versions": {STRANGE: STRANGE}},
]  # fmt: skip


def plain(text: str) -> bool:
    """Whether a terminal shows a text as it is."""
    return all(line.isprintable() for line in text.split("\n"))


@pytest.mark.parametrize("changes", TEXTS, ids="-".join)
def test_no_text_of_a_store_commands_a_terminal(
    store: Path, tmp_path: Path, changes: Document
) -> None:
    """Nor hides, turns round or adds a line: in what is printed, and in the page."""
    said(**changes)(store)
    (store / "jacobian" / "c.3.0.0").rename(tmp_path / "kept")
    lease = {"run": "r", "host": STRANGE, "pid": 1, "process_started": "", "since": STRANGE}
    (store / "W1" / "lease.json").write_text(json.dumps(lease))
    try:
        status = allowed(lambda: Store.open(store).status())
        # An activation's name may be refused
        assert status is not None or "job__network__activation" in changes
        if status is not None:
            assert plain(str(status))
            assert "\nstate     complete" not in str(status)
            with pytest.raises(IncompleteError) as caught:
                cn.open(store)
            assert plain(str(caught.value))
            found = cn.verify(store)
            assert plain(str(found))
            with pytest.raises(ColonnadeError) as told:
                found.require()
            assert plain(str(told.value))
            page = cn.report(store, tmp_path / "page.html").read_text()
            assert not set(page) & {"\x1b", "\u202e", "\u2066", "\u200f", "\x9b"}
            attributes = cn.open(store, incomplete=True).attrs
            assert all(plain(text) for text in attributes.values() if isinstance(text, str))
    finally:
        (tmp_path / "kept").rename(store / "jacobian" / "c.3.0.0")
        (store / "W1" / "lease.json").unlink()


@pytest.mark.parametrize("command", ["status", "verify"])
def test_nor_do_the_commands(store: Path, command: str) -> None:
    for changes in TEXTS:
        if not {"state", "growth", "job__network__activation"} & set(changes):
            said(**changes)(store)
    done = subprocess.run(
        [sys.executable, "-m", "colonnade", command, str(store)],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == {"status": 0, "verify": 3}[command]
    assert plain(done.stdout)
    assert plain(done.stderr)


def places(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON document but its top."""
    below = document.items() if isinstance(document, dict) else ()
    below = enumerate(document) if isinstance(document, list) else below
    for key, value in below:
        yield (*path, key)
        yield from places(value, (*path, key))


values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=4)
    | st.integers(-3, 200) | st.sampled_from([10**18, 2**63, -(10**30), 10**400])
    | st.sampled_from(["NaN", "float32", "big", "../..", "zstd", "\x1b[2J", "0" * 32, 1e400]),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=3), below),
    max_leaves=4,
)  # fmt: skip


@settings(max_examples=100)
@given(data=st.data(), name=st.sampled_from(DOCUMENTS + ("zarr.json",) * 9))
def test_any_mutation(made, data, name: str) -> None:
    store = Path(made["output"]["path"])
    kept = (store / name).read_bytes()
    document = copy.deepcopy(json.loads(kept))
    *above, last = data.draw(st.sampled_from(list(places(document))))
    place = document
    for key in above:
        place = place[key]
    action = data.draw(st.sampled_from(["drop", "replace", "add", "double"]))
    if action == "drop":
        del place[last]
    elif action == "add" and isinstance(place[last], int | float):
        place[last] += data.draw(st.sampled_from([-1, 1, 10**9]))
    elif action == "double" and isinstance(place, list):
        place.append(place[last])
    else:
        place[last] = data.draw(values)
    (store / name).write_text(json.dumps(document))
    try:
        before = snapshot(store)
        opened = allowed(lambda: Store.open(store), (name, json.dumps(document)))
        if opened is not None:
            allowed(lambda: json.dumps(opened.status().as_dict()), (name, json.dumps(document)))
            assert str(opened.status())
        allowed(lambda: cn.open(store), (name, json.dumps(document)))
        allowed(lambda: cn.open(store, incomplete=True), (name, json.dumps(document)))
        assert snapshot(store) == before
    finally:
        (store / name).write_bytes(kept)


def test_names_that_look_like_chunks(store: Path) -> None:
    """Counted are the chunks that the array has, by their one way of being written."""
    strange = ["c.9.0.0", "c.01.0.0", "c.-1.0.0", "c.1.0", "c.1.0.0.0", "c.1.1.0", "c.٣.0.0",
               "c." + "9" * 200 + ".0.0"]  # fmt: skip
    before = Store.open(store).done()
    for name in strange:
        (store / "jacobian" / name).write_bytes(b"")
    (store / "jacobian" / "c.3.0.0").rename(store / "jacobian" / "kept")
    try:
        assert Store.open(store).done() == before - {3}
    finally:
        (store / "jacobian" / "kept").rename(store / "jacobian" / "c.3.0.0")
        for name in strange:
            (store / "jacobian" / name).unlink()


def test_a_grid_that_could_not_be_opened_is_not_made(job, tmp_path: Path) -> None:
    X = tmp_path / "X.zarr"
    zarr.create_array(X, shape=(N, 10**8), chunks=(N, 10**6), dtype="f4")
    document = job(input={"path": str(X)}, output={"block_size": 1, "products": ["norm"]})
    before = sorted(tmp_path.iterdir())
    told = frugal_refusal(lambda: cn.run(document))
    assert "100,000,000 blocks in 100,000,000 chunks are more than 10,000,000" in told
    assert "Raise output.block_size" in told
    assert sorted(tmp_path.iterdir()) == before
