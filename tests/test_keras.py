"""Networks from Keras's own files: Y and J are what Keras says, with JAX behind it."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from colonnade import Network
from support import M, N, Q, check_network, make_columns, make_network, refused_network

# Keras, and JAX behind it, warn of what NumPy and JAX will do away with
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def keras() -> Iterator[Any]:
    before = os.environ.get("KERAS_BACKEND")
    os.environ["KERAS_BACKEND"] = "jax"
    found = pytest.importorskip("keras")
    found.utils.set_random_seed(0)
    yield found
    os.environ.pop("KERAS_BACKEND")
    if before is not None:
        os.environ["KERAS_BACKEND"] = before


def truth(model: Any, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Y (q, p) and J (p, q, n) of a model, by JAX."""
    import jax  # noqa: PLC0415 (after Keras has chosen it)

    J = jax.vmap(jax.jacfwd(lambda x: model(x[None], training=False)[0]))(X.T)
    return np.asarray(model(X.T, training=False)).T, np.asarray(J)


def randomise(model: Any) -> Any:
    """Give each variable other numbers than zeros and ones; variances stay positive."""
    rng = np.random.default_rng(0)
    for variable in model.variables:
        # Normalization takes its own when it adapts
        if variable.path.startswith("normalization"):
            continue
        if np.issubdtype(np.dtype(variable.dtype), np.floating):
            numbers = rng.uniform(0.5, 1.5, variable.shape)
            signs = 1 if "variance" in variable.name else rng.choice([-1, 1], variable.shape)
            variable.assign((numbers * signs).astype("float32"))
    return model


def sequential(keras: Any, *between: Any, before: tuple[Any, ...] = (), **options: Any) -> Any:
    layers = keras.layers
    model = keras.Sequential(
        [keras.Input((N,)), *before, layers.Dense(M, **options), *between, layers.Dense(Q)]
    )
    return randomise(model)


FUNCTIONS = {
    "celu": "celu", "elu": "elu", "gelu": "gelu", "hard_sigmoid": "hard_sigmoid",
    "hard_silu": "hard_swish", "hard_swish": "hard_swish", "hard_tanh": "hardtanh",
    "leaky_relu": "leaky_relu", "linear": "identity", "log_sigmoid": "log_sigmoid",
    "mish": "mish", "relu": "relu", "relu6": "relu6", "selu": "selu", "sigmoid": "sigmoid",
    "silu": "silu", "softplus": "softplus", "softsign": "softsign", "swish": "silu",
    "tanh": "tanh", "tanh_shrink": "tanhshrink",
}  # fmt: skip


@pytest.mark.parametrize(("name", "known"), FUNCTIONS.items())
def test_functions(tmp_path, keras, name: str, known: str) -> None:
    model = sequential(keras, activation=name)
    model.save(tmp_path / "w.keras")
    network, X = Network.load(tmp_path / "w.keras"), make_columns()
    assert network.activation.name == known
    assert network.folded == ()
    # Keras 3's own default, which is not torch's
    if name == "leaky_relu":
        assert network.activation.settings == (("negative_slope", 0.2),)
    check_network(network, X, truth(model, X)[0])


def layered(keras: Any) -> dict[str, tuple[Any, tuple[str, ...]]]:
    layers = keras.layers
    given = layers.Normalization(mean=list(range(N)), variance=list(range(1, N + 1)))
    adapted = layers.Normalization()
    adapted.adapt(make_columns().T * 3 + 1)
    inputs = keras.Input((N,))
    hidden = layers.Dense(M, name="first", use_bias=False)(adapted(inputs))
    hidden = layers.BatchNormalization()(layers.Activation("tanh")(hidden))
    functional = keras.Model(inputs, layers.Dense(Q, name="out")(hidden))
    return {
        "slope": (sequential(keras, layers.LeakyReLU()), ()),
        "elu": (sequential(keras, activation=layers.ELU(0.5)), ()),
        "relu": (sequential(keras, layers.ReLU(max_value=6), layers.Dropout(0.3)), ()),
        "bounded": (sequential(keras, layers.ReLU(max_value=1.5)), ()),
        "leaky": (sequential(keras, layers.ReLU(negative_slope=0.2)), ()),
        "flat": (sequential(keras, layers.GaussianNoise(0.1), layers.Activation("tanh"),
                            before=(layers.Flatten(),)), ()),
        "norms": (sequential(keras, layers.BatchNormalization(), layers.LeakyReLU(0.1),
                             before=(given, layers.Rescaling(0.5, 1.0))),
                  ("Normalization", "Rescaling", "BatchNormalization")),
        "thin": (sequential(keras, layers.BatchNormalization(scale=False, center=False),
                            layers.Activation("silu")), ("BatchNormalization",)),
        "deeper": (sequential(keras, layers.Dense(2, "relu"), activation="tanh"), ()),
        "functional": (randomise(functional), ("Normalization", "BatchNormalization")),
    }  # fmt: skip


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_layers(tmp_path, keras, suffix: str) -> None:
    X = make_columns()
    for name, (model, folded) in layered(keras).items():
        path = tmp_path / f"{name}{suffix}"
        model.save(path)
        network = Network.load(path)
        assert network.folded == folded
        check_network(network, X, *truth(model, X))
        assert Network.load(path, network.activations).fingerprint == network.fingerprint


def test_weights_alone(tmp_path, keras) -> None:
    model = sequential(keras, activation="tanh")
    model.save_weights(tmp_path / "w.weights.h5")
    assert "does not state the activation" in refused_network(tmp_path / "w.weights.h5")
    X = make_columns()
    check_network(Network.load(tmp_path / "w.weights.h5", "tanh"), X, *truth(model, X))


def test_models_that_are_none(tmp_path, keras) -> None:
    layers = keras.layers
    inputs = keras.Input((N,))
    both = layers.Add()([layers.Dense(M)(inputs), layers.Dense(M, "tanh")(inputs)])
    nested = keras.Sequential([keras.Input((N,)), sequential(keras, activation="tanh")])
    for model, problem in (
        (sequential(keras, activation="softmax"), "its activation softmax is not supported"),
        (sequential(keras, activation="exponential"), "its activation exponential is not"),
        (sequential(keras, layers.PReLU()), "it has a PReLU, which is not"),
        (sequential(keras, layers.LayerNormalization()), "it has a LayerNormalization"),
        (sequential(keras, layers.ReLU(threshold=1.0)), "its ReLU has a threshold"),
        (keras.Model(inputs, layers.Dense(Q)(both)), "a layer must have exactly one"),
        (keras.Model(inputs, [both, layers.Dense(Q)(both)]), "more than one input or output"),
        (keras.Sequential([inputs, layers.Dense(Q, "tanh")]), "its output passes through tanh"),
        (nested, "it has a Sequential, which is not"),
    ):  # fmt: skip
        model.save(tmp_path / "w.keras")
        assert problem in refused_network(tmp_path / "w.keras")


def keras2(path: Path, activation: str) -> Network:
    """A file as Keras 2 wrote it, and the network of its arrays."""
    network = make_network()
    layers = [
        {"class_name": "Dense", "config": {"name": name, "units": 1, "activation": function,
                                           "use_bias": True}}
        for name, function in (("dense", activation), ("dense_1", "linear"))
    ]  # fmt: skip
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"] = b"2.11.0"
        config = {"class_name": "Sequential", "config": {"name": "s", "layers": layers}}
        file.attrs["model_config"] = json.dumps(config).encode()
        for name, W, b in (
            ("dense", network.W1, network.b1),
            ("dense_1", network.W2, network.b2),
        ):
            group = file.create_group(f"model_weights/{name}")
            names = [f"{name}/kernel:0", f"{name}/bias:0"]
            group[names[0]], group[names[1]] = W.T, b
            group.attrs["weight_names"] = [text.encode() for text in names]
    return network


def test_hard_sigmoid_of_keras_2_is_another_one(tmp_path) -> None:
    given = keras2(tmp_path / "w.h5", "hard_sigmoid")
    X = make_columns()
    S = np.clip(0.2 * (given.W1 @ X + given.b1[:, None]) + 0.5, 0, 1)
    check_network(Network.load(tmp_path / "w.h5"), X, given.W2 @ S + given.b2[:, None])
    given = keras2(tmp_path / "w.h5", "relu")
    assert Network.load(tmp_path / "w.h5").W1.tolist() == given.W1.tolist()
    keras2(tmp_path / "w.h5", "leaky_relu")
    assert "depends on the version of Keras 2" in refused_network(tmp_path / "w.h5")


def test_weights_are_found_without_names(tmp_path, keras) -> None:
    """As of versions that do not tell them: by the kind and number of a layer."""
    model = sequential(keras, activation="tanh")
    model.save(tmp_path / "w.keras")
    with zipfile.ZipFile(tmp_path / "w.keras") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    (tmp_path / "w.h5").write_bytes(parts["model.weights.h5"])
    with h5py.File(tmp_path / "w.h5", "r+") as file:
        for layer in file["layers"].values():
            layer["vars"].attrs.pop("name")
    parts["model.weights.h5"] = (tmp_path / "w.h5").read_bytes()
    with zipfile.ZipFile(tmp_path / "old.keras", "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    found = Network.load(tmp_path / "old.keras").fingerprint
    assert found == Network.load(tmp_path / "w.keras").fingerprint
