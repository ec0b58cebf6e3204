"""A network's inputs and X's features are matched by their names, and never by chance."""

from __future__ import annotations

import io
import json
import re
import unicodedata
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import skops.io
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import colonnade as cn
from colonnade import Network
from colonnade.errors import InputError, JobError
from colonnade.events import FeaturesOrdered
from colonnade.inputs.labels import Labels
from colonnade.inputs.name_matching import MatchError, Pairing, carry_nothing, pair
from colonnade.job.file import load_job
from colonnade.progress import JsonLines, describe
from colonnade.running.prepare import check_job
from colonnade.store import Store, hold
from support import N, P, Q, make_columns, refusal

pytestmark = pytest.mark.shared_cluster

NAMES = ("T_850", "q_850", "ω µ", "u10", "v10")
# Where each of the network's inputs lies in X: no name keeps its place, and it is no involution
ORDER = (3, 0, 4, 2, 1)
OTHERS = ("T_850", "q_850", "ω µ", "u_10", "sst")


def shuffled(names: Sequence[str]) -> list[str]:
    """Names in X's order, of which `ORDER` is the way back."""
    found = [""] * len(names)
    for name, place in zip(names, ORDER, strict=True):
        found[place] = name
    return found


def expected(
    network: Network, features: dict[str, np.ndarray], names: Sequence[str]
) -> xr.DataArray:
    """The Jacobian by the names of the inputs, as the formula has it."""
    X = np.array([features[name] for name in names], np.float64)
    Z = network.W1 @ X + network.b1[:, None]
    J = np.einsum("ih,hk,hj->kij", network.W2, 1 - np.tanh(Z) ** 2, network.W1)
    return xr.DataArray(J, dims=("column", "output", "input"), coords={"input": list(names)})


def check_by_name(path: str, truth: xr.DataArray) -> None:
    """Each entry stands under the name of its input, in whatever order these are."""
    found = cn.open(path).jacobian
    assert sorted(map(str, found.input.values)) == sorted(truth.input.values.tolist())
    wanted = truth.sel(input=[str(name) for name in found.input.values])
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * abs(truth).max().item())


def as_parquet(folder: Path, X: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    path = folder / "named.parquet"
    pd.DataFrame(X.T, columns=list(names)).to_parquet(path, row_group_size=31, index=False)
    return {"path": str(path)}


def as_csv(folder: Path, X: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    path = folder / "named.csv"
    pd.DataFrame(X.T, columns=list(names)).to_csv(path, index=False)
    return {"path": str(path)}


def labelled(X: np.ndarray, names: Sequence[Any]) -> xr.Dataset:
    spread = np.arange(2.0, 2 + len(X))
    return xr.Dataset(
        {"X": (("variable", "time"), X), "spread": ("variable", spread)},
        {"variable": list(names), "time": np.arange(X.shape[1])},
    )


def as_zarr(folder: Path, X: np.ndarray, names: Sequence[Any]) -> dict[str, Any]:
    path = folder / "named.zarr"
    with warnings.catch_warnings():
        # zarr, of texts of a fixed length
        warnings.simplefilter("ignore")
        labelled(X, names).to_zarr(path, mode="w", consolidated=False)
    return {"path": str(path), "array": "X"}


def as_netcdf(folder: Path, X: np.ndarray, names: Sequence[Any]) -> dict[str, Any]:
    path = folder / "named.nc"
    labelled(X, names).to_netcdf(path, engine="h5netcdf")
    return {"path": str(path), "array": "X", "features_dim": "variable"}


WRITERS: dict[str, Callable[..., dict[str, Any]]] = {
    "parquet": as_parquet, "csv": as_csv, "zarr": as_zarr, "netcdf": as_netcdf,
}  # fmt: skip


@pytest.fixture(scope="module")
def fitted() -> Any:
    """A pipeline that was fitted to a table with names."""
    rng = np.random.default_rng(7)
    X = pd.DataFrame(3 * rng.standard_normal((P, N)) + 2, columns=list(NAMES))
    mlp = MLPRegressor(hidden_layer_sizes=(7,), activation="tanh", max_iter=7, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that so few iterations do not converge
        return make_pipeline(StandardScaler(), mlp).fit(X, rng.standard_normal((P, Q)))


@pytest.fixture
def named_job(job, tmp_path, fitted) -> Callable[..., dict[str, Any]]:
    """A job whose network is named by its .skops file, or by `network.input_names`."""

    def make(by: str, x: dict[str, Any], **sections: Any) -> dict[str, Any]:
        document = job(input=x, output=sections.pop("output", {}))
        if by == "skops":
            skops.io.dump(fitted, tmp_path / "network.skops")
            document["network"] = {"weights": str(tmp_path / "network.skops")}
        elif by == "input_names":
            document["network"]["input_names"] = list(NAMES)
        document["network"] |= sections.pop("network", {})
        return document | sections

    return make


def network_of(by: str, network: Network, fitted: Any) -> Network:
    return Network.from_sklearn(fitted) if by == "skops" else network


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("by", ["skops", "input_names"])
def test_the_same_names_in_another_order(
    named_job, tmp_path, network, fitted, X, by: str, kind: str
) -> None:
    network = network_of(by, network, fitted)
    features = dict(zip(NAMES, X, strict=True))
    truth = expected(network, features, NAMES)
    stored = shuffled(NAMES)
    x = WRITERS[kind](tmp_path, np.array([features[name] for name in stored]), stored)
    document, events = named_job(by, x), []
    finished = cn.run(document, listener=events.append)
    check_by_name(finished.store, truth)
    ds = cn.open(finished.store)
    assert ds.input.values.tolist() == list(NAMES)
    (ordered,) = [event for event in events if isinstance(event, FeaturesOrdered)]
    assert (ordered.features, ordered.moved, ordered.names) == (N, N, NAMES)
    # The record alone tells verify how X is read, when the network's file has gone
    Path(document["network"]["weights"]).unlink()
    found = cn.verify(finished.store)
    assert found.sound
    assert found.sampled > 0


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("by", ["skops", "input_names"])
def test_the_same_names_in_the_same_order(
    named_job, tmp_path, network, fitted, X, by: str, kind: str
) -> None:
    network = network_of(by, network, fitted)
    document, events = named_job(by, WRITERS[kind](tmp_path, X, NAMES)), []
    finished = cn.run(document, listener=events.append)
    check_by_name(finished.store, expected(network, dict(zip(NAMES, X, strict=True)), NAMES))
    assert not any(isinstance(event, FeaturesOrdered) for event in events)
    assert Store.open(finished.store).record.job.input.features is None
    assert cn.run(document).blocks_computed == 0


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("by", ["skops", "input_names"])
def test_other_names_are_refused(named_job, tmp_path, X, by: str, kind: str) -> None:
    document = named_job(by, WRITERS[kind](tmp_path, X, OTHERS))
    for command in (cn.run, cn.plan):
        said = refusal(lambda command=command: command(document))
        assert "the network's inputs and X's features have different names" in said
        assert "the network alone has u10, v10" in said
        assert "X alone has u_10, sst" in said
        assert "u10 may be X's u_10" in said
        assert "network.input_names" in said
    assert not (tmp_path / "out.zarr").exists()


@pytest.mark.parametrize("kind", WRITERS)
def test_x_alone_has_names(named_job, tmp_path, network, X, kind: str) -> None:
    finished = cn.run(named_job("", WRITERS[kind](tmp_path, X, NAMES)))
    check_by_name(finished.store, expected(network, dict(zip(NAMES, X, strict=True)), NAMES))
    assert cn.open(finished.store).input.values.tolist() == list(NAMES)


@pytest.mark.parametrize("by", ["skops", "input_names"])
def test_the_network_alone_has_names(named_job, tmp_path, network, fitted, X, by: str) -> None:
    network = network_of(by, network, fitted)
    finished = cn.run(named_job(by, {"path": str(tmp_path / "X.npy")}))
    check_by_name(finished.store, expected(network, dict(zip(NAMES, X, strict=True)), NAMES))
    assert cn.open(finished.store).input.values.tolist() == list(NAMES)
    assert cn.verify(finished.store).sound


def save_shuffled(tmp_path: Path, X: np.ndarray, kind: str = "parquet") -> dict[str, Any]:
    """X whose features have another order than the network's inputs."""
    features, stored = dict(zip(NAMES, X, strict=True)), shuffled(NAMES)
    return WRITERS[kind](tmp_path, np.array([features[name] for name in stored]), stored)


def test_a_run_in_another_order_is_resumed(named_job, tmp_path, network, X) -> None:
    document = named_job("input_names", save_shuffled(tmp_path, X))
    path = cn.run(document).store
    assert cn.run(document).blocks_computed == 0
    whole = cn.open(path).jacobian.values
    Store.open(path).discard(3)
    assert cn.run(document).blocks_computed == 1
    np.testing.assert_array_equal(cn.open(path).jacobian, whole)
    # A damaged block is found, and computed again, in the same order
    shard = Path(path) / "jacobian" / "c.2.0.0"
    values = bytearray(shard.read_bytes())
    values[7] ^= 64
    shard.write_bytes(bytes(values))
    assert cn.run(document, repair=True).blocks_computed == 1
    np.testing.assert_array_equal(cn.open(path).jacobian, whole)
    check_by_name(path, expected(network, dict(zip(NAMES, X, strict=True)), NAMES))


def test_a_store_in_the_wrong_order_is_refused(named_job, tmp_path, X) -> None:
    """As runs made it before names were matched."""
    x = save_shuffled(tmp_path, X)
    path = cn.run(named_job("", x)).store
    said = refusal(lambda: cn.run(named_job("input_names", x)))
    assert "the order of X's features (the store was made with X's own order" in said
    assert "--overwrite" in said
    cn.run(named_job("input_names", x), overwrite=True)
    assert cn.open(path).input.values.tolist() == list(NAMES)


def test_verify_finds_names_in_another_order(named_job, tmp_path, X) -> None:
    """As `network.input_names` stood above X's features in the order of the file."""
    path = cn.run(named_job("", save_shuffled(tmp_path, X))).store
    assert cn.verify(path).sound
    store = Store.open(path)
    with hold(store.place, "run"):
        store.label(store.record.job, Labels(input_names=NAMES), {})
    found = cn.verify(path)
    (failure,) = found.failures
    assert (found.sound, failure.array) == (False, "input")
    assert "stand under wrong names" in failure.cause
    # Names that are other ones altogether were somebody's choice
    with hold(store.place, "run"):
        Store.open(path).label(store.record.job, Labels(input_names=(*"abcde",)), {})
    assert cn.verify(path).sound


def test_x_that_grows_in_another_order(named_job, tmp_path, network) -> None:
    X = make_columns(p=P + 17)
    document = named_job("input_names", save_shuffled(tmp_path, X[:, :P]))
    cn.run(document)
    save_shuffled(tmp_path, X)
    finished = cn.run(document)
    assert (finished.columns, finished.columns_new) == (P + 17, 17)
    check_by_name(finished.store, expected(network, dict(zip(NAMES, X, strict=True)), NAMES))
    assert cn.verify(finished.store).sound


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("numbers", [False, True])
def test_features_of_the_job_are_matched_too(
    named_job, tmp_path, network, kind: str, numbers: bool
) -> None:
    held = [f"f{i}" for i in range(11)]
    X = make_columns(11)
    x = WRITERS[kind](tmp_path, X, held)
    chosen = [10, 7, 5, 2, 0]
    x["features"] = chosen if numbers else [held[at] for at in chosen]
    names = [held[at] for at in reversed(chosen)]
    document = named_job("", x, network={"input_names": names})
    finished = cn.run(document)
    check_by_name(finished.store, expected(network, dict(zip(held, X, strict=True)), names))
    assert cn.open(finished.store).input.values.tolist() == names
    assert cn.verify(finished.store).sampled > 0
    x["features"] = [*x["features"][:-1], 1 if numbers else held[1]]
    said = refusal(lambda: cn.plan(named_job("", x, network={"input_names": names})))
    assert "the network alone has f0; X alone has f1" in said


@pytest.mark.parametrize("kind", ["zarr", "netcdf"])
@pytest.mark.parametrize("dtype", ["f8", "f4", "i4"])
def test_numbers_are_names(named_job, tmp_path, network, X, kind: str, dtype: str) -> None:
    levels = np.array([1000, 850, 500.5, 250, 101325.5] if dtype[0] == "f" else [9, 7, 5, 3, 2])
    names = [f"{level}" for level in levels]
    values = np.array([X[ORDER.index(at)] for at in range(N)])
    stored = np.array(shuffled(list(levels)), dtype)
    x = WRITERS[kind](tmp_path, values, stored)
    document = named_job("", x, network={"input_names": names})
    finished = cn.run(document)
    truth = expected(network, dict(zip(names, X, strict=True)), names)
    found = cn.open(finished.store)
    np.testing.assert_allclose(found.jacobian, truth, rtol=0, atol=1e-5 * abs(truth).max().item())
    # The coordinate is X's own: numbers where it has numbers
    inputs = [float(value) for value in found.input.values]
    assert inputs == levels.tolist()
    assert (found.input.dtype.kind in "iuf") == (kind == "zarr")
    assert cn.verify(finished.store).sampled > 0


def test_several_arrays_with_levels(named_job, tmp_path, network) -> None:
    """The features of one array stand below those of another; their names tell of which."""
    rng = np.random.default_rng(5)
    ds = xr.Dataset(
        {
            "t": (("time", "lev"), rng.standard_normal((P, 2))),
            "q": (("lev", "time"), rng.standard_normal((2, P))),
            "ps": ("time", rng.standard_normal(P)),
        },
        {"lev": [850.0, 92.5]},
    )
    ds.to_netcdf(tmp_path / "x.nc", engine="h5netcdf")
    x = {"path": str(tmp_path / "x.nc"), "array": ["t", "q", "ps"], "features_dim": "lev"}
    names = ["ps", "q[92.5]", "t[850.0]", "q[850]", "t[92.5]"]
    finished = cn.run(named_job("", x, network={"input_names": names}))
    features = {f"{v}[{lev:g}]": ds[v].sel(lev=lev).values for v in "tq" for lev in (850, 92.5)}
    features["ps"] = ds["ps"].values
    wanted = ["ps", "q[92.5]", "t[850]", "q[850]", "t[92.5]"]
    check_by_name(finished.store, expected(network, features, wanted))
    assert cn.open(finished.store).input.values.tolist() == wanted
    said = refusal(
        lambda: cn.plan(named_job("", x, network={"input_names": ["ps", *names[:0:-1][:3], "t"]}))
    )
    assert "t may be X's" in said or "the network alone has t" in said


@pytest.mark.parametrize("stem", ["", "x", "feature_", "V"])
def test_names_that_only_count_tell_nothing(named_job, tmp_path, network, X, stem: str) -> None:
    first = 1 if stem == "V" else 0
    numbered = [f"{stem}{at + first}" for at in range(N)]
    x = as_parquet(tmp_path, X, numbered)
    truth = expected(network, dict(zip(NAMES, X, strict=True)), NAMES)
    finished = cn.run(named_job("input_names", x))
    check_by_name(finished.store, truth)
    assert cn.open(finished.store).input.values.tolist() == list(NAMES)
    # Of either side
    x = as_parquet(tmp_path, X, NAMES)
    document = named_job("", x, network={"input_names": numbered}, output={"path": f"{tmp_path}/o"})
    check_by_name(cn.run(document).store, truth)
    # Unless the other side has them too, in another order
    features, stored = dict(zip(numbered, X, strict=True)), shuffled(numbered)
    x = as_parquet(tmp_path, np.array([features[name] for name in stored]), stored)
    document["input"] = x
    finished = cn.run(document, overwrite=True)
    check_by_name(finished.store, expected(network, features, numbered))


def test_some_of_many_that_are_only_counted(named_job, tmp_path, network) -> None:
    X, chosen = make_columns(11), [7, 0, 3, 10, 2]
    for kind in ("parquet", "netcdf"):
        x = WRITERS[kind](tmp_path, X, [f"x{at}" for at in range(11)]) | {"features": chosen}
        document = named_job("input_names", x, output={"path": str(tmp_path / f"{kind}.zarr")})
        finished = cn.run(document)
        features = dict(zip(NAMES, X[chosen], strict=True))
        check_by_name(finished.store, expected(network, features, NAMES))


def test_names_that_are_there_twice(named_job, tmp_path, X) -> None:
    x = as_zarr(tmp_path, X, ["T_850", "q_850", "q_850", "u10", "v10"])
    said = refusal(lambda: cn.plan(named_job("input_names", x)))
    assert "cannot be matched by name: X has 'q_850' twice" in said
    assert "input.features" in said
    # Without names of the network they are taken in their order, and none is called by them
    checked = check_job(load_job(named_job("", x)))
    assert checked.labels.input_names is None
    assert "input, since 'q_850' occurs twice" in checked.labels.left_out[0]
    with pytest.raises(InputError, match="2 features have the name 'q_850'; give the number"):
        check_job(load_job(named_job("", x | {"features": ["q_850"]})))


def test_more_features_than_the_network_takes(named_job, tmp_path, network) -> None:
    held = [*reversed(NAMES), "sst", "lat"]
    X = make_columns(len(held))
    x = as_parquet(tmp_path, X, held)
    said = refusal(lambda: cn.plan(named_job("input_names", x)))
    assert f"Choose the network's inputs with input.features: [{', '.join(NAMES)}]" in said
    finished = cn.run(named_job("input_names", x | {"features": list(NAMES)}))
    check_by_name(finished.store, expected(network, dict(zip(held, X, strict=True)), NAMES))
    x = as_parquet(tmp_path, X, [*held[1:], "lon"])
    said = refusal(lambda: cn.plan(named_job("input_names", x)))
    assert "By name, the network's inputs and X's features have different names" in said
    assert "the network alone has v10; X alone has sst, lat, lon" in said


def test_many_names_are_told_in_short(named_job, tmp_path) -> None:
    """A refusal is a paragraph, whatever a file has put into its names."""
    n = 300
    wanted = [f"gene {at}" for at in range(n)]
    x = as_parquet(
        tmp_path, make_columns(n), [f"\x1b[31mgene {at * 7919 % n}{'z' * 90}" for at in range(n)]
    )
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "wide.npz", W1=rng.standard_normal((3, n)), W2=rng.standard_normal((2, 3)))
    changes = {
        "weights": str(tmp_path / "wide.npz"),
        "input_names": wanted,
    }
    said = refusal(lambda: cn.plan(named_job("", x, network=changes)))
    assert said.count("gene") < 40
    assert "(300 names)" in said


def test_names_of_the_job_and_of_the_file(named_job, tmp_path, fitted, X) -> None:
    x = as_parquet(tmp_path, X, OTHERS)
    # The file's inputs have other names in X: the job says so, in the network's order
    finished = cn.run(named_job("skops", x, network={"input_names": list(OTHERS)}))
    truth = expected(Network.from_sklearn(fitted), dict(zip(OTHERS, X, strict=True)), OTHERS)
    check_by_name(finished.store, truth)
    # It must not give one of the file's names to another input
    wrong = [NAMES[1], NAMES[0], *OTHERS[2:]]
    with pytest.raises(JobError, match="input 0 is 'q_850', but that is input 1 in") as caught:
        cn.plan(named_job("skops", x, network={"input_names": wrong}))
    assert "Leave network.input_names out" in str(caught.value)


@pytest.mark.parametrize("kind", ["factored", "dense"])
def test_both_layouts(named_job, tmp_path, network, X, kind: str) -> None:
    products = {"layout": kind, "products": ["jacobian", "gram", "norm"]}
    document = named_job("input_names", save_shuffled(tmp_path, X), output=products)
    path = cn.run(document).store
    truth = expected(network, dict(zip(NAMES, X, strict=True)), NAMES)
    check_by_name(path, truth)
    gram = (truth.rename(input="other_input") * truth).sum("output").mean("column")
    found = cn.open(path).gram
    np.testing.assert_allclose(found, gram.transpose("input", "other_input"), rtol=1e-4, atol=1e-5)
    assert found.other_input.values.tolist() == list(NAMES)
    if kind == "factored":
        check_by_name(cn.materialize(path, tmp_path / "dense.zarr", trust=True).store, truth)


def test_scales_are_put_into_the_same_order(named_job, tmp_path, X) -> None:
    x = save_shuffled(tmp_path, X, "zarr")
    spread = dict(zip(shuffled(NAMES), np.arange(2.0, 2 + N), strict=True))
    document = named_job("input_names", x, output={"scale": {"input_std": "spread"}})
    path = cn.run(document).store
    ds = cn.open(path)
    assert {str(k): v for k, v in zip(ds.input.values, ds.input_std.values, strict=True)} == spread
    scaled = cn.open(path, scaled=True).jacobian
    for name in NAMES:
        one, two = scaled.sel(input=name), ds.jacobian.sel(input=name)
        np.testing.assert_allclose(one, two * spread[name], rtol=1e-6)
    # The features that the job chooses, too
    chosen = [*NAMES[::-1]]
    document = named_job("", x | {"features": chosen}, output={"scale": {"input_std": "spread"}})
    assert check_job(load_job(document)).labels.input_std == tuple(spread[n] for n in chosen)


def test_scales_whose_order_nobody_tells(named_job, tmp_path, X) -> None:
    x, numbers = save_shuffled(tmp_path, X), [1.5, 2.5, 3.5, 4.5, 5.5]
    np.save(tmp_path / "std.npy", numbers)
    said = r"output\.scale\.input_std.*input\.features in the network's order"
    for std in (numbers, str(tmp_path / "std.npy")):
        document = named_job("input_names", x, output={"scale": {"input_std": std}})
        with pytest.raises(JobError, match=said):
            check_job(load_job(document))
        document["input"] = x | {"features": list(NAMES)}
        assert check_job(load_job(document)).labels.input_std == tuple(numbers)
        document["output"]["scale"] = {"output_std": [1, 2, 3]}
        document["input"] = x
        assert check_job(load_job(document)).labels.output_std == (1, 2, 3)


def test_the_plan_shows_what_belongs_together(named_job, tmp_path, X) -> None:
    planned = cn.plan(named_job("input_names", save_shuffled(tmp_path, X)))
    assert (
        "\nfeatures  T_850 (number 3 of X), q_850 (number 0 of X), ω µ (number 4 of X), "
        "u10 (number 2 of X), …: matched by name, in the network's order\n"
    ) in str(planned)
    assert planned.as_dict()["features"] == [
        {"input": name, "feature": name, "place": place}
        for name, place in zip(NAMES, ORDER, strict=True)
    ]
    planned = cn.plan(named_job("input_names", as_parquet(tmp_path, X, NAMES)))
    assert "\nfeatures  T_850, q_850, ω µ, u10, …: the same names in the network and in X\n" in str(
        planned
    )
    planned = cn.plan(named_job("", as_parquet(tmp_path, X, NAMES)))
    assert "u10, …: only X has names; X's order is used" in str(planned)
    assert planned.as_dict()["features"][2] == {"input": None, "feature": "ω µ", "place": 2}
    planned = cn.plan(named_job("input_names", {"path": str(tmp_path / "X.npy")}))
    assert "u10, …: only the network has names; X's order is used" in str(planned)
    planned = cn.plan(named_job("", {"path": str(tmp_path / "X.npy")}))
    assert "features  " not in str(planned)
    assert planned.as_dict()["features"] == []


def test_the_event_is_told() -> None:
    event = FeaturesOrdered("x.parquet", 7919, 7918, ("a", "b\x1b[2J"))
    line = describe(event)
    assert line.startswith("7,918 of 7,919 features have another position in x.parquet than")
    assert line.endswith("order, a, 'b\\x1b[2J', …")
    file = io.StringIO()
    JsonLines(file)(event)
    said = json.loads(file.getvalue())
    assert (said["event"], said["names"]) == ("features_ordered", ["a", "b\x1b[2J"])


def test_names_in_the_metadata_of_weights(tmp_path, network) -> None:
    arrays = {name: np.ascontiguousarray(array) for name, array in network.arrays.items()}
    path = tmp_path / "w.safetensors"
    for said, names in (
        ({"feature_names_in_": json.dumps(NAMES)}, NAMES),
        ({"format": "pt", "feature_names": json.dumps(NAMES)}, NAMES),
        # Of other features than the network's inputs, or nothing of the kind
        ({"feature_names": json.dumps(NAMES[1:])}, None), ({"feature_names": "T_850"}, None),
        ({"feature_names": "[" * 10_000}, None), ({"feature_names": "[1, 2, 3, 4, 5]"}, None),
        ({"input_names": json.dumps(NAMES)}, None), (None, None),
    ):  # fmt: skip
        save_file(arrays, path, metadata=said)
        assert Network.load(path, "tanh").input_names == names


def test_names_in_an_onnx_file(tmp_path, network) -> None:
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    tensors = [onnx.numpy_helper.from_array(a, name) for name, a in network.arrays.items()]
    nodes = [
        helper.make_node("Gemm", ["input", "W1", "b1"], ["z"], transB=1),
        helper.make_node("Tanh", ["z"], ["h"]),
        helper.make_node("Gemm", ["h", "W2", "b2"], ["y"], transB=1),
    ]
    ends = [
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None, size])]
        for name, size in (("input", N), ("y", Q))
    ]
    model = helper.make_model(helper.make_graph(nodes, "g", *ends, tensors))
    onnx.save(model, tmp_path / "plain.onnx")
    # The name of the graph's input is none of a feature's
    assert Network.load(tmp_path / "plain.onnx").input_names is None
    helper.set_model_props(model, {"feature_names": json.dumps(NAMES)})
    onnx.save(model, tmp_path / "named.onnx")
    assert Network.load(tmp_path / "named.onnx").input_names == NAMES


def test_names_of_estimators(fitted) -> None:
    rng = np.random.default_rng(7)
    X, Y = rng.standard_normal((P, N)), rng.standard_normal((P, Q))
    table = pd.DataFrame(X, columns=list(NAMES))
    mlp = MLPRegressor(hidden_layer_sizes=(7,), max_iter=3, random_state=0)
    target = TransformedTargetRegressor(mlp, transformer=StandardScaler())
    late = make_pipeline("passthrough", StandardScaler(), mlp)
    # Behind a scaler without names, the network has those of scikit-learn's own
    inner = make_pipeline(StandardScaler().set_output(transform="pandas"), mlp)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for estimator, x, names in (
            (mlp, table, NAMES), (target, table, NAMES), (late, table, NAMES),
            (inner, table, NAMES), (mlp, X, None), (late, X, None), (inner, X, None),
        ):  # fmt: skip
            assert Network.from_sklearn(clone(estimator).fit(x, Y)).input_names == names
    assert Network.from_sklearn(fitted).input_names == NAMES
    damaged = clone(mlp)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        damaged.fit(table, Y)
    damaged.feature_names_in_ = np.array(NAMES[1:], object)
    assert "4 names for 5 features" in refusal(lambda: Network.from_sklearn(damaged))


# Pairing alone

letters = st.text("abé[]_ .-0158\u0301", min_size=1, max_size=5)


@given(st.lists(letters, min_size=1, max_size=9, unique=True), st.randoms())
def test_any_order_of_the_same_names_is_found(names: list[str], random: Any) -> None:
    inputs = tuple(names)
    features = tuple(random.sample(names, len(names)))
    found = pair(inputs, features)
    order = found.order or tuple(range(len(names)))
    assert [features[at] for at in order] == names
    assert found.names == inputs
    assert (found.order is None) == (inputs == features)
    assert found.moved == sum(a != b for a, b in zip(inputs, features, strict=True))


@given(
    st.lists(letters, min_size=1, max_size=6, unique=True),
    st.lists(letters, min_size=1, max_size=6, unique=True),
)
def test_no_other_name_is_taken(inputs: list[str], features: list[str]) -> None:
    def plain(name: str) -> Any:
        try:
            return float(name.replace("_", "x"))
        except ValueError:
            return unicodedata.normalize("NFC", name)

    try:
        found = pair(tuple(inputs), tuple(features))
    except MatchError:
        assert {*inputs} != {*features}
        return
    if found.inputs is None or found.features is None:
        assert carry_nothing(inputs) or carry_nothing(features)
        return
    for mine, own in zip(found.inputs, found.features, strict=True):
        strip = [re.sub(r"\[.*", "", each) for each in (mine, own)]
        assert plain(mine) == plain(own) or len({plain(each) for each in strip}) == 1


@pytest.mark.parametrize(
    ("names", "nothing"),
    [
        ("0 1 2", True), ("x0 x1 x2", True), ("feature_0 feature_1", True), ("Column_0", True),
        ("1 2 3", True), ("V1 V2 V3", True), ("f0", True), ("x1 x0", False), ("2 3", False),
        ("0 2", False), ("T_0 T_1", False), ("x0 y1", False), ("x_0 x1", False), ("00 01", False),
        ("850 500", False), ("x", False), ("x0 x1 x", False), ("0 1 1", False), ("", False),
    ],
)  # fmt: skip
def test_which_names_only_count(names: str, nothing: bool) -> None:
    assert carry_nothing(names.split()) is nothing


def test_numbers_that_are_the_same() -> None:
    assert pair(("850.0", "t[5e2]"), ("t[500]", "850")).order == (1, 0)
    # Written apart, they are two
    assert pair(("850.0", "850"), ("850", "850.0")).order == (1, 0)
    for names in (("1_0", "a"), ("nan", "inf")):
        with pytest.raises(MatchError):
            pair(names, ("10", "a") if names[0] == "1_0" else ("NaN", "inf"))
    assert pair(("caf\u00e9", "b"), ("b", "cafe\u0301")).order == (1, 0)
    assert pair(None, ("a",)) == Pairing(None, ("a",))
    assert pair(("a",), None) == Pairing(("a",), None)
    assert pair(("0", "1"), ("x0", "x1")) == Pairing(None, ("x0", "x1"))
    with pytest.raises(MatchError, match="the network has 'a' twice"):
        pair(("a", "a"), ("a", "b"))
