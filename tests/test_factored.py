"""The factored layout: the same tensor, to the bit, whatever is asked of it, however it is cut."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from distributed import LocalCluster

import colonnade as cn
from colonnade.compute.kernel import Kernel
from colonnade.compute.kernel.partial import PartialTiles
from colonnade.compute.kernel.tiles import Tiles
from colonnade.compute.products import PRODUCTS
from colonnade.job.file import load_job
from colonnade.planning.plan import Capacity
from colonnade.running.prepare import check_job
from colonnade.running.worker import StoreAddress, compute_block
from colonnade.store import Store, hold
from support import make_columns, make_network, save_network
from test_run import bits

# Network sizes n, m, q, the type of the results, and columns: in tiles of 512, 128, 32 and 256; the
# third are computed by scaling U, and of the last some numbers are left over by any vector
SMALL, WIDE = (5, 7, 3, "float32", 1301), (131, 11, 127, "float32", 401)
SCALED, ODD = (131, 13, 257, "float64", 211), (149, 113, 37, "float64", 701)


def made(folder: Path, sizes: Any, x_dtype: Any = np.float32, **output: Any) -> Store:
    """Fill a store in this process; `block` and `chunk` are columns."""
    n, m, q, dtype, p = sizes
    folder.mkdir(exist_ok=True)
    network, X = make_network(n, m, q, "gelu"), make_columns(n, p, x_dtype)
    save_network(folder / "network.npz", network)
    np.save(folder / "X.npy", X)
    layout = output.setdefault("layout", "dense")
    column_bytes = (q * n if layout == "dense" else m) * np.dtype(dtype).itemsize
    sizes_of = {"block": "block_size", "chunk": "chunk_size"}
    for name in sizes_of.keys() & output.keys():
        output[sizes_of[name]] = column_bytes * output.pop(name)
    job = {
        "network": {"weights": str(folder / "network.npz"), "activation": "gelu"},
        "input": {"path": str(folder / "X.npy")},
        "output": {"path": str(folder / f"{layout}.zarr"), "dtype": dtype, **output},
        "cluster": {"kind": "local"},
    }
    checked = check_job(load_job(job))
    planned = checked.plan(Capacity(1, 1, None))
    store = Store.create(planned, checked.network, checked.job, checked.x)
    with hold(store.place, "run"):
        for block in range(store.grid.blocks):
            compute_block(StoreAddress(store.path, store.record.id, "run"), block)
    store.finish({})
    return store


def tensor(store: Store) -> np.ndarray:
    return zarr.open_array(f"{store.path}/jacobian", mode="r")[...]


@pytest.fixture(
    scope="module", params=[SMALL, WIDE, SCALED, ODD], ids=["small", "wide", "scaled", "odd"]
)
def both(request: pytest.FixtureRequest, tmp_path_factory: Any) -> tuple[Any, Any, np.ndarray]:
    """The tensor of a factored store, its slopes, and the dense store's numbers."""
    folder = tmp_path_factory.mktemp("both")
    dense = made(folder, request.param, block=67, chunk=67, x_dtype=np.float64)
    factored = made(
        folder, request.param, layout="factored", block=200, chunk=40, x_dtype=np.float64
    )
    return cn.open(factored.path), factored, tensor(dense)


def same(found: Any, expected: np.ndarray) -> None:
    found = np.asarray(found)
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert found.tobytes() == expected.tobytes()


def test_any_part_is_that_of_the_dense_store(both: Any) -> None:
    ds, _, T = both
    J, P = ds.jacobian, len(T)
    assert J.dims == ("column", "output", "input")
    same(J, T)
    same(J[P - 1], T[P - 1])
    same(J[-1:], T[-1:])
    same(J[37:137], T[37:137])
    same(J[200:20:-13, 1], T[200:20:-13, 1])
    same(J[:, 1, -2], T[:, 1, -2])
    same(J.isel(column=[5, 200, 5, 33], output=slice(2, 0, -1)), T[[5, 200, 5, 33], 2:0:-1])
    same(J[40:50, :, [3, 1]], T[40:50][:, :, [3, 1]])
    same(J[3:3], T[3:3])


def test_columns_at_random_are_those_of_the_dense_store(both: Any) -> None:
    """Without dask, which has whole chunks computed."""
    _, store, T = both
    J = xr.open_dataset(store.path, engine="colonnade").jacobian
    rng, P = np.random.default_rng(7), len(T)
    for numbers in (rng.integers(P, size=91), rng.permutation(P), np.array([P - 1, 0, 0]), []):
        k = np.asarray(numbers, dtype=int)
        same(J[k], T[k])
        same(J.isel(column=k, input=slice(4, 1, -2)), T[k, :, 4:1:-2])
    same(J[P - 5 :: 3, 2], T[P - 5 :: 3, 2])
    same(J[3], T[3])


def test_a_store_that_was_made_anew_is_not_mixed_with_the_old_one(tmp_path: Path) -> None:
    """Its slopes and the weights that were read before would be the tensor of no network."""
    store = made(tmp_path, SMALL, layout="factored")
    J = xr.open_dataset(store.path, engine="colonnade").jacobian
    assert np.isfinite(J[:9].values).all()
    shutil.rmtree(store.path)
    with pytest.raises(cn.StoreError, match="deleted or recreated after it was opened"):
        J[:9].load()
    made(tmp_path, SMALL, layout="factored")
    for key in (slice(0, 9), [3, 1]):
        with pytest.raises(cn.StoreError, match="deleted or recreated after it was opened"):
            J[key].load()
    with cn.open(store.path) as ds:
        assert np.isfinite(ds.jacobian[:9].values).all()


def test_one_line_of_numpy_recovers_it(both: Any) -> None:
    ds, store, T = both
    group = zarr.open_group(store.path, mode="r")
    line = group["slope"].attrs["jacobian"]
    slope, W1, W2 = (group[name][...] for name in ("slope", "W1", "W2"))
    found = eval(line, {"np": np, "slope": slope, "W1": W1, "W2": W2})  # noqa: S307
    np.testing.assert_allclose(found, T, rtol=1e-4, atol=1e-5 * np.abs(T).max())
    assert line in Path("README.md").read_text()
    assert ds.slope.attrs["jacobian"] == line


def test_only_what_is_asked_for_is_computed(both: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ds, _, _ = both
    asked: list[int] = []
    blocks = PartialTiles.blocks

    def watched(self: Any, S: np.ndarray, numbers: np.ndarray, out: Any = None) -> np.ndarray:
        asked.extend(numbers.tolist())
        return blocks(self, S, numbers, out)

    monkeypatch.setattr(PartialTiles, "blocks", watched)
    ds.jacobian[37:47, 0].compute(scheduler="sync")
    assert asked == list(range(37, 47))


def by_place(S: np.ndarray) -> np.ndarray:
    """What a BLAS does that takes 12 columns at a time, and the others in another way."""
    B = S.shape[1]
    return (np.arange(B) % 12 % 5 == 0) | (np.arange(B) >= B // 12 * 12)


def by_width(S: np.ndarray) -> np.ndarray:
    return np.full(S.shape[1], S.shape[1] < 500)


@pytest.mark.parametrize("rounded_up", [None, by_place, by_width])
@pytest.mark.parametrize("numbers", [slice(0, 512), slice(37, 137), slice(500, 1030), "any"])
def test_few_columns_are_those_of_a_tile_whatever_blas_does(
    rounded_up: Any, numbers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, p = make_network(5, 7, 3, "tanh"), 1301
    tiles, blocks = Tiles(network, np.float32, np.float32), Kernel.blocks
    assert tiles.columns == 512
    computed: list[int] = []

    def other_blas(self: Any, S: np.ndarray, out: Any = None) -> np.ndarray:
        T = blocks(self, S, out)
        computed.append(len(T))
        if rounded_up is not None:
            up = rounded_up(S)
            T[up] = np.nextafter(T[up], np.float32(np.inf))
        return T

    monkeypatch.setattr(Kernel, "blocks", other_blas)
    rng = np.random.default_rng(5)
    k = np.sort(rng.integers(p, size=97)) if numbers == "any" else np.arange(p)[numbers]
    S = tiles.slopes(make_columns(5, p), 0)
    expected = tiles.blocks(S, 0)[k]
    few, slopes = PartialTiles(tiles), np.ascontiguousarray(S[:, k])
    same(few.blocks(slopes, k), expected)
    computed.clear()
    same(few.blocks(slopes, k), expected)
    # Fewer columns than those of the tiles, but where these alone are right
    fewer = sum(computed) < 512 * len(np.unique(k // 512))
    assert fewer == (rounded_up is not by_width and numbers != slice(0, 512))


@pytest.fixture(scope="module")
def cluster() -> Any:
    with LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", memory_limit=0
    ) as running:
        yield {"kind": "address", "address": running.scheduler_address, "workers": 2}


def make_job(folder: Path, cluster: Any, sizes: Any, layout: str, **output: Any) -> Any:
    n, m, q, dtype, p = sizes
    folder.mkdir(exist_ok=True)
    X = make_columns(n, p, np.float64)
    # In tiles of each kind: whole ones, and the last
    X[1, [3, p - 1]] = np.nan
    save_network(folder / "network.npz", make_network(n, m, q, "tanh"))
    np.save(folder / "X.npy", X)
    return {
        "network": {"weights": str(folder / "network.npz"), "activation": "tanh"},
        "input": {"path": str(folder / "X.npy")},
        "output": {
            "path": str(folder / f"{layout}.zarr"), "layout": layout, "dtype": dtype, **output
        },
        "cluster": cluster,
    }  # fmt: skip


ALL = list(PRODUCTS)


@pytest.mark.parametrize("sizes", [SMALL, WIDE], ids=["small", "wide"])
def test_materialized_is_what_a_dense_run_stores(tmp_path: Path, cluster: Any, sizes: Any) -> None:
    """Every array, to the bit, though X has gone; after an interrupted first attempt, too."""
    of_slopes = make_job(
        tmp_path, cluster, sizes, "factored", products=ALL, block_size=977 * sizes[1] * 4
    )
    assert cn.run(of_slopes).nonfinite == 2
    cn.run(make_job(tmp_path, cluster, sizes, "dense", products=ALL))
    (tmp_path / "X.npy").unlink()
    (tmp_path / "network.npz").unlink()
    place = tmp_path / "made.zarr"
    done = cn.materialize(tmp_path / "factored.zarr", place, trust=True)
    assert (done.state, done.nonfinite) == ("complete", 2)
    assert bits(place) == bits(tmp_path / "dense.zarr")
    with cn.open(tmp_path / "factored.zarr") as found, cn.open(place) as dense:
        same(found.jacobian, dense.jacobian.values)
    # What is there is finished
    assert cn.materialize(tmp_path / "factored.zarr", place, trust=True).blocks_computed == 0
    main = sorted((place / "jacobian").glob("c.*"))
    main[0].unlink()
    assert cn.materialize(tmp_path / "factored.zarr", place, trust=True).blocks_computed == 1
    assert bits(place) == bits(tmp_path / "dense.zarr")


def test_materializing_what_is_no_finished_store_of_slopes(tmp_path: Path, cluster: Any) -> None:
    job = make_job(tmp_path, cluster, SMALL, "factored", products=["jacobian", "norm"])
    cn.run(job)
    cn.run(make_job(tmp_path, cluster, SMALL, "dense"))
    store, place = tmp_path / "factored.zarr", tmp_path / "made.zarr"
    with pytest.raises(cn.UsageError, match="holds no slopes"):
        cn.materialize(tmp_path / "dense.zarr", place)
    for setting, told in (
        ("input.path=other.npy", "input"), ("output.dtype=float64", "dtype"),
        ("output.products=[value]", "products"), ("output.layout=factored", "layout"),
    ):  # fmt: skip
        with pytest.raises(cn.UsageError, match=told):
            cn.materialize(store, place, [setting], trust=True)
    with pytest.raises(cn.UsageError, match="overlap"):
        cn.materialize(store, store / "inner", trust=True)
    next((store / "slope").glob("c.*")).unlink()
    with pytest.raises(cn.IncompleteError, match=r"is incomplete: .* Finish it first"):
        cn.materialize(store, place)
    assert not place.exists()
