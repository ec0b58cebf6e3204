"""Networks from the files of torch and of scikit-learn, and from arrays however they are kept."""

from __future__ import annotations

import importlib
import json
import os
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import skops.io
import zarr
from safetensors.numpy import save_file
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    MaxAbsScaler,
    MinMaxScaler,
    PolynomialFeatures,
    RobustScaler,
    StandardScaler,
)

import colonnade as cn
from colonnade import Network
from colonnade.errors import NetworkError, StoreError
from colonnade.store import Store
from support import M, N, P, Q, check_network, make_network, refusal, refused_network

# torch: its Y and its J are in data/torch-networks.npz


@pytest.mark.parametrize("name", ["state_dict.pt", "checkpoint.pth"])
def test_torch_state_dicts(torch_files, name: str) -> None:
    pytest.importorskip("torch")
    folder, told = torch_files
    assert "does not state the activation" in refused_network(folder / name)
    check_network(Network.load(folder / name, "tanh"), *(told[name][key] for key in "XYJ"))


def test_torch_pickles_that_are_more(torch_files, tmp_path) -> None:
    said = refused_network(torch_files[0] / "module.pt", "tanh")
    assert "a pickle with torch.nn.modules.container.Sequential, which is more than" in said
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:
        archive.writestr("script/constants.pkl", b"")
    assert "it is TorchScript; save the state_dict()" in refused_network(tmp_path / "script.pt")


def test_torch_files_without_tensors(torch_files) -> None:
    pytest.importorskip("torch")
    assert "'step', which is not a tensor" in refused_network(torch_files[0] / "epoch.pt", "tanh")


# scikit-learn


@pytest.fixture(scope="module")
def fitted() -> tuple[Any, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    X, Y = 3 * rng.standard_normal((P, N)) + 2, rng.standard_normal((P, Q))
    regressor = MLPRegressor(hidden_layer_sizes=(M,), activation="tanh", max_iter=7, random_state=0)
    return fit(make_pipeline(StandardScaler(), regressor), X, Y), X, Y


def fit(estimator: Any, X: np.ndarray, Y: np.ndarray) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that so few iterations do not converge
        return clone(estimator).fit(X, Y)


def mlp(**options: Any) -> MLPRegressor:
    given = {"hidden_layer_sizes": (M,), "max_iter": 7, "random_state": 0} | options
    return MLPRegressor(**given)


ESTIMATORS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "alone": (mlp(), ()),
    "sgd": (mlp(solver="sgd", activation="logistic"), ()),
    "lbfgs": (mlp(solver="lbfgs", activation="identity"), ()),
    "standard": (make_pipeline(StandardScaler(), mlp(activation="tanh")), ("StandardScaler",)),
    "two": (make_pipeline(MinMaxScaler((-1, 1)), "passthrough", StandardScaler(with_mean=False),
                          mlp()),
            ("MinMaxScaler", "StandardScaler")),
    "robust": (make_pipeline(RobustScaler(), MaxAbsScaler(), mlp()),
               ("RobustScaler", "MaxAbsScaler")),
    "target": (TransformedTargetRegressor(make_pipeline(StandardScaler(), mlp()),
                                          transformer=StandardScaler()),
               ("StandardScaler", "StandardScaler, of the target")),
    "range": (TransformedTargetRegressor(mlp(), transformer=MinMaxScaler()),
              ("MinMaxScaler, of the target",)),
}  # fmt: skip


@pytest.mark.parametrize("name", ESTIMATORS)
def test_sklearn(tmp_path, fitted, name: str) -> None:
    given, folded = ESTIMATORS[name]
    _, X, Y = fitted
    estimator = fit(given, X, Y)
    network = Network.from_sklearn(estimator)
    assert network.folded == folded
    check_network(network, X.T, estimator.predict(X).T)
    skops.io.dump(estimator, tmp_path / "w.skops")
    loaded = Network.load(tmp_path / "w.skops")
    assert loaded.fingerprint == network.fingerprint
    assert loaded.folded == folded


@pytest.mark.parametrize("classes", [2, 4])
def test_sklearn_classifiers_give_logits(fitted, classes: int) -> None:
    _, X, _ = fitted
    labels = np.arange(P) % classes
    classifier = MLPClassifier(hidden_layer_sizes=(M,), max_iter=7, random_state=0)
    estimator = fit(make_pipeline(StandardScaler(), classifier), X, labels)
    network = Network.from_sklearn(estimator)
    Y = cn.forward(network, X.T)
    if classes == 2:
        found = 1 / (1 + np.exp(-Y))
        found = np.concatenate([1 - found, found])
    else:
        found = np.exp(Y) / np.exp(Y).sum(axis=0)
    np.testing.assert_allclose(found, estimator.predict_proba(X).T, rtol=1e-12)
    assert "logits, before its " in network.folded[1]


@pytest.mark.parametrize(
    ("estimator", "problem"),
    [
        (mlp(), "this MLPRegressor is not fitted, or damaged"),
        (StandardScaler(), "this StandardScaler is not fitted"),
        (PolynomialFeatures(), "it holds a PolynomialFeatures; supported are MLPRegressor"),
        (make_pipeline(MinMaxScaler(clip=True)), "its MinMaxScaler clips"),
        (3, "it holds a int; supported are"),
    ],
)
def test_estimators_that_are_no_network(estimator: Any, problem: str) -> None:
    with pytest.raises(NetworkError, match=problem):
        Network.from_sklearn(estimator)


def test_sklearn_of_any_depth(fitted) -> None:
    _, X, Y = fitted
    estimator = fit(mlp(hidden_layer_sizes=(M, 2)), X, Y)
    network = Network.from_sklearn(estimator)
    assert network.hidden == (M, 2)
    np.testing.assert_allclose(cn.forward(network, X.T).T, estimator.predict(X), rtol=1e-12)


def test_sklearn_networks_that_are_refused(fitted) -> None:
    _, X, Y = fitted
    with pytest.raises(NetworkError, match="it holds no affine layer"):
        Network.from_sklearn(fit(StandardScaler(), X, Y))


def test_skops_of_other_types(tmp_path) -> None:
    skops.io.dump({"a": Path("x"), "b": os.stat_result}, tmp_path / "w.skops")
    assert "types that are not trusted: " in refused_network(tmp_path / "w.skops")


def test_skl2onnx(tmp_path, fitted) -> None:
    skl2onnx = pytest.importorskip("skl2onnx")
    kind = importlib.import_module("skl2onnx.common.data_types").FloatTensorType
    _, X, Y = fitted
    estimator = fit(make_pipeline(StandardScaler(), mlp()), X, Y[:, 0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = skl2onnx.to_onnx(estimator, initial_types=[("x", kind([None, N]))])
    path = tmp_path / "w.onnx"
    path.write_bytes(model.SerializeToString())
    network = Network.load(path)
    X = X.T.astype(np.float32)
    check_network(network, X, estimator.predict(X.T)[None].astype(np.float32))
    assert network.folded == ("Scaler",)


# Arrays: their layouts, a Zarr group, scalings


def write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    np.savez(path, **arrays)


def write_zarr(path: Path, arrays: dict[str, np.ndarray]) -> None:
    group = zarr.create_group(path)
    for name, array in arrays.items():
        group.create_array(name, data=array, chunks=tuple(min(2, n) for n in array.shape))


def write_safetensors(path: Path, arrays: dict[str, np.ndarray]) -> None:
    save_file({name: np.array(array, order="C") for name, array in arrays.items()}, path)


def write_h5(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[f"layers/{name}"] = array


WRITERS: dict[str, Callable[[Path, dict[str, np.ndarray]], None]] = {
    "w.npz": write_npz,
    "w.zarr": write_zarr,
    "w.safetensors": write_safetensors,
    "w.h5": write_h5,
}


def four(network: Network, *, in_by_out: bool = False) -> dict[str, np.ndarray]:
    arrays = {"a": network.W1, "b": network.b1, "u": network.W2, "c": network.b2}
    return {name: array.T if in_by_out else array for name, array in arrays.items()}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("in_by_out", [False, True])
def test_layouts_are_told_by_shape(tmp_path, network, name: str, in_by_out) -> None:
    WRITERS[name](tmp_path / name, four(network, in_by_out=in_by_out))
    assert Network.load(tmp_path / name, "tanh").fingerprint == network.fingerprint
    path = "layers/" if name == "w.h5" else ""
    names = {key: f"{path}{own}" for key, own in zip(("W1", "b1", "W2", "b2"), "abuc", strict=True)}
    assert Network.load(tmp_path / name, "tanh", names).fingerprint == network.fingerprint


@pytest.mark.parametrize("name", WRITERS)
def test_where_both_fit_the_convention_holds(tmp_path, name: str) -> None:
    square = make_network(M, M, M)
    arrays = four(square, in_by_out=name == "w.h5")
    prefix = "layers/" if name == "w.h5" else ""
    WRITERS[name](tmp_path / name, arrays)
    names = {key: prefix + own for key, own in zip(("W1", "b1", "W2", "b2"), "abuc", strict=True)}
    assert Network.load(tmp_path / name, "tanh", names).fingerprint == square.fingerprint


def test_given_scalings_are_folded(tmp_path, monkeypatch, network, X) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(3)
    mean, std = rng.standard_normal(N), rng.uniform(0.5, 2, N)
    shift, scale = rng.standard_normal(Q), rng.uniform(0.5, 2, Q)
    wide = Network(*(getattr(network, key).astype(np.float64) for key in ("W1", "b1", "W2", "b2")),
                   network.activation)  # fmt: skip
    Y = scale[:, None] * cn.forward(wide, (X - mean[:, None]) / std[:, None]) + shift[:, None]
    J = scale[:, None] * cn.jacobian(wide, (X - mean[:, None]) / std[:, None]) / std
    np.savez("w.npz", **four(wide), mean=mean, std=std[None])
    np.save("shift.npy", shift)
    found = Network.load("w.npz", "tanh", input_mean="mean", input_std="std",
                         output_mean="shift.npy", output_std=scale.tolist())  # fmt: skip
    check_network(found, X.astype(np.float64), Y, J)
    assert found.folded == ("input_mean and input_std", "output_mean and output_std")
    np.savez("bare.npz", **four(network))
    half = Network.load("bare.npz", "tanh", input_std=255)
    np.testing.assert_array_equal(half.W1, (network.W1.astype(np.float64) / 255).astype("f4"))
    assert half.dtype == np.float32
    assert half.fingerprint != network.fingerprint


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"input_mean": "nope"}, "input_mean: the weights' file holds no array 'nope'"),
        ({"input_mean": "nope.npy"}, "there is no such file (network.input_mean)"),
        ({"input_mean": [1.0, 2.0]}, "input_mean has 2 numbers for the 5 inputs of its layer"),
        ({"output_std": [1.0] * 5}, "output_std has 5 numbers for the 3 outputs of its layer"),
        ({"input_std": 0}, "input_std must be finite, and above 0"),
        ({"input_std": [1.0, 1, 1, 1, -1]}, "input_std must be finite, and above 0"),
        ({"input_mean": [np.nan] * 5}, "input_mean must be finite"),
        ({"input_mean": np.ones((5, 5))}, "input_mean is float64 of the shape (5, 5)"),
        ({"input_mean": []}, "input_mean is float64 of the shape (0,)"),
        ({"input_mean": [[1.0], [2.0, 3.0]]}, "input_mean is not an array of numbers"),
        ({"input_std": 1e-300}, "W1 holds NaN or infinite values"),
    ],
)
def test_scalings_that_are_none(tmp_path, network, options, problem) -> None:
    np.savez(tmp_path / "w.npz", **four(network))
    assert problem in refused_network(tmp_path / "w.npz", "tanh", **options)


# The job


def test_a_job_takes_the_activation_and_scalers_from_the_file(tmp_path, fitted, job) -> None:
    pipeline, X, _ = fitted
    skops.io.dump(pipeline, tmp_path / "w.skops")
    np.save(tmp_path / "X.npy", X.T)
    np.save(tmp_path / "shift.npy", np.ones(Q))
    document = job(output={"dtype": "float64"})
    document["network"] = {
        "weights": str(tmp_path / "w.skops"),
        "output_mean": str(tmp_path / "shift.npy"),
    }
    document["cluster"] = {"kind": "local", "workers": 1}
    assert cn.run(document).state == "complete"
    ds = cn.open(document["output"]["path"])
    np.testing.assert_allclose(ds.value.to_numpy(), pipeline.predict(X) + 1, rtol=1e-12)
    status = Store.open(document["output"]["path"]).status()
    assert status.record.folded == ("StandardScaler", "output_mean")
    assert "folded    into the layers: StandardScaler; output_mean" in str(status)
    assert status.record.activations == {"name": "tanh"}
    # the same network, told otherwise, is the store's
    assert cn.run(document, ["network.activation=tanh"]).blocks_computed == 0
    assert cn.verify(document["output"]["path"]).sound
    with pytest.raises(StoreError, match="the network"):
        cn.run(document, ["network.output_mean=[1, 1, 2]"])
    with pytest.raises(NetworkError, match="states the activation tanh, but relu is given"):
        cn.run(document, ["network.activation=relu"])


def test_the_store_must_tell_the_activation(job) -> None:
    document = job()
    cn.run(document)
    path = Path(document["output"]["path"]) / "zarr.json"
    attributes = json.loads(path.read_text())
    attributes["attributes"]["colonnade"]["job"]["network"]["activation"] = None
    path.write_text(json.dumps(attributes))
    with pytest.raises(StoreError, match="does not state the activation"):
        Store.open(document["output"]["path"])


# How matrices are stored, where shapes do not tell: by the names of the arrays, or by the job

FLAX = {"W1": "params/Dense_0/kernel", "b1": "params/Dense_0/bias",
        "W2": "params/Dense_1/kernel", "b2": "params/Dense_1/bias"}  # fmt: skip
TORCH = {"W1": "0.weight", "b1": "0.bias", "W2": "2.weight", "b2": "2.bias"}


def stored(network: Network, names: dict[str, str]) -> dict[str, np.ndarray]:
    """A network's arrays under other names, kernels as in × out."""
    return {own: network.arrays[key].T if own.endswith("kernel") else network.arrays[key]
            for key, own in names.items()}  # fmt: skip


@pytest.mark.parametrize("sizes", [(M, M, M), (M, M, N), (N, N, M), (N, M, Q)])
@pytest.mark.parametrize("name", ["w.npz", "w.safetensors", "w.h5"])
def test_a_kernel_is_in_by_out_and_a_weight_out_by_in(tmp_path, sizes, name: str) -> None:
    network = make_network(*sizes)
    # A file of two libraries is a rare thing, and no reason to turn one half of it
    for names in (FLAX, TORCH, FLAX | {"W2": "2.weight", "b2": "2.bias"}):
        (tmp_path / name).unlink(missing_ok=True)
        WRITERS[name](tmp_path / name, stored(network, names))
        prefix = "layers/" if name == "w.h5" else ""
        given = {key: prefix + own for key, own in names.items()}
        assert Network.load(tmp_path / name, "tanh", given).fingerprint == network.fingerprint


def test_names_of_kernels(tmp_path) -> None:
    """However the levels of a tree of parameters are put together to a name."""
    network = make_network(M, M, M)
    for kernel in ("params.d{}.kernel", "d{}_kernel", "['params']['d{}']['kernel']", "d{}/kernel:0",
                   "d{}.Kernel"):  # fmt: skip
        names = {"W1": kernel.format(0), "b1": "b", "W2": kernel.format(1), "b2": "c"}
        arrays = {names["W1"]: network.W1.T, "b": network.b1, names["W2"]: network.W2.T,
                  "c": network.b2}  # fmt: skip
        save_file(
            {key: np.ascontiguousarray(a) for key, a in arrays.items()}, tmp_path / "w.safetensors"
        )
        found = Network.load(tmp_path / "w.safetensors", "tanh", names)
        assert found.fingerprint == network.fingerprint
    # Of a word that ends so, nothing is known
    names = {"W1": "subkernel", "b1": "b", "W2": "kernels", "b2": "c"}
    np.savez(
        tmp_path / "w.npz", subkernel=network.W1, kernels=network.W2, b=network.b1, c=network.b2
    )
    assert Network.load(tmp_path / "w.npz", "tanh", names).fingerprint == network.fingerprint


def test_the_job_says_how_matrices_are_stored(tmp_path, job) -> None:
    square = make_network(N, N, N)
    turned = {key: a.T if key[0] == "W" else a for key, a in square.arrays.items()}
    np.savez(tmp_path / "in_by_out.npz", **turned)
    np.savez(tmp_path / "out_by_in.npz", **square.arrays)
    for way in ("in_by_out", "out_by_in"):
        document = job(network={"weights": str(tmp_path / f"{way}.npz"), "matrices": way},
                       output={"path": str(tmp_path / way)})  # fmt: skip
        store = Store.open(cn.run(document).store)
        assert store.network().fingerprint == square.fingerprint
        assert store.record.job.network.matrices == way
    # What the user says is taken before what a name seems to say
    names = {"W1": "a.weight", "W2": "b.weight"}
    np.savez(tmp_path / "conv1d.npz", **{own: turned[key] for key, own in names.items()})
    found = Network.load(tmp_path / "conv1d.npz", "tanh", names, matrices="in_by_out")
    np.testing.assert_array_equal(found.W1, square.W1)


def test_matrices_that_are_not_stored_so(tmp_path, network, fitted, job) -> None:
    np.savez(tmp_path / "w.npz", **four(network))
    names = {"W1": "a", "b1": "b", "W2": "u", "b2": "c"}
    for given in (None, names):
        said = refused_network(tmp_path / "w.npz", "tanh", given, matrices="in_by_out")
        assert "network.matrices: in_by_out" in said
        found = Network.load(tmp_path / "w.npz", "tanh", given, matrices="out_by_in")
        assert found.fingerprint == network.fingerprint
    skops.io.dump(fitted[0], tmp_path / "w.skops")
    for way in ("in_by_out", "out_by_in"):
        said = refused_network(tmp_path / "w.skops", matrices=way)
        assert f"the file defines its layers itself; network.matrices ({way}) is for files" in said
    document = job(network={"matrices": "rows"})
    assert "network.matrices: given 'rows'; allowed: 'in_by_out' or 'out_by_in'" in refusal(
        lambda: cn.plan(document)
    )
