"""X in the files that people have, made by the libraries that they use: the same as in a .npy."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import csv

import colonnade as cn
from colonnade.errors import StoreError
from colonnade.inputs import InputMatrix, open_columns
from support import make_columns, make_network, refusal

N, P = 7, 211
NAMES = ("t", "q", "u", "v", "ps", "a.b", "solar flux")


@pytest.fixture
def X() -> np.ndarray:  # noqa: N802 (the letter of the mathematics)
    return make_columns(N, P)


def same(columns: InputMatrix, X: np.ndarray, step: int = 47) -> None:
    """It is X, whatever is read of it; and in blocks, as a worker reads it."""
    assert (columns.n, columns.p, columns.dtype) == (*X.shape, X.dtype)
    p = columns.p
    for start, stop in ((0, p), (0, 1), (p - 1, p), (p // 3, p // 2), (p // 2, p // 2)):
        found = columns.read(start, stop)
        np.testing.assert_array_equal(found, X[:, start:stop], strict=True)
        assert found.flags.writeable
    with ThreadPoolExecutor(2) as threads:
        parts = list(threads.map(lambda k: columns.read(k, min(k + step, p)), range(0, p, step)))
    np.testing.assert_array_equal(np.hstack(parts), X, strict=True)
    assert json.loads(json.dumps(columns.storage)) == columns.storage


def as_npy(tmp_path: Path, X: np.ndarray) -> InputMatrix:
    np.save(tmp_path / "same.npy", X)
    return open_columns(tmp_path / "same.npy")


# Tables


def table(X: np.ndarray, names: Any = NAMES) -> pd.DataFrame:
    return pd.DataFrame(dict(zip(names, X, strict=True)))


def test_parquet(tmp_path, X) -> None:
    for groups in (P, 1000, 50, 1):
        table(X).to_parquet(tmp_path / "x.parquet", row_group_size=groups, index=False)
        columns = open_columns(tmp_path / "x.parquet")
        same(columns, X)
        assert columns.feature_names == NAMES
        assert columns.chunk_columns == min(groups, P)
        assert columns.fingerprint() == as_npy(tmp_path, X).fingerprint()
    # What pandas keeps of its index is no feature
    frame = table(X)[::-1][::-1]
    frame.index = frame.index * 2 + 1
    frame.set_index(frame.index.rename("sample")).to_parquet(tmp_path / "x.PQ")
    same(open_columns(tmp_path / "x.PQ"), X)


def test_parquet_types(tmp_path, X) -> None:
    """Columns of several types have the type that holds them all."""
    floats = {"f2": np.float16, "f4": np.float32, "f8": np.float64}
    whole = np.arange(P, dtype=np.int32)
    kinds = {"b": whole % 2 == 0, "i1": (whole % 100).astype("i1"), "u2": whole.astype("u2"),
             "i4": whole, "i8": whole.astype("i8") * 2**20}  # fmt: skip
    columns = {name: X[0].astype(dtype) for name, dtype in floats.items()} | kinds
    path = tmp_path / "x.parquet"
    for chosen in [(name,) for name in columns] + list(itertools.combinations(columns, 2)):
        pq.write_table(pa.table({name: columns[name] for name in chosen}), path, row_group_size=60)
        dtype = np.result_type(*(columns[name].dtype for name in chosen))
        same(open_columns(path), np.stack([columns[name].astype(dtype) for name in chosen]))


@pytest.mark.parametrize("statistics", [True, False])
def test_what_is_missing_in_a_table_is_nan(tmp_path, statistics: bool) -> None:
    values = {
        "a": [1.5, None, 3.5, float("inf")],
        "i": [1, 2, None, 4],
        "b": [True, None, None, False],
        "s": [1, 2, 3, None],
    }
    types = [pa.float32(), pa.int64(), pa.bool_(), pa.int16()]
    made = {k: pa.array(v, t) for (k, v), t in zip(values.items(), types, strict=True)}
    path = tmp_path / "x.parquet"
    for name, dtype in {"a": "f4", "i": "f8", "b": "f4", "s": "f4"}.items():
        pq.write_table(pa.table({name: made[name]}), path, write_statistics=statistics)
        expected = np.array([[np.nan if v is None else v for v in values[name]]], dtype)
        same(open_columns(path), expected, 3)
    pq.write_table(pa.table(made), path, row_group_size=3)
    columns = open_columns(path)
    assert columns.dtype == np.float64
    assert np.isnan(columns.read(0, 4)).sum() == 5
    (tmp_path / "x.csv").write_text("a,b\n1.5,\n,NaN\nNA,-inf\n3,4\n")
    expected = np.array([[1.5, np.nan, np.nan, 3], [np.nan, np.nan, -np.inf, 4]])
    same(open_columns(tmp_path / "x.csv"), expected, 3)


@pytest.mark.parametrize("step", [1, 40, 2**18])
@pytest.mark.parametrize("block", [7, 1000])
def test_csv(tmp_path, monkeypatch, X, step: int, block: int) -> None:
    """Its rows are found, wherever the blocks in which it is read for them end."""
    module = pytest.importorskip("colonnade.inputs.csv")
    monkeypatch.setattr(module, "_STEP", step)
    monkeypatch.setattr(module, "_BLOCK", block)
    module._index.cache_clear()
    X = X.astype(np.float64)
    for name, options in {
        "x.csv": {},
        "x.tsv": {"sep": "\t"},
        "semicolons.csv": {"sep": ";"},
        "windows.csv": {"lineterminator": "\r\n", "encoding": "utf-8-sig"},
    }.items():
        path = tmp_path / name
        table(X).to_csv(path, index=False, **options)
        columns = open_columns(path)
        same(columns, X)
        assert columns.feature_names == NAMES
        if name == "x.csv":
            # The last line ends with the file, or empty lines do
            for text in (path.read_text().rstrip(), path.read_text() + "\n\r\n"):
                path.write_text(text)
                same(open_columns(path), X)
                same(open_columns(path, features=["ps", 0], columns=(30, 190)), X[[4, 0], 30:190])
    csv.write_csv(pa.table({"only": X[0]}), tmp_path / "one.csv")
    same(open_columns(tmp_path / "one.csv"), X[:1])


def test_a_table_that_changes_is_noticed(tmp_path, X) -> None:
    for suffix, write in (("parquet", pd.DataFrame.to_parquet), ("csv", pd.DataFrame.to_csv)):
        path = tmp_path / f"x.{suffix}"
        write(table(X), path, index=False)
        columns = open_columns(path)
        write(table(X + 1), path, index=False)
        with pytest.raises(ValueError, match="has changed since it was opened"):
            columns.read(0, 3)
        path.unlink()
        with pytest.raises(FileNotFoundError):
            columns.read(0, 3)


# Dimensions with names

SIZES = {"time": 5, "lev": 3, "lat": 7, "lon": 11}
LEVELS = [1000.0, 850.0, 92.5]


@pytest.fixture(scope="module")
def climate() -> xr.Dataset:
    rng = np.random.default_rng(0)

    def field(*dims: str) -> tuple[tuple[str, ...], np.ndarray]:
        return dims, rng.standard_normal([SIZES[d] for d in dims]).astype(np.float32)

    return xr.Dataset(
        {"t": field("time", "lev", "lat", "lon"), "q": field("lat", "time", "lon", "lev"),
         "ps": field("time", "lat", "lon")},
        coords={"lev": LEVELS, "lat": np.linspace(-60, 60, 7)},
    )  # fmt: skip


def save_netcdf(ds: xr.Dataset, path: Path, engine: str, chunks: Any) -> Path:
    path = path / "x.nc"
    encoding = {}
    for name, variable in ds.data_vars.items():
        if chunks:
            sizes = tuple(min(chunks[d], SIZES[d]) for d in variable.dims)
            encoding[name] = {"chunksizes": sizes, "zlib": True}
        else:
            encoding[name] = {"contiguous": True}
    ds.to_netcdf(path, engine=engine, encoding=encoding)
    return path


def save_xarray_zarr(ds: xr.Dataset, path: Path, version: int, chunks: Any) -> Path:
    path = path / "x.zarr"
    encoding: dict[str, Any] = {}
    if chunks:
        encoding = {n: {"chunks": [chunks[d] for d in v.dims]} for n, v in ds.data_vars.items()}
    ds.to_zarr(path, mode="w", zarr_format=version, consolidated=False, encoding=encoding)
    return path


WRITERS: dict[str, Callable[..., Path]] = {
    "h5netcdf": lambda ds, path, chunks=None: save_netcdf(ds, path, "h5netcdf", chunks),
    "netcdf4": lambda ds, path, chunks=None: save_netcdf(ds, path, "netcdf4", chunks),
    "zarr 2": lambda ds, path, chunks=None: save_xarray_zarr(ds, path, 2, chunks),
    "zarr 3": lambda ds, path, chunks=None: save_xarray_zarr(ds, path, 3, chunks),
}
CHUNKS = [
    None,
    {"time": 1, "lev": 3, "lat": 7, "lon": 11},
    {"time": 2, "lev": 2, "lat": 3, "lon": 4},
    {"time": 1, "lev": 1, "lat": 2, "lon": 5},
    {"time": 5, "lev": 3, "lat": 1, "lon": 1},
]


def stacked(ds: xr.Dataset, names: list[str], dims: tuple[str, ...]) -> np.ndarray:
    """X as xarray has it."""
    parts = [
        ds[name].stack(column=dims).transpose(..., "column").values.reshape(-1, 5 * 7 * 11)
        for name in names
    ]
    return np.concatenate(parts)


@pytest.mark.parametrize(
    ("writer", "chunks"),
    # Zarr's small chunks are files, and slow
    [(w, c) for w in WRITERS for c in (CHUNKS[:3] if "zarr" in w else CHUNKS)],
    ids=str,
)
def test_dimensions_with_names(tmp_path, climate, writer: str, chunks: Any) -> None:
    path = WRITERS[writer](climate, tmp_path, chunks)
    dims = ("time", "lat", "lon")
    for names in (["t"], ["q"], ["t", "q", "ps"]):
        columns = open_columns(path, names, features_dim="lev", column_dims=dims)
        X = stacked(climate, names, dims)
        same(columns, X)
        labels = ("1000", "850", "92.5")
        if names == ["t"]:
            assert columns.feature_names == labels
        assert columns.fingerprint() == as_npy(tmp_path, X).fingerprint()
    names = (*(f"{v}[{label}]" for v in "tq" for label in labels), "ps")
    assert columns.feature_names == names
    for order in [("lat", "time", "lon"), ("lon", "lat", "time")]:
        columns = open_columns(path, "q", features_dim="lev", column_dims=order, columns=(5, 301))
        same(columns, stacked(climate, ["q"], order)[:, 5:301], 53)
    chosen = ["ps", "q[92.5]", 0]
    columns = open_columns(
        path, ["t", "q", "ps"], features_dim="lev", column_dims=("time", "lat", "lon"),
        features=chosen, columns=(5, 301),
    )  # fmt: skip
    same(columns, stacked(climate, ["t", "q", "ps"], ("time", "lat", "lon"))[[6, 5, 0], 5:301])
    assert columns.feature_names == ("ps", "q[92.5]", "t[1000]")


def test_what_is_left_out_of_the_dimensions(tmp_path, climate) -> None:
    path = WRITERS["h5netcdf"](climate, tmp_path)
    dims = ("time", "lat", "lon")
    same(open_columns(path, "t", features_dim="lev"), stacked(climate, ["t"], dims))
    # The one that is left holds the features, and without one a variable is a feature
    same(open_columns(path, "t", column_dims=dims), stacked(climate, ["t"], dims))
    same(open_columns(path, "ps", column_dims=dims), stacked(climate, ["ps"], dims))
    for asked, told in {
        ("t", None, None): "is (time: 5, lev: 3, lat: 7, lon: 11). Name the dimension",
        ("t", "level", None): "has no dimension level",
        ("t", "lev", ("time", "lat", "long")): "has no dimension long",
        ("t", "lev", ("time", "lat")): "leave out lon",
        ("ps", None, ("time",)): "leave out lat, lon",
        ("lev", "lev", None): "none of its dimensions is left",
        (None, "lev", None): "3 of its arrays could be X (lev, q, t); name it with input.array, or "
        "several as a list, [lev, q, t]; the file holds",
        (None, None, None): "none of its arrays could be X; name it with input.array, and if it "
        "has more than two dimensions, name that of the features with input.features_dim or those "
        "of the columns with input.column_dims; the file holds",
        (None, "level", ("time",)): "none of its arrays has the dimensions level, time that "
        "input.features_dim and input.column_dims name; the file holds",
        ("tt", "lev", None): "there is no array 'tt'; the file holds lat (lat: 7), ",
        (("t", "tt"), "lev", None): "there is no array 'tt'",
    }.items():
        array, features, columns = asked
        said = refusal(
            lambda a=array, f=features, c=columns: open_columns(
                path, a, features_dim=f, column_dims=c
            ),
            asked,
        )
        assert told in said, said
    # Matrices beside the arrays that are meant
    path = WRITERS["h5netcdf"](climate.assign(a=climate.ps[0], b=climate.ps[1]), tmp_path)
    said = refusal(lambda: open_columns(path))
    assert "2 of its arrays could be X (a, b); name it with input.array, or several as" in said
    assert "[a, b], and if it has more than two dimensions, name that of the features" in said
    said = refusal(lambda: open_columns(path, ["t", "lat"], features_dim="lev"))
    assert "have different columns: t (time: 5, lev: 3, lat: 7, lon: 11), lat (lat: 7)" in said


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(data=st.data())
def test_any_range_of_any_chunks(tmp_path, climate, data) -> None:
    chunks = {d: data.draw(st.integers(1, size)) for d, size in SIZES.items()}
    dims = data.draw(st.permutations(["time", "lat", "lon"]))
    writer = data.draw(st.sampled_from(["h5netcdf", "zarr 3"]))
    path = WRITERS[writer](climate[["q"]], tmp_path, chunks)
    columns = open_columns(path, features_dim="lev", column_dims=dims)
    X = stacked(climate, ["q"], dims)
    for _ in range(3):
        start, stop = sorted(data.draw(st.tuples(*[st.integers(0, 385)] * 2)))
        np.testing.assert_array_equal(columns.read(start, stop), X[:, start:stop], strict=True)


# Packed numbers


@pytest.mark.parametrize(
    ("dtype", "attributes"),
    [
        ("i2", {"scale_factor": np.float32(0.01), "add_offset": np.float32(273.15)}),
        ("i2", {"scale_factor": 0.01, "add_offset": 273.15, "_FillValue": np.int16(7)}),
        ("i4", {"scale_factor": np.float32(0.1), "add_offset": np.float32(3)}),
        ("i2", {"scale_factor": np.float32(0.1), "_FillValue": np.int16(7)}),
        ("u1", {"scale_factor": 0.1}),
        ("i2", {"add_offset": np.float32(5), "missing_value": np.int16(7)}),
        ("i2", {"_FillValue": np.int16(7)}),
        ("i4", {"_FillValue": np.int32(7), "missing_value": np.int32(7)}),
        ("f4", {"_FillValue": np.float32(7)}),
        ("f4", {"_FillValue": np.float32("nan")}),
        ("f8", {"_FillValue": 7.0}),
        ("i1", {"_Unsigned": "true", "_FillValue": np.int8(-1), "scale_factor": 0.5}),
        ("f4", {"units": "K"}),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["netcdf", "zarr 2", "zarr 3"])
def test_packed_numbers_are_those_of_xarray(tmp_path, dtype: str, attributes, kind: str) -> None:
    stored = np.arange(-40, 65).reshape(5, 21).astype(dtype)
    path = tmp_path / ("x.nc" if kind == "netcdf" else "x.zarr")
    if kind == "netcdf":
        with h5py.File(path, "w") as file:
            made = file.create_dataset("x", data=stored)
            made.attrs.update(attributes)
            for axis, name in enumerate(("level", "sample")):
                file[name] = np.arange(stored.shape[axis])
                file[name].make_scale(name)
                made.dims[axis].attach_scale(file[name])
        ds = xr.open_dataset(path, engine="h5netcdf")
    else:
        if "missing_value" in attributes or "_Unsigned" in attributes:
            pytest.skip("xarray keeps other attributes there")
        raw = xr.Dataset({"x": (("level", "sample"), stored, attributes)})
        raw.to_zarr(path, zarr_format=int(kind[-1]), consolidated=False)
        ds = xr.open_zarr(path, consolidated=False)
    expected = ds.x.values
    ds.close()
    same(open_columns(path, "x"), expected, 4)
    same(open_columns(path, "x", "columns_by_features"), expected.T, 4)
    if len(attributes) > 1:
        assert "scale_factor" in str(open_columns(path, "x").storage)


def test_attributes_that_are_no_numbers(tmp_path, X) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["X"] = X
        file["X"].attrs["scale_factor"] = "ten"
    assert "scale_factor must be a number" in refusal(lambda: open_columns(tmp_path / "x.h5"))


# Folders of .npy


@pytest.mark.parametrize("orientation", ["features_by_columns", "columns_by_features"])
@pytest.mark.parametrize("orders", ["C", "CF"])
def test_folders(tmp_path, X, orientation, orders: str) -> None:
    cuts = [0, 1, 14, 15, 120, P]
    folder = tmp_path / "x"
    folder.mkdir()
    for i, (start, stop) in enumerate(itertools.pairwise(cuts)):
        part = X[:, start:stop] if orientation == "features_by_columns" else X[:, start:stop].T
        np.save(folder / f"part-{i}.npy", np.asarray(part, order=orders[i % len(orders)]))
    (folder / "README.txt").write_text("notes")
    columns = open_columns(folder, orientation=orientation)
    same(columns, X)
    assert columns.fingerprint() == as_npy(tmp_path, X).fingerprint()
    same(open_columns(folder, orientation=orientation, columns=(13, 121), features=[5, 0, 1, 2]),
         X[[5, 0, 1, 2], 13:121])  # fmt: skip


def test_folders_that_are_none(tmp_path, X) -> None:
    np.save(tmp_path / "x-9.npy", X)
    np.save(tmp_path / "x-10.npy", X)
    said = refusal(lambda: open_columns(tmp_path))
    assert "x-10.npy comes before x-9.npy; write the numbers" in said
    (tmp_path / "x-10.npy").rename(tmp_path / "x-90.npy")
    same(open_columns(tmp_path), np.hstack([X, X]))
    for other, told in ((X[:-1], "6 of type float32"), (X.astype("f8"), "7 of type float64")):
        np.save(tmp_path / "x-90.npy", other)
        assert f"7 features of type float32, and x-90.npy {told}" in refusal(
            lambda: open_columns(tmp_path)
        )
    (tmp_path / "x-90.npy").write_bytes(b"nonsense")
    assert "x-90.npy: this cannot be read as a .npy file" in refusal(lambda: open_columns(tmp_path))


# A part of X


def test_selections_are_checked(tmp_path, X) -> None:
    np.save(tmp_path / "x.npy", X)
    table(X).to_parquet(tmp_path / "x.parquet", index=False)
    table(X).to_csv(tmp_path / "x.csv", index=False)
    for name in ("x.npy", "x.parquet", "x.csv"):
        path = tmp_path / name
        for asked, told in {
            (("columns", (200, 212)),): "there are no columns 200 to 211; X has 211, from 0 to 210",
            (("features", (7,)),): "no feature 7; the file has 7; give numbers from 0 to 6",
        }.items():
            assert told in refusal(
                lambda p=path, a=asked: open_columns(p, **dict(a)), (name, asked)
            )
        if name == "x.npy":
            said = refusal(lambda p=path: open_columns(p, features=["t"]), name)
            assert "its features have no names; give numbers from 0 to 6 instead of 't'" in said
        else:
            said = refusal(lambda p=path: open_columns(p, features=["solar_flux"]), name)
            assert "there is no feature 'solar_flux'. Did you mean solar flux? " in said
            assert "The file has t, q, " in said
            said = refusal(lambda p=path: open_columns(p, features=["q", 1]), (name, 1))
            assert "1 is selected twice" in said


def test_a_part_is_another_x(tmp_path, X) -> None:
    np.save(tmp_path / "x.npy", X)
    path = tmp_path / "x.npy"
    whole = open_columns(path)
    assert open_columns(path, columns=(0, P)).storage == whole.storage
    parts = [
        open_columns(path, **given)
        for given in ({}, {"columns": (0, 210)}, {"columns": (1, P)}, {"features": [0, 1, 2]},
                      {"features": [2, 1, 0]}, {"features": list(range(N))})
    ]  # fmt: skip
    for one, other in itertools.combinations(parts, 2):
        assert one.storage != other.storage
    assert len({part.fingerprint() for part in parts}) == len(parts) - 1


def test_a_part_of_a_large_x_has_a_cheap_fingerprint(tmp_path, X, monkeypatch) -> None:
    from colonnade.inputs import base  # noqa: PLC0415 (as a module)

    monkeypatch.setattr(base, "_WHOLE_BYTES", 100)
    X = make_columns(N, 9001)
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "part.npy", X[[5, 3, 1], 100:8000])
    part = open_columns(tmp_path / "x.npy", columns=(100, 8000), features=[5, 3, 1])
    assert part.fingerprint() == open_columns(tmp_path / "part.npy").fingerprint()


@pytest.mark.parametrize(
    ("name", "extra"), [("x.h5", "hdf5"), ("x.nc", "hdf5"), ("x.pq", "tables"), ("x.csv", "tables")]
)
def test_an_extra_that_is_not_installed(tmp_path, monkeypatch, name: str, extra: str) -> None:
    for package in ("h5py", "pyarrow"):
        monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / name).write_text("")
    said = refusal(lambda: open_columns(tmp_path / name))
    assert "which cannot be imported (" in said
    assert f"): pip install 'colonnade[{extra}]'." in said


# From the job to the store


def test_a_run_on_a_part_of_a_table(job, tmp_path) -> None:
    X = make_columns(9, 101)
    names = [f"x{i}" for i in range(9)]
    table(X, names).to_parquet(tmp_path / "x.parquet", row_group_size=20, index=False)
    chosen = ["x7", "x0", 3, "x8", "x2"]
    given = {"path": str(tmp_path / "x.parquet"), "features": chosen, "columns": [10, 98]}
    document = job(input=given, cluster={"workers": 1, "threads_per_worker": 2})
    finished = cn.run(document)
    assert finished.columns == 88
    np.save(tmp_path / "part.npy", X[[7, 0, 3, 8, 2], 10:98])
    other = job(input={"path": str(tmp_path / "part.npy")}, output={"path": str(tmp_path / "o")},
                cluster={"workers": 1})  # fmt: skip
    cn.run(other)
    for name in ("jacobian", "value", "norm", "mean"):
        one, two = (cn.open(d["output"]["path"])[name].values for d in (document, other))
        np.testing.assert_array_equal(one, two, strict=True)
    assert cn.verify(document["output"]["path"]).sound
    # Another part is another X
    for change in ({"features": ["x0", "x7", 3, "x8", "x2"]}, {"columns": [11, 99]}):
        with pytest.raises(StoreError, match=r"its selected (features|columns)"):
            cn.run(job(input=given | change, cluster={"workers": 1}))


def test_what_does_not_fit_the_network(job, tmp_path) -> None:
    table(make_columns(9, 101), list("abcdefghi")).to_csv(tmp_path / "x.csv", index=False)
    said = refusal(lambda: cn.plan(job(input={"path": str(tmp_path / "x.csv")})))
    assert "X (9, 101), from a table of 101 rows, in " in said
    assert "input.features" in said


def test_more_than_one_network_input(tmp_path) -> None:
    """A plan knows the row groups: they are read whole."""
    network = make_network(n=3)
    table(make_columns(3, 1009), "abc").to_parquet(tmp_path / "x.parquet", row_group_size=500)
    columns = open_columns(tmp_path / "x.parquet")
    assert (columns.n, columns.chunk_columns, columns.copies) == (network.n, 500, 3)
