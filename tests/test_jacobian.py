"""Section by section of the mathematics: the fast kernel, the definition, differences, autodiff."""

from __future__ import annotations

import dask.array as da
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import colonnade as cn
from colonnade.compute.jacobian import jacobian_by_definition as by_definition
from colonnade.compute.kernel import Kernel, diagonal
from colonnade.errors import InputError
from support import M, N, P, Q, make_columns, make_network, refusal

sizes = st.sampled_from([1, 2, 3, 5, 7, 11, 13, 17])
dtypes = st.sampled_from([np.float32, np.float64])
smooth = st.sampled_from(["tanh", "gelu", "silu", "softplus", "sigmoid", "mish", "sin", "gaussian"])


def bound(network: cn.Network, dtype: type) -> np.ndarray:
    """|T - its definition| ≤ this: the rounding of a sum of m products, entry by entry (q, n)."""
    terms = np.abs(network.W2).astype(float) @ np.abs(network.W1).astype(float)
    slope_limit = 1.6  # of every σ′ here
    z_error = 8 * (network.n + 1)  # roundings that z gathers, through a σ″ of at most about 1
    return slope_limit * terms * (network.m + z_error + 8) * np.finfo(dtype).eps


@given(n=sizes, m=sizes, q=sizes, p=sizes, dtype=dtypes, name=smooth, seed=st.integers(0, 2**32))
def test_kernel_equals_the_definition(n, m, q, p, dtype, name, seed) -> None:
    network = make_network(n, m, q, name, dtype, seed)
    X = make_columns(n, p, dtype, seed + 1)
    T = cn.jacobian(network, X)
    assert T.shape == (p, q, n)
    assert T.dtype == dtype
    assert np.all(np.abs(T - by_definition(network, X)) <= bound(network, dtype))


@given(
    n=sizes, m=sizes, q=sizes, p=sizes, dtype=dtypes, size=st.integers(1, 4000),
    method=st.sampled_from(["product", "scale U", "scale W"]),
)  # fmt: skip
def test_every_method_equals_the_definition(n, m, q, p, dtype, size, method) -> None:
    network, X = make_network(n, m, q, "tanh", dtype), make_columns(n, p, dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diagonal, "choose_method", lambda *_: method)
        patch.setattr(diagonal, "_SLICE_BYTES", size)
        T = cn.jacobian(network, X)
    assert np.all(np.abs(T - by_definition(network, X)) <= bound(network, dtype))


@pytest.mark.parametrize(
    ("n", "m", "q", "columns", "method"),
    [
        (128, 256, 64, 512, "product"),
        (64, 64, 10, 1024, "product"),
        (20, 128, 1, 1024, "product"),
        (256, 512, 128, 64, "scale U"),  # so few columns would read all of K each time
        (556, 512, 368, 10, "scale U"),  # K has 419 MB
        (64, 2048, 1000, 32, "scale W"),  # and here 524, but U is what takes long to scale
    ],
)
def test_method_is_chosen_by_shape(n, m, q, columns, method) -> None:
    assert diagonal.choose_method(q, m, n, 4, columns) == method


@given(n=sizes, m=sizes, q=sizes, p=sizes, name=smooth, seed=st.integers(0, 2**32))
def test_definition_equals_central_differences_of_Y(n, m, q, p, name, seed) -> None:  # noqa: N802
    network = make_network(n, m, q, name, np.float64, seed)
    X = make_columns(n, p, np.float64, seed + 1)
    h = 1e-5
    differences = np.empty((p, q, n))
    for j in range(n):
        step = h * np.eye(n)[:, [j]]
        differences[:, :, j] = (cn.forward(network, X + step) - cn.forward(network, X - step)).T
    differences /= 2 * h
    # h² σ‴/6 and ε|Y|/h are both near 1e-10
    for T in (by_definition(network, X), cn.jacobian(network, X)):
        np.testing.assert_allclose(T, differences, rtol=1e-7, atol=1e-8 * max(m, n))


def test_agrees_with_autodiff() -> None:
    network, X = make_network(dtype=np.float64), make_columns(dtype=np.float64)
    with jax.enable_x64(True):
        W, b, U, c = (jnp.asarray(network.arrays[name]) for name in ("W1", "b1", "W2", "b2"))
        blocks = jax.vmap(jax.jacrev(lambda x: U @ jnp.tanh(W @ x + b) + c))(jnp.asarray(X.T))
    np.testing.assert_allclose(cn.jacobian(network, X), np.asarray(blocks), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("n", "m", "q"), [(5, 7, 3), (5, 7, 7)], ids=["q<m", "q=m"])
def test_the_accepted_answer_is_not_the_derivative(n: int, m: int, q: int) -> None:
    """dY = (US′) ⊙ (W dX) has factors of q and m rows; where q = m its values still differ."""
    network = make_network(n, m, q, "tanh", np.float64)
    X = make_columns(n, 11, np.float64)
    dX = make_columns(n, 11, np.float64, seed=2)
    h = 1e-6
    dY = (cn.forward(network, X + h * dX) - cn.forward(network, X - h * dX)) / (2 * h)

    J = cn.jacobian(network, X)
    np.testing.assert_allclose(np.einsum("kij,jk->ik", J, dX), dY, rtol=1e-6, atol=1e-8)

    left, right = network.W2 @ cn.slopes(network, X), network.W1 @ dX
    if q != m:
        with pytest.raises(ValueError, match="broadcast"):
            left * right
    else:
        assert np.linalg.norm(left * right - dY) > 0.1 * np.linalg.norm(dY)


def test_blocks_are_the_diagonal_of_the_whole_derivative() -> None:
    """∂vec(Y)/∂vec(X) = (I_p ⊗ U) Diag(vec S′) (I_p ⊗ W), with vec stacking columns."""
    network, X = make_network(dtype=np.float64), make_columns(p=3, dtype=np.float64)
    eye = np.eye(3)
    slopes = np.diag(cn.slopes(network, X).ravel(order="F"))
    whole = np.kron(eye, network.W2) @ slopes @ np.kron(eye, network.W1)
    expected = np.zeros_like(whole)
    for k, J in enumerate(cn.jacobian(network, X)):
        expected[k * Q : (k + 1) * Q, k * N : (k + 1) * N] = J
    np.testing.assert_allclose(whole, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("chunks", [(N, P), (N, 13), (2, 13), (1, 1)])
def test_dask_arrays(network: cn.Network, X: np.ndarray, chunks: tuple[int, int]) -> None:
    lazy = da.from_array(X, chunks=chunks)
    T = cn.jacobian(network, lazy)
    assert isinstance(T, da.Array)
    assert T.chunks == (lazy.chunks[1], (Q,), (N,))
    assert T.dtype == np.float32
    np.testing.assert_allclose(
        T.compute(scheduler="sync"), cn.jacobian(network, X), rtol=1e-5, atol=1e-6
    )
    for function, rows in ((cn.forward, Q), (cn.slopes, M)):
        result = function(network, lazy)
        assert result.chunks == ((rows,), lazy.chunks[1])
        np.testing.assert_allclose(
            result.compute(scheduler="sync"), function(network, X), rtol=1e-5, atol=1e-6
        )


def test_dask_arrays_are_computed_only_where_asked(network: cn.Network, X: np.ndarray) -> None:
    def read(block: np.ndarray, block_info: dict | None = None) -> np.ndarray:
        if block_info and block_info[0]["chunk-location"][1] == 3:
            raise OSError("this chunk is not to be read")
        return block

    lazy = da.from_array(X, chunks=(N, 13)).map_blocks(read, dtype=X.dtype, meta=X[:0, :0])
    first = cn.jacobian(network, lazy)[:13].compute(scheduler="sync")
    np.testing.assert_allclose(first, cn.jacobian(network, X[:, :13]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("weights", "x", "result"),
    [
        (np.float32, np.float32, np.float32),
        (np.float32, np.float16, np.float32),
        (np.float32, np.uint8, np.float32),
        (np.float32, np.int32, np.float64),
        (np.float32, np.float64, np.float64),
        (np.float64, np.float32, np.float64),
        (np.float64, np.int64, np.float64),
    ],
)
def test_dtype_of_results(weights: type, x: type, result: type) -> None:
    network = make_network(dtype=weights)
    X = np.ones((N, 2), x)
    for T in (cn.jacobian(network, X), cn.forward(network, X), cn.slopes(network, X)):
        assert T.dtype == result


def test_float32_results_of_float64_input_do_not_cancel() -> None:
    """Large inputs that are nearly alike: z is formed in float64, and rounded only behind σ′."""
    network = cn.Network([[1.0]], [-101325.0], [[1.0]], None, "tanh")
    X = np.array([[101325.001, 101325.5]])
    exact = 1 / np.cosh([0.001, 0.5]) ** 2
    T = cn.jacobian(network, X, dtype=np.float32)
    assert T.dtype == np.float32
    np.testing.assert_allclose(T[:, 0, 0], exact, rtol=1e-7)


def test_integers_are_exact_to_the_53rd_bit() -> None:
    network = cn.Network([[1.0]], [-(2.0**53)], [[1.0]], None, "tanh")
    X = np.array([[2**53 - 1, 2**53]], np.int64)
    np.testing.assert_allclose(cn.jacobian(network, X)[:, 0, 0], 1 / np.cosh([-1.0, 0]) ** 2)


def test_nan_stays_in_its_column(network: cn.Network, X: np.ndarray) -> None:
    X[2, 5] = np.nan
    T = cn.jacobian(network, X)
    assert np.isnan(T[5]).all()
    assert np.isfinite(np.delete(T, 5, axis=0)).all()


def test_out_is_written_in_place(network: cn.Network, X: np.ndarray) -> None:
    kernel = Kernel(network, X.dtype, np.float32, P)
    out = np.full((P, Q, N), np.nan, np.float32)
    assert kernel.blocks(cn.slopes(network, X), out) is out
    np.testing.assert_array_equal(out, cn.jacobian(network, X))


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (np.ones((N + 2, 4)), r"\(5, p\).*\(7, 4\)"),
        (np.ones(N), r"\(5,\)"),
        (np.ones((N, 4), complex), "complex128"),
        (np.full((N, 4), "a"), "real numbers"),
    ],
)
def test_wrong_columns_are_refused(network: cn.Network, bad: np.ndarray, told: str) -> None:
    for X in (bad, da.from_array(bad)):
        for function in (cn.jacobian, cn.forward, cn.slopes):
            with pytest.raises(InputError, match=told):
                function(network, X)


def test_wrong_dtype_is_refused(network: cn.Network, X: np.ndarray) -> None:
    with pytest.raises(InputError, match="float16"):
        cn.jacobian(network, X, dtype=np.float16)


def test_what_is_no_network_or_no_array_is_refused(network: cn.Network, X: np.ndarray) -> None:
    assert "not a str: load its file" in refusal(lambda: cn.jacobian("network.npz", X))
    assert "not a list" in refusal(lambda: cn.forward(network, X.tolist()))
