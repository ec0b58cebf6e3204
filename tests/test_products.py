"""Each product, by either way, is what its definition makes of the tensor's blocks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import colonnade as cn
from colonnade.compute.products import PRODUCTS, make_arrays, needs_blocks
from colonnade.grid import Grid, Shapes
from support import make_columns, make_network, results

sizes = st.sampled_from([1, 2, 3, 5, 7, 13, 17])
STATISTICS = ("mean", "mean_abs", "max_abs", "gram")
ARRAYS = ("norm", "spectral_norm", "spectral_norm_max", *STATISTICS)
NAMES = ("norm", "spectral_norm", *STATISTICS)


def defined(T: np.ndarray) -> dict[str, np.ndarray]:
    T = T.astype(np.float64)
    singular = np.linalg.svd(T, compute_uv=False)[:, 0]
    return {
        "norm": np.sqrt((T**2).sum(axis=(1, 2))),
        "spectral_norm": singular,
        "spectral_norm_max": singular.max(),
        "mean": T.mean(axis=0),
        "mean_abs": np.abs(T).mean(axis=0),
        "max_abs": np.abs(T).max(axis=0),
        "gram": np.mean([J.T @ J for J in T], axis=0),
    }


@given(
    n=sizes, m=sizes, q=sizes, p=st.sampled_from([1, 2, 11, 523]),
    dtype=st.sampled_from(["float32", "float64"]), by=st.sampled_from(["slopes", "blocks"]),
    name=st.sampled_from(["tanh", "relu", "gelu"]), seed=st.integers(0, 2**32),
)  # fmt: skip
def test_each_equals_its_definition(n, m, q, p, dtype, by, name, seed) -> None:
    network, X = make_network(n, m, q, name, dtype, seed), make_columns(n, p, dtype, seed + 1)
    found = results(network, X, dtype, NAMES, by)
    # Of one more digit than float32 has, so that what is compared is the product alone
    exact = defined(cn.jacobian(make_network(n, m, q, name, dtype, seed), X, np.float64))
    scale = np.abs(network.W2).sum() * np.abs(network.W1).sum() * 2
    eps = (m + n + 8) * np.finfo(dtype).eps
    for array in ARRAYS:
        assert found[array].dtype == dtype
        size = scale**2 if array == "gram" else scale
        np.testing.assert_allclose(
            found[array], exact[array], rtol=8 * eps, atol=8 * eps * size, err_msg=array
        )


@pytest.mark.parametrize("by", ["slopes", "blocks"])
def test_nan_is_its_columns_and_every_statistics(by: str) -> None:
    network, X = make_network(), make_columns(p=11)
    right = results(network, X, "float32", NAMES, by)
    X[2, 5] = np.nan
    found = results(network, X, "float32", NAMES, by)
    others = np.arange(11) != 5
    for name in ("norm", "spectral_norm"):
        assert np.isnan(found[name][5])
        np.testing.assert_array_equal(found[name][others], right[name][others])
    for name in (*STATISTICS, "spectral_norm_max"):
        assert np.isnan(found[name]).all()


@pytest.mark.parametrize("slope", [1e-25, 1e25])
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")  # of their mean to float32
def test_squares_of_slopes_that_leave_the_range_of_float32(slope: float) -> None:
    sigma = {"name": "leaky_relu", "negative_slope": slope}
    W, U = np.full((7, 5), 0.5, np.float32), np.full((3, 7), 2, np.float32)
    network, X = cn.Network(W, None, U, None, sigma), -np.ones((5, 11), np.float32)
    found = results(network, X, "float32", ["gram"], "slopes")["gram_blocks"]
    T = cn.jacobian(network, X, np.float64)
    np.testing.assert_allclose(found[0], np.einsum("kij,kil->jl", T, T), rtol=1e-6)


@pytest.mark.parametrize("by", ["slopes", "blocks"])
def test_what_vanishes_and_what_is_out_of_scale(by: str) -> None:
    """Two hidden units that cancel; squares that leave the range of float64."""
    W, U = np.ones((2, 3)), np.array([[1.0, -1.0]])
    network = cn.Network(W, None, U, None, "tanh")
    found = results(network, make_columns(3, 17, np.float64), "float64", NAMES, by)
    assert np.all(found["norm"] == 0)
    for name in ARRAYS:
        np.testing.assert_allclose(found[name], 0, atol=1e-14)
    for scale in (1e-170, 1e170):
        network = cn.Network(scale * np.eye(3), None, np.eye(3), None, "identity")
        found = results(network, make_columns(3, 2, np.float64), "float64", ["spectral_norm"], by)
        np.testing.assert_allclose(found["spectral_norm"], scale)


def test_norms_in_many_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    network, X = make_network(), make_columns()
    whole = {by: results(network, X, "float32", NAMES, by) for by in ("slopes", "blocks")}
    monkeypatch.setattr("colonnade.compute.products.base._SLICE_BYTES", 3 * 8 * 7)
    for by, expected in whole.items():
        found = results(network, X, "float32", NAMES, by)
        for name in ARRAYS:
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("names", "layout", "elementwise", "forms"),
    [
        (["jacobian"], "dense", True, True),
        (["jacobian"], "factored", True, False),
        (["value", "norm", "spectral_norm", "mean", "gram"], "dense", True, False),
        (["jacobian", "gram"], "factored", True, False),
        (["max_abs"], "factored", True, True),
        (["value"], "dense", False, False),
        (["norm"], "dense", False, True),
    ],
)
def test_blocks_are_formed_where_they_must_be(names, layout, elementwise, forms) -> None:
    assert needs_blocks(names, layout, elementwise=elementwise) == forms


@pytest.mark.parametrize("layout", ["dense", "factored"])
def test_the_main_array_is_written_last(layout: str) -> None:
    names = list(PRODUCTS)
    plans = make_arrays(Shapes(101, 5, 7, 3), names, "float32", Grid(101, 13, 13), layout)
    main = "jacobian" if layout == "dense" else "slope"
    assert [plan.name for plan in plans if plan.per_block][-1] == main
    while len(names) > 1:
        del names[0]
        plans = make_arrays(Shapes(101, 5, 7, 3), names, "float32", Grid(101, 13, 13), layout)
        assert plans[-1].per_block
        assert plans[-1].name.removesuffix("_blocks") == names[0]
