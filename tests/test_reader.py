"""Reading: names, coordinates, scales, and xarray's own way in."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import yaml
import zarr

import colonnade as cn
from colonnade.errors import JobError, UsageError
from colonnade.events import StoreLabelled
from colonnade.job.file import load_job
from colonnade.planning.plan import Capacity
from colonnade.progress import describe
from colonnade.reading import Backend
from colonnade.running.prepare import check_job
from colonnade.running.worker import StoreAddress, compute_block
from colonnade.store import Store, hold
from support import M, N, P, Q, make_columns, no_files, refusal, snapshot

INPUTS, OUTPUTS = ["T_850", "ω µ", "q", "u$", "v"], ["rain", "snow", "wind"]
TIMES = pd.date_range("2001-02-03", periods=P, freq="7h")
STD = {"input_std": [0.5, 0, 2, 3, 1e-3], "output_std": [2, 5, 0.25]}


def create(job: dict[str, Any]) -> Store:
    checked = check_job(load_job(job).located())
    planned = checked.plan(Capacity(1, 1, None))
    return Store.create(
        planned, checked.network, checked.job, checked.x,
        labels=checked.labels, coordinates=checked.coordinates,
    )  # fmt: skip


def make(job: dict[str, Any]) -> Store:
    """Make a whole store without a cluster."""
    store = create(job)
    with hold(store.place, "run"):
        for block in range(store.grid.blocks):
            compute_block(StoreAddress(store.path, store.record.id, "run"), block)
    store.finish({})
    return Store.open(store.path)


@pytest.fixture
def small(job) -> Callable[..., dict[str, Any]]:
    """A job without results that a run's end alone brings."""

    def document(**sections: dict[str, Any]) -> dict[str, Any]:
        products = {"products": ["jacobian", "norm", "value"]}
        return job(**{**sections, "output": {**products, **sections.get("output", {})}})

    return document


@pytest.fixture
def labelled_x(tmp_path, X) -> Callable[..., str]:
    """X as xarray writes it, with names of features and times of columns."""

    def save(zarr_format: int, dims: tuple[str, str] = ("variable", "time"), **coords: Any) -> str:
        path = str(tmp_path / f"labelled{zarr_format}.zarr")
        coords = {"variable": INPUTS, "time": TIMES} | coords
        ds = xr.Dataset(
            {"X": (("variable", "time"), X), "spread": ("variable", np.arange(5.0))}, coords
        )
        ds.time.attrs["standard_name"] = "time"
        with warnings.catch_warnings():
            # zarr 3.1, of texts of a fixed length, as people have them in their stores
            warnings.simplefilter("ignore")
            ds.transpose(*dims).to_zarr(path, zarr_format=zarr_format, consolidated=False)
        return path

    return save


def plain(store: Store) -> xr.Dataset:
    return xr.open_zarr(store.path, consolidated=False)


def test_names_are_coordinates_to_all_of_xarray(small, tmp_path) -> None:
    (tmp_path / "names.json").write_text(json.dumps(INPUTS))
    names = {"output_names": OUTPUTS, "input_names": str(tmp_path / "names.json")}
    store = make(small(network=names))
    for ds in (
        cn.open(store.path), plain(store), xr.open_dataset(store.path, engine=Backend),
        xr.open_dataset(store.path, engine=Backend, chunks={}),
    ):  # fmt: skip
        assert ds.input.values.tolist() == INPUTS
        assert ds.output.values.tolist() == OUTPUTS
        np.testing.assert_array_equal(
            ds.jacobian.sel(output="snow", input="q"), ds.jacobian[:, 1, 2]
        )
    # Readers that know no texts find them in the attributes
    said = json.loads((Path(store.path) / "zarr.json").read_text())["attributes"]["colonnade"]
    assert said["labels"]["input_names"] == INPUTS


@pytest.mark.parametrize("text", ["rain\nsnow\nwind", "\ufeffrain \r\n snow\r\nwind\r\n\r\n"])
def test_names_in_a_text_file(small, tmp_path, text: str) -> None:
    (tmp_path / "names.txt").write_text(text, newline="")
    found = check_job(load_job(small(network={"output_names": str(tmp_path / "names.txt")})))
    assert found.labels.output_names == tuple(OUTPUTS)


def test_names_that_do_not_fit(small, tmp_path) -> None:
    file = tmp_path / "names.txt"
    for content, why in (
        ("rain\nsnow", "given 2 names; the network has 3 outputs"), ("a\nb\na", "occurs twice"),
        ("a\n\nb", "name 1 is empty"), ("a\nb\n\x1b[2J", "control"), ("é".encode("latin-1"), "utf"),
        (None, "no such file"), ("x" * 2**25, "more than"),
    ):  # fmt: skip
        file.unlink(missing_ok=True)
        if content is not None:
            file.write_bytes(content if isinstance(content, bytes) else content.encode())
        said = refusal(lambda: cn.run(small(network={"output_names": str(file)})), content)
        assert said.startswith(f"network.output_names {file}: ")
        assert why in said
    for content in ("[", '{"a": 1}', "[1, 2, 3]", "[" * 100_000):
        (tmp_path / "names.json").write_text(content)
        refusal(lambda: cn.run(small(network={"input_names": str(tmp_path / "names.json")})))
    for path in ("/dev/zero", *map(str, no_files(tmp_path))):
        said = refusal(lambda path=path: cn.run(small(network={"output_names": path})))
        assert said == f"network.output_names {path}: it is not a regular file."
    said = refusal(lambda: cn.run(small(network={"input_names": ["a", "b"]})))
    assert "network.input_names: given 2 names; the network has 5 inputs" in said
    assert not (tmp_path / "out.zarr").exists()


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("dims", [("variable", "time"), ("time", "variable")])
def test_coordinates_of_xs_own_store(small, labelled_x, zarr_format: int, dims) -> None:
    orientation = "features_by_columns" if dims[0] == "variable" else "columns_by_features"
    path = labelled_x(zarr_format, dims)
    store = make(small(input={"path": path, "array": "X", "orientation": orientation}))
    for ds in (cn.open(store.path), plain(store)):
        assert ds.input.values.tolist() == INPUTS
        np.testing.assert_array_equal(ds.column, TIMES)
        assert ds.column.attrs["standard_name"] == "time"
        np.testing.assert_array_equal(ds.norm.sel(column="2001-02-05"), ds.norm[7:11])
    # The network's inputs must have the same names
    store.delete()
    x = {"path": path, "array": "X", "orientation": orientation}
    named = small(input=x, network={"input_names": [*"abcde"]})
    assert "X alone has T_850, ω µ, q, u$, v" in refusal(lambda: create(named))


def test_coordinates_that_are_numbers(small, labelled_x) -> None:
    levels = np.array([1000.0, 850, 500, 250, 100])
    path = labelled_x(3, variable=("variable", levels, {"units": "hPa"}), time=np.arange(P) * 3)
    store = make(small(input={"path": path, "array": "X"}))
    for ds in (cn.open(store.path), plain(store)):
        np.testing.assert_array_equal(ds.input, levels)
        assert ds.input.attrs["units"] == "hPa"
        np.testing.assert_array_equal(ds.norm.sel(column=[6, 300]), ds.norm[[2, 100]])
        assert ds.jacobian.sel(input=500).shape == (P, Q)


def test_coordinates_that_cannot_be_used(small, labelled_x, tmp_path) -> None:
    path = labelled_x(3, variable=[*"aabcd"], time=[f"t{k}" for k in range(P)])
    store = make(small(input={"path": path, "array": "X"}))
    ds = cn.open(store.path)
    assert not set(ds.coords)
    assert "a coordinate of columns must hold numbers or times" in ds.attrs["coordinates_left_out"]
    assert "left out column" in str(store.status())
    # Damaged, of another length, or of a name that leads elsewhere
    for spoil in ("data", "shape", "name"):
        document = tmp_path / "labelled3.zarr/time/zarr.json"
        said = json.loads(document.read_text())
        if spoil == "shape":
            said["shape"] = [P + 1]
        elif spoil == "data":
            for chunk in (tmp_path / "labelled3.zarr/time/c").iterdir():
                chunk.write_bytes(b"\xff")
        else:
            document = tmp_path / "labelled3.zarr/X/zarr.json"
            said = json.loads(document.read_text())
            said["dimension_names"] = ["sub/time", "X"]
        document.write_text(json.dumps(said))
        found = check_job(load_job(small(input={"path": path, "array": "X"})))
        assert "column" not in found.coordinates


def test_coordinates_grow_with_x(small, tmp_path) -> None:
    X = make_columns(p=P + 17)

    def save(p: int) -> str:
        path = str(tmp_path / "growing.zarr")
        ds = xr.Dataset({"X": (("variable", "time"), X[:, :p])}, {"time": np.arange(p) * 3})
        chunks = {"X": {"chunks": (N, 20)}}
        ds.to_zarr(path, mode="w", zarr_format=3, consolidated=False, encoding=chunks)
        return path

    document = small(input={"path": save(P), "array": "X"}, network={"output_names": OUTPUTS})
    path = make(document).path
    save(P + 17)
    finished = cn.run({**document, "cluster": {"kind": "local", "workers": 1}})
    assert finished.columns == P + 17
    for ds in (cn.open(path), xr.open_zarr(path, consolidated=False)):
        np.testing.assert_array_equal(ds.column, np.arange(P + 17) * 3)
        assert ds.output.values.tolist() == OUTPUTS
    assert cn.verify(path).sound


def test_a_coordinate_that_is_damaged(small, labelled_x, tmp_path) -> None:
    document = small(input={"path": labelled_x(3), "array": "X"})
    for chunk in (tmp_path / "labelled3.zarr/time/c").iterdir():
        chunk.write_bytes(b"\xff")
    before = snapshot(tmp_path)
    assert "time, a coordinate of X's own store, cannot be read" in refusal(
        lambda: create(document)
    )
    assert snapshot(tmp_path) == before


def test_other_names_need_no_computation(small, tmp_path) -> None:
    store = make(small(network={"output_names": OUTPUTS}))

    def shards() -> dict[str, Any]:
        return {k: v for k, v in snapshot(Path(store.path)).items() if "/c." in k}

    before = shards()
    finished = cn.run(small(network={"output_names": [*"abc"], "input_names": INPUTS}))
    assert (finished.blocks_computed, finished.state) == (0, "complete")
    for ds in (cn.open(store.path), plain(store)):
        assert ds.output.values.tolist() == [*"abc"]
        assert ds.input.values.tolist() == INPUTS
    events: list[Any] = []
    cn.run(small(output={"scale": STD}), listener=events.append)
    (labelled,) = [event for event in events if isinstance(event, StoreLabelled)]
    assert (labelled.names, set(labelled.scales)) == ((), {"input", "output"})
    assert "names of nothing, scales of " in describe(labelled)
    assert "output" not in plain(store).coords
    assert cn.open(store.path).output_std.values.tolist() == STD["output_std"]
    assert shards() == before
    whole, events = snapshot(tmp_path), []
    cn.run(small(output={"scale": STD}), listener=events.append)
    assert not any(isinstance(event, StoreLabelled) for event in events)
    assert snapshot(tmp_path) == whole


@pytest.mark.parametrize("kind", ["npy", "npz", "txt", "inline", "beside"])
def test_scales_from_everywhere(small, tmp_path, labelled_x, kind: str) -> None:
    inputs = np.array(STD["input_std"])
    path = str(tmp_path / f"std.{kind}")
    given: Any = {"inline": STD["input_std"], "beside": "spread"}.get(kind, path)
    if kind == "npy":
        np.save(path, inputs)
    elif kind == "npz":
        np.savez(path, input_std=inputs, other=np.zeros(2))
    elif kind == "txt":
        np.savetxt(path, inputs, fmt="%.17g")
    x = {"path": labelled_x(3), "array": "X"} if kind == "beside" else {}
    found = check_job(load_job(small(input=x, output={"scale": {"input_std": given}})))
    assert found.labels.input_std == tuple(np.arange(5.0) if kind == "beside" else inputs)
    assert found.labels.output_std is None


def test_scales_that_do_not_fit(small, tmp_path, labelled_x) -> None:
    path = labelled_x(3)
    np.save(tmp_path / "matrix.npy", np.zeros((5, 5)))
    np.save(tmp_path / "pickle.npy", np.array([{}]), allow_pickle=True)
    (tmp_path / "text.txt").write_text("1 2 three")
    for side, value, why in (
        ("output", [1, 0, 2], "above 0"), ("input", [1, 2], "given 2 numbers"),
        ("input", "text.txt", "three"), ("input", "matrix.npy", "one-dimensional"),
        ("input", "pickle.npy", "."), ("input", "absent.npy", "no such file"),
        ("input", "X", "shape"), ("input", "variable", "one-dimensional"),
    ):  # fmt: skip
        given = str(tmp_path / value) if isinstance(value, str) and "." in value else value
        scale = {f"{side}_std": given}
        document = small(input={"path": path, "array": "X"}, output={"scale": scale})
        with pytest.raises(JobError, match=why) as caught:
            check_job(load_job(document))
        assert str(caught.value).startswith(f"output.scale.{side}_std")


def test_scaled_view(job) -> None:
    path = cn.run(job(output={"scale": STD}, cluster={"workers": 1})).store
    ds, scaled = cn.open(path), cn.open(path, scaled=True)
    factor = np.array(STD["input_std"]) / np.array(STD["output_std"])[:, None]
    for name in ("jacobian", "mean"):
        assert scaled[name].dtype == np.float32
        np.testing.assert_allclose(scaled[name], ds[name] * factor, rtol=1e-6)
        assert scaled[name].attrs["scaled"] == "J[i,j] · input_std[j] / output_std[i]"
        assert "scaled" not in ds[name].attrs
    assert scaled.jacobian.chunks == ds.jacobian.chunks
    assert "norm" in ds
    assert "norm" not in scaled
    assert "left out, since unscaled: norm" in scaled.attrs["scaled"]
    np.testing.assert_array_equal(scaled.value, ds.value)
    lazy = xr.open_dataset(path, engine=Backend, scaled=True)
    np.testing.assert_array_equal(lazy.jacobian[3], scaled.jacobian[3])
    cn.run(job(output={"scale": {"output_std": STD["output_std"]}}))
    scaled = cn.open(path, scaled=True)
    np.testing.assert_allclose(
        scaled.jacobian, ds.jacobian / np.array(STD["output_std"])[:, None], rtol=1e-6
    )
    cn.run(job())
    with pytest.raises(UsageError, match=r"output\.scale"):
        cn.open(path, scaled=True)


def test_both_layouts_read_alike(job, labelled_x, tmp_path) -> None:
    """Names, times and scales; and a store of the tensor that is made of one of slopes."""
    labelled = {"path": labelled_x(3), "array": "X"}
    output = {
        "layout": "factored", "scale": STD, "products": ["jacobian", "norm", "mean_abs", "gram"],
    }  # fmt: skip
    document = job(
        network={"output_names": OUTPUTS}, input=labelled, output=output, cluster={"workers": 1}
    )
    path = cn.run(document).store
    dense = cn.materialize(path, tmp_path / "dense.zarr").store
    slopes, tensor = cn.open(path), cn.open(dense)
    assert "jacobian" not in zarr.open_group(path, mode="r")
    for ds in (slopes, tensor, xr.open_dataset(path, engine=Backend)):
        assert ds.output.values.tolist() == OUTPUTS
        assert ds.gram.other_input.values.tolist() == INPUTS
        np.testing.assert_array_equal(ds.column, TIMES)
        part = {"output": "snow", "input": ["q", "v"], "column": TIMES[50:60]}
        np.testing.assert_array_equal(ds.jacobian.sel(part), tensor.jacobian[50:60, 1, [2, 4]])
        np.testing.assert_allclose(ds.mean_abs, abs(tensor.jacobian).mean("column"), rtol=1e-5)
    factor = np.array(STD["input_std"]) / np.array(STD["output_std"])[:, None]
    for path_ in (path, dense):
        scaled = cn.open(path_, scaled=True)
        np.testing.assert_allclose(scaled.jacobian, tensor.jacobian * factor, rtol=1e-6)
        np.testing.assert_allclose(scaled.mean_abs, tensor.mean_abs * factor, rtol=1e-6)
        assert not {"norm", "gram"} & set(scaled)
        A = cn.operator(scaled.isel(column=slice(90, 101))).tosparse().toarray()
        np.testing.assert_allclose(A[-Q:, -N:], scaled.jacobian[-1], rtol=1e-5, atol=1e-6)


def test_attributes_tell_where_the_numbers_are_from(small, tmp_path) -> None:
    store = make(small(network={"output_names": OUTPUTS}, output={"scale": STD}))
    ds = cn.open(store.path)
    record = store.record
    assert ds.attrs["state"] == "complete"
    assert ds.attrs["created"] == record.created
    assert ds.attrs["network_fingerprint"] == record.network.fingerprint
    assert f"zarr {zarr.__version__}" in ds.attrs["versions"]
    assert ds.attrs["formula"] == ds.jacobian.attrs["formula"]
    assert "W2[i,h] σ′(" in ds.attrs["formula"]
    assert load_job(yaml.safe_load(ds.attrs["job"])) == record.job
    # Of a kind that netCDF takes
    part = ds[["norm", "value"]].isel(column=slice(0, 10))
    part.to_netcdf(tmp_path / "part.nc", engine="scipy")
    with xr.open_dataset(tmp_path / "part.nc", engine="scipy") as again:
        assert again.attrs == ds.attrs
        xr.testing.assert_equal(again, part)


def test_backend(small, tmp_path) -> None:
    store = make(small(network={"output_names": OUTPUTS}))
    backend = Backend()
    assert backend.guess_can_open(store.path)
    assert backend.guess_can_open(Path(store.path))
    for other in (
        tmp_path,
        tmp_path / "X.npy",
        tmp_path / "absent",
        f"{store.path}/W1",
        b"x",
        "\0",
    ):
        assert not backend.guess_can_open(other)
    (tmp_path / "other").mkdir()
    for path in no_files(tmp_path):
        document = tmp_path / "other" / "zarr.json"
        document.unlink(missing_ok=True)
        document.symlink_to(path)
        assert not backend.guess_can_open(document.parent)
    lazy = xr.open_dataset(store.path, engine=Backend, drop_variables=["value", "output"])
    assert "value" not in lazy
    assert "output" not in lazy.coords
    whole = cn.open(store.path)
    assert xr.open_dataset(store.path, engine=Backend, chunks={}).chunks == whole.chunks
    parts = xr.open_dataset(store.path, engine=Backend, chunks={"column": 52})
    assert parts.jacobian.chunks[0] == (52, 49)
    xr.testing.assert_identical(parts.load(), whole.load())
    (Path(store.path) / "norm" / "c.3").unlink()
    with pytest.raises(cn.IncompleteError):
        xr.open_dataset(store.path, engine=Backend)
    assert "incomplete" in xr.open_dataset(store.path, engine=Backend, incomplete=True).attrs


def test_thousands_of_small_chunks_are_few_to_dask(small, tmp_path) -> None:
    np.save(tmp_path / "X.npy", np.zeros((N, 7001), np.float32))
    store = create(small(output={"block_size": 2 * Q * N * 4, "chunk_size": 1}))
    assert store.grid.blocks == 3501
    ds = cn.open(store.path, incomplete=True)
    assert set(ds.jacobian.chunks[0][:-1]) == {7}
    assert set(ds.norm.chunks[0][:-1]) == {6}


@pytest.mark.parametrize("layout", ["dense", "factored"])
def test_variables_come_in_one_order(job, labelled_x, layout: str) -> None:
    """However the group lists its arrays, which is as its files or its requests answer."""
    products = ["gram", "mean", "norm", "value", "jacobian"]
    labelled = {"path": labelled_x(3), "array": "X"}
    output = {"products": products, "scale": STD, "layout": layout}
    path = cn.run(job(input=labelled, output=output, cluster={"workers": 1})).store
    expected = [
        "jacobian", *(["slope"] if layout == "factored" else []),
        "value", "norm", "mean", "gram", "mean_blocks", "gram_blocks",
        "nonfinite", "nonfinite_results", "W1", "b1", "W2", "b2",
    ]  # fmt: skip
    for _ in range(5):
        for ds in (cn.open(path), xr.open_dataset(path, engine=Backend)):
            assert list(ds.data_vars) == expected
            assert list(ds.coords) == ["column", "input", "other_input", "output_std", "input_std"]
            assert list(ds.sizes)[:3] == ["column", "output", "input"]
    assert next(iter(cn.open(path, scaled=True).data_vars)) == "jacobian"


def test_damaged_names_are_found_and_mended(small, labelled_x) -> None:
    document = small(input={"path": labelled_x(3), "array": "X"})
    store = make(document)
    (names,) = (Path(store.path) / "input" / "c").iterdir()
    (times,) = (Path(store.path) / "column" / "c").iterdir()
    kept = names.read_bytes(), times.read_bytes()
    assert cn.verify(store.path).sound
    names.write_bytes(kept[0][:-5] + bytes(5))
    times.unlink()
    times.write_bytes(kept[1][:-5] + bytes(5))
    found = cn.verify(store.path)
    assert {failure.array for failure in found.failures} == {"input", "column"}
    cn.run({**document, "cluster": {"kind": "local", "workers": 1}}, repair=True)
    assert (names.read_bytes(), times.read_bytes()) == kept
    assert cn.verify(store.path).sound
    assert M not in (N, Q, P)
