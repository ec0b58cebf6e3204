"""X in HDF5, Parquet, CSV and folders that mean harm, or are damaged, or hold something else."""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import colonnade as cn
from colonnade.inputs import open_columns
from support import N, P, allowed, frugal_refusal, make_columns, refusal, snapshot

X = make_columns()


def hdf5(fill: Callable[[h5py.File], Any]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        with h5py.File(folder / "X.h5", "w") as file:
            fill(file)
        return folder / "X.h5"

    return make


def parquet(**columns: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        pq.write_table(pa.table(columns), folder / "X.parquet")
        return folder / "X.parquet"

    return make


def text(content: str | bytes, name: str = "X.csv") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return make


def external_link(file: h5py.File) -> None:
    file["X"] = h5py.ExternalLink("other.h5", "/X")


def soft_link_to_external(file: h5py.File) -> None:
    file["away"] = h5py.ExternalLink("/etc/passwd", "/")
    file["X"] = h5py.SoftLink("/away/X")


def external_storage(file: h5py.File) -> None:
    file.create_dataset("X", (N, P), "f4", external=[("/etc/passwd", 0, 4 * N * P)])


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((N, P), "f4")
    layout[:] = h5py.VirtualSource("/tmp/other.h5", "X", (N, P))  # noqa: S108 (is never opened)
    file.create_virtual_dataset("X", layout)


def loop(file: h5py.File) -> None:
    file["a"] = h5py.SoftLink("/b")
    file["b"] = h5py.SoftLink("/a")
    file["X"] = h5py.SoftLink("/a")


def compressed_twice(file: h5py.File) -> None:
    created = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    created.set_chunk((N, P))
    created.set_deflate(9)
    created.set_deflate(9)
    space = h5py.h5s.create_simple((N, P))
    h5py.h5d.create(file.id, b"X", h5py.h5t.IEEE_F32LE, space, created)


def typed(dtype: Any) -> Callable[[h5py.File], Any]:
    return lambda file: file.create_dataset("X", (N, P), dtype)


ROWS = "a,b\n1,2\n3,4\n"


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (hdf5(external_link), "links to another file"),
        (hdf5(soft_link_to_external), "links to another file"),
        (hdf5(external_storage), "lie in other files"),
        (hdf5(virtual), "lie in other files"),
        (hdf5(loop), "leads through too many links"),
        (hdf5(compressed_twice), "the same filter more than once"),
        (hdf5(typed("c8")), "is of type complex64"),
        (hdf5(typed(h5py.string_dtype())), "is of type object"),
        (hdf5(typed("S8")), "is of type |S8"),
        (hdf5(typed([("a", "f4"), ("b", "f4")])), "is of type [('a'"),
        (hdf5(typed(h5py.vlen_dtype("f4"))), "is of type object"),
        (hdf5(typed(h5py.ref_dtype)), "is of type object"),
        (hdf5(typed(h5py.opaque_dtype("M8[s]"))), "is of type"),
        (hdf5(lambda f: f.create_dataset("X", (2, 3, 5), "f4")), "its shape is (2, 3, 5)"),
        (hdf5(lambda f: f.create_dataset("X", (N, 0), "f4")), "its shape is (5, 0)"),
        (hdf5(lambda f: f.create_dataset("X", data=h5py.Empty("f4"))), "X is empty"),
        (hdf5(lambda f: f.create_group("X")), "there is no array 'X'; the file holds no array"),
        (hdf5(lambda f: f.create_dataset("x" * 200, (2, 3), "f4")), "the file holds x"),
        (hdf5(lambda f: f.create_dataset("X", (2**40, 2**40), "f8", chunks=(1, 8))), "than 8 EiB"),
        (hdf5(lambda f: f.create_dataset("X", (4, 2**40), "f8", chunks=(1, 2**29 - 1))),
         "bytes to read; store it in smaller ones"),
        (text(b"\x89HDF\r\n\x1a\n" + bytes(500), "X.h5"), "cannot be read as HDF5"),
        (text(b"", "X.h5"), "cannot be read as HDF5"),
        (text(b"garbage" * 100, "X.nc"), "cannot be read as HDF5"),
        (text(b"CDF\x01" + bytes(500), "X.nc"), "this is a NetCDF 3 file"),
        (parquet(a=["x", "y"], b=[1, 2]), "the column 'a' is of type string"),
        (parquet(a=[[1, 2], [3]]), "is of type list"),
        (parquet(a=[{"b": 1.0}]), "is of type struct"),
        (parquet(a=pa.array([1, 2], pa.timestamp("s"))), "is of type timestamp"),
        (parquet(a=pa.array([1, 2], pa.decimal128(5, 2))), "is of type decimal128"),
        (parquet(a=pa.array(["x"]).dictionary_encode()), "is of type dictionary"),
        (parquet(a=pa.array([], pa.float32())), "must be a matrix that is not empty"),
        (parquet(), "has no columns"),
        (text(b"", "X.parquet"), "cannot be read as Parquet"),
        (text(b"PAR1" + bytes(30) + b"\xff\xff\xff\x7fPAR1", "X.parquet"), "cannot be read as"),
        (text(""), "there is no row below the head"),
        (text("a,b\n"), "its shape is (2, 0)"),
        (text("a,b"), "there is no row below the head"),
        (text("1.5,2\n3,4\n"), "here it holds numbers (1.5,2); write a row of names"),
        (text("a,a\n1,2\n"), "two columns have the name 'a'"),
        (text("a,b\n1,2\n3\n"), "Expected 2 columns, got 1"),
        (text("a,b\n1,2\n3,4,5\n"), "Expected 2 columns, got 3"),
        (text("a,b\n1,x\n"), "conversion error to double: invalid value 'x'"),
        (text("a,b\n1,2\n\n3,4\n"), "remove empty lines, and line breaks in quotes"),
        (text('a,b\n1,"2\n"\n3,4\n'), "cannot be read as CSV"),
        (text("a;b\n1,5;2,5\n"), "invalid value '1,5'"),
        (text(b"a,b\n1,\xff\n"), "cannot be read as CSV"),
        (text(b"\xff\xfea\x00,\x00\n"), "cannot be read as CSV"),
        (text("\x1b[2J,b\n1,x\n"), "conversion error"),
        (text(ROWS, "X.csv.gz"), "unpack it"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_files(tmp_path, job, make: Callable[[Path], Path], told: str) -> None:
    path = make(tmp_path)
    array = {"array": "X"} if path.suffix == ".h5" and "x" * 100 not in told else {}
    before = snapshot(tmp_path)
    said = frugal_refusal(lambda: cn.plan(job(input={"path": str(path), **array})))
    assert told in said.replace(str(tmp_path), ""), said
    assert {k: v for k, v in snapshot(tmp_path).items() if k in before} == before


def test_what_a_file_is_no_array_of(tmp_path) -> None:
    for make in (hdf5(external_link), hdf5(loop)):
        path = make(tmp_path)
        assert "the file holds no array" in refusal(lambda p=path: open_columns(p), str(make))
    with h5py.File(path, "w") as file:
        for i in range(30):
            file.create_dataset("x" * 100 + str(i), (2, 2), "f4")
        file["group"] = file["/"]
    assert "…" in frugal_refusal(lambda: open_columns(path))
    assert "there is no array" in frugal_refusal(lambda: open_columns(path, "\x1b[2J/../x"))


def test_settings_that_say_nothing_of_a_file(tmp_path) -> None:
    csv, npy = text(ROWS)(tmp_path), tmp_path / "X.npy"
    np.save(npy, X)
    for path, told in ((csv, "this is a table; leave out input."), (npy, "leave out input.")):
        for asked in ({"array": "X"}, {"features_dim": "n"}, {"column_dims": ["a"]}):
            assert told in refusal(
                lambda p=path, a=asked: open_columns(p, **a), (path.name, str(asked))
            )
    said = refusal(lambda: open_columns(csv, orientation="features_by_columns"))
    assert "the rows of a table are samples" in said


def test_a_chunk_that_unpacks_to_a_thousand_times_its_size(tmp_path) -> None:
    bomb = zlib.compress(bytes(2**26), 9)
    with h5py.File(tmp_path / "X.h5", "w") as file:
        made = file.create_dataset("X", (N, P), "f4", chunks=(N, 8), compression="gzip")
        made.id.write_direct_chunk((0, 8), bomb)
    columns = open_columns(tmp_path / "X.h5")
    assert not columns.read(0, 8).any()
    for use in (lambda: columns.read(0, P), columns.fingerprint):
        with pytest.raises(ValueError, match=r"its chunk at \(0, 8\) has [0-9,]+ bytes"):
            use()


@pytest.mark.parametrize("name", ["X.h5", "X.parquet", "X.csv"])
def test_a_pipe(tmp_path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    assert "neither a file nor a directory" in refusal(lambda: open_columns(tmp_path / name))


def test_a_csv_that_is_too_large(tmp_path) -> None:
    path = text(ROWS)(tmp_path)
    os.truncate(path, 2**31 + 1)
    assert "convert it to Parquet" in frugal_refusal(lambda: open_columns(path))


def test_columns_far_apart(tmp_path) -> None:
    """A chunk that holds a little of very many columns."""
    with h5py.File(tmp_path / "X.h5", "w") as file:
        made = file.create_dataset("X", (100, 30, 1000, 1000), "f4", chunks=(50, 5, 10, 10))
        for axis, name in enumerate(("time", "lev", "lat", "lon")):
            made.dims[axis].label = name
    said = frugal_refusal(lambda: open_columns(tmp_path / "X.h5", features_dim="lev"))
    assert "Store it in chunks of 1 along time, or choose another order" in said


MADE: dict[str, Callable[[Path], Any]] = {
    "X.h5": lambda path: h5py.File(path, "w").create_dataset(
        "X", data=X, chunks=(3, 10), compression="gzip").file.close(),
    "X.parquet": lambda path: pd.DataFrame(X.T, columns=list("abcde")).to_parquet(
        path, row_group_size=30),
    "X.csv": lambda path: pd.DataFrame(X.T, columns=list("abcde")).to_csv(path, index=False),
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    for name, make in MADE.items():
        make(folder / name)
    return folder


@pytest.mark.parametrize("name", MADE)
@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_bytes(made, tmp_path, name: str, data) -> None:
    """What is wrong is told, or is a number like any other."""
    content = bytearray((made / name).read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    for _ in range(data.draw(st.integers(0, 3))):
        start = data.draw(st.integers(0, len(content)))
        content[start : start + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    path = tmp_path / name
    path.write_bytes(content)
    columns = allowed(lambda: open_columns(path), bytes(content))
    if columns is None:
        return
    try:
        assert columns.read(0, columns.p).shape == (columns.n, columns.p)
    except (OSError, ValueError, MemoryError) as error:
        assert len(str(error)) < 1000  # noqa: PT017


@pytest.mark.parametrize("name", MADE)
def test_what_is_damaged_later_fails_its_block(made, tmp_path, name: str) -> None:
    path = tmp_path / name
    shutil.copy(made / name, path)
    columns = open_columns(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 3 : 2 * len(content) // 3] = bytes(len(content) // 3)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot be read|has changed"):
        columns.read(0, P)


def test_values_of_the_job(job) -> None:
    for key, values in {
        "columns": [
            [3],
            [3, 3],
            [5, 2],
            [-1, 2],
            [0, 1.5],
            "0:5",
            [0, True, 2],
            [0, 2**70],
            [],
            {},
        ],
        "features": [[], ["a", "a"], [1, 1], [-1], [True], [1.5], [None], "a", [["a"]], [""], {}],
        "array": [[], ["a", "a"], [3], 7],
        "column_dims": [[], ["a", "a"], "time", [3]],
        "features_dim": [3, ["a"]],
    }.items():
        for value in values:
            said = refusal(lambda k=key, v=value: cn.plan(job(input={k: v})), (key, str(value)))
            assert f"input.{key}" in said
    said = refusal(lambda: cn.plan(job(input={"features_dim": "a", "column_dims": ["a"]})))
    assert "features_dim is one of column_dims" in said
    said = refusal(
        lambda: cn.plan(job(input={"features_dim": "a", "orientation": "columns_by_features"}))
    )
    assert "leave out" in said
    assert json.dumps(cn.plan(job(input={"columns": ["3", "50"]})).as_dict())
