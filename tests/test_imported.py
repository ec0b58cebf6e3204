"""σ of the user's own, imported by name: what is taken, what is refused, and stores of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import distributed
import numpy as np
import pytest

import colonnade as cn
from colonnade.network.activations import activation
from colonnade.verification.deepreference import make_reference
from colonnade.verification.reference import excess
from support import make_columns, make_network, refusal, save_network

SOURCE = '''
"""Nonlinearities."""
import numpy as np


class Elementwise:
    def __init__(self, rate, wrong=1.0):
        self.rate, self.wrong = rate, wrong

    def value(self, z):
        return np.tanh(self.rate * z)

    def slope(self, z):
        return z.dtype.type(self.rate * self.wrong) / np.cosh(z.dtype.type(self.rate) * z) ** 2


class Kink:
    value = staticmethod(lambda z: np.maximum(z, z.dtype.type(0)) if z.dtype.kind == "f" else 1 / 0)
    slope = staticmethod(lambda z: (z > 0).astype(z.dtype))


class Softmax:
    """A comment that may change."""

    def __init__(self, turned=False):
        self.turned = turned

    def value(self, z):
        e = np.exp(z - z.max(axis=0))
        return e / e.sum(axis=0)

    def slope(self, z):
        s = self.value(z)
        A, B = -s[None], s[None]
        if self.turned:
            A = A * np.arange(1, len(z) + 1, dtype=z.dtype)[:, None]
        return s, A, B


class LogSoftmax:
    def value(self, z):
        e = z - z.max(axis=0)
        return e - np.log(np.exp(e).sum(axis=0))

    def slope(self, z):
        s = np.exp(self.value(z))
        return np.ones_like(z), s[None], -np.ones_like(z)[None]


class Batch:
    def value(self, z):
        return z - z.mean(axis=1, keepdims=True) if z.ndim == 2 else z

    def slope(self, z):
        return np.ones_like(z)


class Mixing:
    def value(self, z):
        return z / (1 + np.abs(z).sum(axis=0))

    def slope(self, z):
        return 1 / (1 + np.abs(z))


class Wide:
    def value(self, z):
        return np.tanh(z.astype(np.float64))

    def slope(self, z):
        return 1 - np.tanh(z) ** 2


good, wrong = Elementwise(0.5), Elementwise(0.5, 1.001)
kink, softmax, turned, transposed = Kink(), Softmax(), Softmax(True), LogSoftmax()
batch, mixing, wide, number = Batch(), Mixing(), Wide(), 3
numpy_function = np.tanh


def by_jax(z):
    import jax.numpy as jnp
    return jnp.tanh(0.5 * z)


def batch_by_jax(z):
    return z - z.mean()
'''


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module of a name that no other test has imported."""
    name = f"sigmas_{tmp_path.name}".replace("-", "_")
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / f"{name}.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{Path(cn.__file__).parents[1]}")
    yield name
    sys.modules.pop(name, None)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["good", "by_jax"])
def test_an_object_and_a_function(module: str, name: str, dtype: Any) -> None:
    network = make_network(activation=f"{module}:{name}", dtype=dtype)
    X = make_columns(dtype=dtype)
    W, b, U = network.W1.astype(float), network.b1[:, None], network.W2.astype(float)
    S = 0.5 / np.cosh(0.5 * (W @ X + b)) ** 2
    expected = np.einsum("ih,hk,hj->kij", U, S, W)
    T = cn.jacobian(network, X)
    assert T.dtype == dtype
    rtol = 1e-5 if dtype == np.float32 else 1e-12
    np.testing.assert_allclose(T, expected, rtol=rtol, atol=rtol)
    np.testing.assert_allclose(cn.slopes(network, X), S, rtol=rtol, atol=rtol)
    reference = make_reference(network, X.dtype, dtype)
    assert all(excess(T[k], reference.column(X[:, k])["jacobian"]).max() <= 1 for k in range(9))


def test_a_columnwise_object(module: str) -> None:
    X = make_columns(dtype=np.float64)
    mine = make_network(activation=f"{module}:softmax", dtype=np.float64)
    ours = make_network(activation="softmax", dtype=np.float64)
    np.testing.assert_allclose(cn.jacobian(mine, X), cn.jacobian(ours, X), rtol=1e-10, atol=1e-14)
    reference = make_reference(mine, X.dtype, "float64")
    T = cn.jacobian(mine, X)
    assert all(excess(T[k], reference.column(X[:, k])["jacobian"]).max() <= 1 for k in range(9))


def test_kinks_are_taken_from_either_side(module: str) -> None:
    network = make_network(activation=f"{module}:kink")
    X = make_columns()
    np.testing.assert_array_equal(
        cn.jacobian(network, X), cn.jacobian(make_network(activation="relu"), X)
    )


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("wrong", "value and slope disagree at"),
        ("turned", "value and slope disagree at"),
        ("transposed", "value and slope disagree at"),
        ("batch", "mixes columns"),
        ("batch_by_jax", "mixes columns"),
        ("mixing", "mixes the entries of a column"),
        ("wide", "it must keep the shape and the type"),
        ("number", "is of type int"),
        ("numpy_function", "Write a plain function in jax.numpy"),
        ("Elementwise", "is a class; name an instance"),
        ("nothing", "has no attribute 'nothing'"),
    ],
)
def test_refused(module: str, name: str, told: str) -> None:
    assert told in refusal(lambda: make_network(activation=f"{module}:{name}"))


def test_what_cannot_be_imported_names_the_module_and_the_host() -> None:
    told = refusal(lambda: make_network(activation="no_such_package.sigmas:f"))
    assert "no_such_package.sigmas:f cannot be imported on" in told
    assert "PYTHONPATH" in told


@pytest.mark.parametrize(
    "name", ["./sigma.py:f", "a/b:c", "a.b:", ":c", "a..b:c", "a b:c", "a.b", "os"]
)
def test_nothing_else_is_imported(name: str) -> None:
    assert "no activation" in refusal(lambda: activation(name))


def test_naming_one_imports_nothing(module: str) -> None:
    assert activation(f"{module}:good").name == f"{module}:good"
    assert module not in sys.modules


def test_the_fingerprint_is_of_what_it_does(module: str, tmp_path: Path) -> None:
    def fingerprint(source: str) -> list[str]:
        folder = tmp_path / "again"
        folder.mkdir(exist_ok=True)
        (folder / f"{module}.py").write_text(source)
        code = (
            "from support import make_network as make\n"
            f"for n in ('softmax', 'good'): print(make(activation=f'{module}:{{n}}').fingerprint)"
        )
        places = (folder, Path(cn.__file__).parents[1], Path(__file__).parent)
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True,
            env={**os.environ, "PYTHONPATH": ":".join(map(str, places))},
        )  # fmt: skip
        return done.stdout.split()

    told = fingerprint(SOURCE)
    assert fingerprint(SOURCE.replace("A comment that may change", "Changed")) == told
    changed = fingerprint(SOURCE.replace("Elementwise(0.5), E", "Elementwise(0.50001), E"))
    assert changed[0] == told[0]
    assert changed[1] != told[1]


def make_job(folder: Path, name: str) -> dict[str, Any]:
    save_network(folder / "w.npz", make_network())
    np.save(folder / "X.npy", make_columns())
    return {
        "network": {"weights": str(folder / "w.npz"), "activation": name},
        "input": {"path": str(folder / "X.npy")},
        "output": {"path": str(folder / "out.zarr"), "layout": "factored"},
        "cluster": {"workers": 1},
    }


def test_a_store_of_it(module: str, tmp_path: Path) -> None:
    job = make_job(tmp_path, f"{module}:good")
    assert cn.run(job).state == "complete"
    store = job["output"]["path"]
    T = cn.jacobian(make_network(activation=f"{module}:good"), make_columns())
    found = cn.verify(store, imports=True)
    assert found.sound
    assert found.sampled == 64
    # A store may be another's: to look at it runs nothing
    sys.modules.pop(module)
    np.testing.assert_allclose(cn.open(store).jacobian, T, rtol=1e-5, atol=1e-7)
    found = cn.verify(store)
    assert module not in sys.modules
    assert found.sampled == 0
    assert "is code" in str(found.refused)
    dense = tmp_path / "dense.zarr"
    # To trust a store's job runs none of its code, either
    told = refusal(lambda: cn.materialize(store, dense, trust=True))
    assert f"the activation {module}:good is code" in told
    assert "--import" in told
    assert (module in sys.modules, dense.exists()) == (False, False)
    assert cn.verify(store, trust=True).sampled == 0
    assert module not in sys.modules
    made = cn.materialize(store, dense, ["cluster.workers=1"], imports=True)
    np.testing.assert_allclose(cn.open(made.store).jacobian, T, rtol=1e-5, atol=1e-7)


def test_a_worker_that_has_it_not_says_so(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where workers are started with another environment than the client's."""
    job = make_job(tmp_path, f"{module}:good")
    monkeypatch.setenv("PYTHONPATH", str(Path(cn.__file__).parents[1]))
    folders = [folder for folder in sys.path if "modules" in folder]
    for folder in folders:
        sys.path.remove(folder)
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0", memory_limit=0
    ) as cluster:
        sys.path[:0] = folders
        told = refusal(
            lambda: cn.run(
                job | {"cluster": {"kind": "address", "address": cluster.scheduler_address}}
            )
        )
    assert f"{module}:good cannot be imported on" in told
