"""Networks of any depth: the order of the products, the kernel, its memory, stores of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import colonnade as cn
from colonnade.compute.jacobian import jacobian_by_definition
from colonnade.compute.kernel import Kernel
from colonnade.compute.kernel import kernel as kernel_module
from colonnade.compute.kernel.order import MatrixProduct, cheapest
from colonnade.errors import NetworkError, UsageError
from support import make_chain, make_columns, make_network, refusal

IN_JAX = {
    "tanh": jnp.tanh,
    "gelu": lambda z: jax.nn.gelu(z, approximate=False),
    "softmax": jax.nn.softmax,
    "log_softmax": jax.nn.log_softmax,
    "layer_norm": lambda z: (z - z.mean()) / jnp.sqrt(z.var() + 1e-5),
    "l2_normalize": lambda z: z / jnp.linalg.norm(z),
}
SHAPES = [
    (5, 3), (5, 7, 3), (5, 7, 11, 3), (2, 13, 11, 17, 19), (19, 3, 17, 5, 23),
    (3, 17, 2, 17, 4), (31, 23, 2, 19, 29), (7, 7, 7, 7, 7, 7), (1, 1, 1, 1),
]  # fmt: skip


def by_jax(network: cn.Network, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Y and T."""

    def f(x: Any) -> Any:
        for i, (W, b) in enumerate(network.layers):
            x = jnp.asarray(W) @ x + b
            if i < len(network.activations):
                x = IN_JAX[network.activations[i].name](x)
        return x

    with jax.enable_x64(True):
        columns = jnp.asarray(X.T, jnp.float64)
        return np.asarray(jax.vmap(f)(columns)).T, np.asarray(jax.vmap(jax.jacrev(f))(columns))


KINDS = [["tanh"], ["softmax"], ["layer_norm", "gelu"], ["l2_normalize", "tanh", "log_softmax"]]


@pytest.mark.parametrize(
    ("sizes", "kinds"), [(s, KINDS[i % 4]) for i, s in enumerate(SHAPES)], ids=str
)
def test_agrees_with_autodiff(sizes: tuple[int, ...], kinds: list[str]) -> None:
    names = [kinds[i % len(kinds)] for i in range(len(sizes) - 2)]
    network, X = make_chain(sizes, names, np.float64), make_columns(sizes[0], 29, np.float64)
    Y, T = by_jax(network, X)
    scale = max(1.0, np.abs(T).max())
    np.testing.assert_allclose(cn.forward(network, X), Y, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(cn.jacobian(network, X), T, rtol=1e-9, atol=1e-12 * scale)
    single = cn.jacobian(network, X, np.float32)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, T, rtol=1e-4, atol=1e-5 * scale)


def orders(first: int, last: int, sizes: tuple[int, ...]) -> list[MatrixProduct]:
    if first == last:
        return [MatrixProduct(first, last, sizes)]
    return [
        MatrixProduct(first, last, sizes, left, right)
        for middle in range(first, last)
        for left in orders(middle + 1, last, sizes)
        for right in orders(first, middle, sizes)
    ]


@pytest.mark.parametrize("kinds", ["tanh", ["softmax", "gelu", "layer_norm", "tanh"]], ids=str)
@pytest.mark.parametrize("width", [1, 3, 100])
def test_every_order_gives_the_same(
    monkeypatch: pytest.MonkeyPatch, kinds: Any, width: int
) -> None:
    sizes = (3, 11, 2, 7, 13, 5)
    network, X = make_chain(sizes, kinds, np.float64), make_columns(3, 17, np.float64)
    T = cn.jacobian(network, X)
    every = orders(1, 5, sizes)
    assert len({str(order) for order in every}) == len(every) == 14
    monkeypatch.setattr(kernel_module, "_width", lambda *_: width)
    for order in every:
        monkeypatch.setattr(kernel_module, "cheapest", lambda _, order=order: order)
        kernel = Kernel(network, X.dtype, X.dtype, 17)
        np.testing.assert_allclose(kernel.blocks(kernel.slopes(X)), T, rtol=1e-11, atol=1e-13)


sizes = st.sampled_from([1, 2, 3, 5, 7, 11, 13])


@given(n=sizes, m=sizes, q=sizes, p=sizes, seed=st.integers(0, 2**32))
def test_one_hidden_layer_is_a_chain(n: int, m: int, q: int, p: int, seed: int) -> None:
    """The one formula, and what it becomes between layers that change nothing."""
    network = make_network(n, m, q, "tanh", np.float64, seed)
    X = make_columns(n, p, np.float64, seed + 1)
    T = jacobian_by_definition(network, X)
    same = cn.Network.chain(network.layers, ["tanh"])
    assert same.fingerprint == network.fingerprint
    np.testing.assert_array_equal(cn.jacobian(same, X), cn.jacobian(network, X))
    ends = [(np.eye(n), None), *network.layers, (np.eye(q), None)]
    longer = cn.Network.chain(ends, ["identity", "tanh", "identity"])
    np.testing.assert_allclose(cn.jacobian(longer, X), T, rtol=1e-10, atol=1e-11)
    np.testing.assert_allclose(cn.forward(longer, X), cn.forward(network, X), rtol=1e-10)


def flops(order: MatrixProduct) -> int:
    """Counted anew: 2rmc for each product of r × m by m × c."""
    if order.is_layer:
        return 0
    left, right = order.parts
    (r, m), (_, c) = left.shape, right.shape
    return flops(left) + flops(right) + 2 * r * m * c


@pytest.mark.parametrize("sizes", SHAPES, ids=str)
def test_the_order_is_nearly_the_cheapest(sizes: tuple[int, ...]) -> None:
    """Fewest flops, unless what comes on top of them is more: scaling, and small products."""
    chosen = cheapest(sizes)
    assert chosen.flops == flops(chosen)
    least = min(flops(order) for order in orders(1, len(sizes) - 1, sizes))
    assert chosen.flops <= 2 * least or max(sizes) < 20


@pytest.mark.parametrize(
    ("sizes", "order"),
    [
        ((128, 256, 64), "W2 D1 W1"),
        ((128, 512, 512, 512, 64), "((W4 D3 W3) D2 W2) D1 W1"),
        ((20, 512, 512, 1000), "W3 D2 (W2 D1 W1)"),
        ((784, 512, 8, 512, 784), "(W4 D3 W3) D2 (W2 D1 W1)"),
        ((7, 3), "W1"),
    ],
)
def test_order(sizes: tuple[int, ...], order: str) -> None:
    assert str(cheapest(sizes)) == order


def test_nan_stays_in_its_column() -> None:
    for sizes in ((5, 3), (5, 7, 11, 3)):
        network, X = make_chain(sizes, ["softmax"] * (len(sizes) - 2)), make_columns(5, 13)
        X[2, 5] = np.nan
        T = cn.jacobian(network, X)
        assert np.isnan(T[5]).all()
        assert np.isfinite(np.delete(T, 5, axis=0)).all()


def test_slopes_are_those_of_one_hidden_layer() -> None:
    X = make_columns()
    for network in (make_chain((5, 7, 11, 3)), make_network(activation="softmax")):
        assert "one hidden layer with an elementwise σ" in refusal(
            lambda n=network: cn.slopes(n, X)
        )
    with pytest.raises(NetworkError, match="2 hidden layers"):
        _ = make_chain((5, 7, 11, 3)).W1


@pytest.mark.parametrize(
    ("activations", "told"),
    [
        (["tanh"], "1 activations are given, but the weights have 3 layers, which take 2"),
        ([], "0 act"),
    ],
)
def test_activations_must_be_as_many(activations: Any, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        make_chain((5, 7, 11, 3), activations)


def test_a_single_layer_takes_no_activation() -> None:
    with pytest.raises(UsageError, match="give an empty list of activations"):
        make_chain((5, 3), "tanh")


def save(path: Path, network: cn.Network, *, named: bool = True) -> None:
    arrays = network.arrays
    names = {
        name: name if named else f"x{len(name)}.{hash(name) % 97}{name[::-1]}" for name in arrays
    }
    np.savez(path, **{names[name]: array for name, array in arrays.items()})


@pytest.mark.parametrize("named", [True, False])
def test_loaded_by_name_and_by_shape(tmp_path: Path, named: bool) -> None:
    network = make_chain((5, 7, 11, 3), ["tanh", {"name": "elu", "alpha": 2}])
    save(tmp_path / "w.npz", network, named=named)
    found = cn.Network.load(tmp_path / "w.npz", ["tanh", {"name": "elu", "alpha": 2}])
    assert found.fingerprint == network.fingerprint
    assert found.sizes == (5, 7, 11, 3)
    other = cn.Network.load(tmp_path / "w.npz", "tanh")
    assert other.fingerprint != network.fingerprint


def make_job(folder: Path, network: cn.Network, p: int, **output: Any) -> dict[str, Any]:
    save(folder / "w.npz", network)
    np.save(folder / "X.npy", make_columns(network.n, p, network.dtype))
    return {
        "network": {
            "weights": str(folder / "w.npz"),
            "activation": [{"name": s.name, **s.parameters} for s in network.activations],
        },
        "input": {"path": str(folder / "X.npy")},
        "output": {"path": str(folder / "out.zarr"), **output},
        "cluster": {"workers": 1, "memory_per_worker": "1 GiB"},
    }


PRODUCTS = ["jacobian", "value", "norm", "spectral_norm", "mean", "mean_abs", "max_abs", "gram"]


@pytest.mark.parametrize(
    ("sizes", "kinds"),
    [((5, 7, 11, 3), ["softmax", "gelu"]), ((5, 7, 3), "layer_norm"), ((5, 3), [])],
    ids=str,
)
def test_every_product_from_the_blocks(tmp_path: Path, sizes: Any, kinds: Any) -> None:
    network = make_chain(sizes, kinds, np.float64)
    job = make_job(tmp_path, network, 101, products=PRODUCTS, dtype="float64", block_size="3 KiB")
    assert cn.run(job).state == "complete"
    X = np.load(tmp_path / "X.npy")
    T = cn.jacobian(network, X)
    expected = {
        "jacobian": T, "value": cn.forward(network, X).T, "mean": T.mean(axis=0),
        "norm": np.linalg.norm(T, axis=(1, 2)), "spectral_norm": np.linalg.norm(T, 2, axis=(1, 2)),
        "mean_abs": np.abs(T).mean(axis=0), "max_abs": np.abs(T).max(axis=0),
        "gram": np.einsum("kij,kil->jl", T, T) / len(T),
    }  # fmt: skip
    ds = cn.open(job["output"]["path"])
    for name, values in expected.items():
        np.testing.assert_allclose(ds[name], values, rtol=1e-9, atol=1e-12, err_msg=name)
    for name, values in network.arrays.items():
        np.testing.assert_array_equal(ds[name], values)
    factors = " ".join(f"W{i + 1} D{i}[k]" for i in reversed(range(1, len(network.layers))))
    assert ds.attrs["formula"].startswith(f"jacobian[k] = {factors} W1, ".replace("=  ", "= "))
    assert "factored" in refusal(
        lambda: cn.plan(job, ["output.layout=factored", f"output.path={tmp_path / 'f.zarr'}"])
    )
    found = cn.verify(job["output"]["path"])
    assert found.sound, found.failures
    assert found.sampled == 64


def test_another_activation_is_another_job(tmp_path: Path) -> None:
    job = make_job(tmp_path, make_chain((5, 7, 11, 3), ["tanh", "gelu"]), 11)
    cn.run(job)
    assert "its activation" in refusal(lambda: cn.run(job, ["network.activation=[gelu, tanh]"]))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_memory_is_predicted_within_a_fifth(tmp_path: Path, dtype: str) -> None:
    network = make_chain((61, 509, 311, 401, 67), ["tanh", "softmax", "tanh"])
    job = make_job(tmp_path, network, 2003, dtype=dtype, block_size="29 MiB")
    planned = cn.plan(job)
    taken = cn.run(job).peak_memory
    assert 0.8 * taken <= planned.memory_needed <= 1.2 * taken, planned.memory


def test_the_plan_tells_the_order_and_its_flops(tmp_path: Path) -> None:
    planned = cn.plan(make_job(tmp_path, make_chain((5, 7, 11, 3)), 101))
    assert planned.as_dict()["work"] == {
        "order": "(W3 D2 W2) D1 W1", "flops": 672, "forward_flops": 224,
    }  # fmt: skip
    assert "work      (W3 D2 W2) D1 W1: 0.000672 Mflop a column" in str(planned)
