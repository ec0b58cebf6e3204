"""The derivative as one operator, against the matrix of the mathematics formed in full."""

from __future__ import annotations

import shutil
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
import scipy.sparse.linalg as sla
import sparse
import xarray as xr
from scipy.linalg import block_diag

import colonnade as cn
from colonnade.compute.jacobian import slopes
from colonnade.errors import StoreError, TooLargeError, UsageError
from colonnade.reading import Backend, operators
from support import M, N, P, Q, make_columns, make_network, save_network

LAYOUTS = ["dense", "factored"]


@pytest.fixture(scope="module", params=LAYOUTS)
def store(request, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    save_network(folder / "network.npz", make_network(dtype=np.float64))
    np.save(folder / "X.npy", make_columns(dtype=np.float64))
    finished = cn.run(
        {
            "network": {"weights": str(folder / "network.npz"), "activation": "tanh"},
            "input": {"path": str(folder / "X.npy")},
            "output": {
                "path": str(folder / "out.zarr"), "dtype": "float64", "layout": request.param,
                "block_size": 13 * Q * N * 8, "products": ["jacobian", "norm"],
                "scale": {"output_std": [0.5, 2, 3]},
            },
            "cluster": {"kind": "local", "workers": 1},
        }
    )  # fmt: skip
    return Path(finished.store)


@pytest.fixture(scope="module")
def full() -> np.ndarray:
    """(I_p ⊗ U) Diag(vec S′) (I_p ⊗ W), every zero of it."""
    network, identity = make_network(dtype=np.float64), np.eye(P)
    S = slopes(network, make_columns(dtype=np.float64))
    return np.kron(identity, network.W2) * S.T.ravel() @ np.kron(identity, network.W1)


def test_it_is_the_matrix_of_the_mathematics(store: Path, full) -> None:
    A = cn.operator(store)
    assert A.shape == full.shape == (Q * P, N * P)
    assert A.dtype == np.float64
    assert A.sizes == (P, Q, N)
    rng = np.random.default_rng(2)
    v, V = rng.standard_normal(N * P), rng.standard_normal((N * P, 3))
    w, W = rng.standard_normal(Q * P), rng.standard_normal((Q * P, 3))
    for found, expected in (
        (A @ v, full @ v), (A.matvec(v), full @ v), (A @ V, full @ V),
        (A.matmat(V), full @ V), (A.rmatvec(w), full.T @ w), (A.H @ W, full.T @ W),
        (A.T @ w, full.T @ w), (A.adjoint().matvec(w), full.T @ w), (A.rmatmat(W), full.T @ W),
        (2 * A @ v - (A + A) @ v, np.zeros(Q * P)),
    ):  # fmt: skip
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
    assert np.isclose(w @ (A @ v), (A.H @ w) @ v)
    np.testing.assert_allclose(A.tosparse().toarray(), full, rtol=1e-12, atol=1e-14)


def test_vec_stacks_columns(store: Path) -> None:
    """A small change of X, against the change of Y."""
    network, X = make_network(dtype=np.float64), make_columns(dtype=np.float64)
    dX = np.random.default_rng(3).standard_normal(X.shape) * 1e-6
    dY = cn.forward(network, X + dX) - cn.forward(network, X - dX)
    found = cn.operator(store) @ dX.ravel(order="F")
    np.testing.assert_allclose(2 * found, dY.ravel(order="F"), rtol=1e-6, atol=1e-14)


def test_scipy_works_with_it(store: Path) -> None:
    A = cn.operator(cn.open(store).isel(column=slice(10, 17)))
    full = A.tosparse().toarray()
    y = full @ np.ones(N * 7)
    x = sla.lsqr(A, y, atol=1e-12, btol=1e-12)[0]
    np.testing.assert_allclose(full @ x, y, atol=1e-7)
    found = np.sort(sla.svds(A, k=3, return_singular_vectors=False))
    np.testing.assert_allclose(found, np.sort(np.linalg.svd(full, compute_uv=False))[-3:])


def test_of_a_dataset_or_a_part_of_it(store: Path, full) -> None:
    ds = cn.open(store)
    part = ds.isel(column=slice(20, 50), output=[2, 0], input=slice(1, 4))
    expected = block_diag(*(T[np.ix_([2, 0], [1, 2, 3])] for T in ds.jacobian.values[20:50]))
    A = cn.operator(part)
    np.testing.assert_allclose(A.tosparse().toarray(), expected, rtol=1e-12)
    np.testing.assert_allclose(A @ np.eye(90), expected, rtol=1e-12)
    swapped = cn.operator(ds.transpose())
    np.testing.assert_allclose(swapped.rmatvec(np.ones(Q * P)), full.T @ np.ones(Q * P))
    lazy = xr.open_dataset(store, engine=Backend)
    np.testing.assert_allclose(cn.operator(lazy) @ np.ones(N * P), full @ np.ones(N * P))
    np.testing.assert_allclose(cn.operator(lazy.load()) @ np.ones(N * P), full @ np.ones(N * P))


def test_of_a_scaled_dataset(store: Path, full) -> None:
    scaled = full / np.tile([0.5, 2, 3], P)[:, None]
    A = cn.operator(cn.open(store, scaled=True))
    np.testing.assert_allclose(A.tosparse().toarray(), scaled, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(A @ np.ones(N * P), scaled @ np.ones(N * P))


def test_it_is_never_formed(store: Path) -> None:
    """Nothing is read before it is applied, and then a piece at a time."""
    copy = store.with_name("copy.zarr")
    shutil.copytree(store, copy)
    A = cn.operator(copy)
    for shard in copy.glob("*/c.3.*"):
        shard.write_bytes(b"")
    with dask.config.set(scheduler="sync"), pytest.raises(Exception, match=r"."):
        A @ np.ones(N * P)


def test_too_large_for_a_matrix(store: Path) -> None:
    size = P * Q * N * 8 + (2 * P + 1) * 4
    with pytest.raises(TooLargeError, match=rf"limit={size}\."):
        cn.operator(store).tosparse(limit=size - 1)
    assert cn.operator(store).tosparse(limit=size).nnz == P * Q * N


@pytest.mark.parametrize("j", [0, 57, -1])
def test_column_derivative(store: Path, full, j: int) -> None:
    D = cn.column_derivative(store, j)
    assert isinstance(D, sparse.COO)
    assert D.shape == (Q, P, N)
    assert D.nnz == Q * N
    # ∂vec(Y)/∂X_j is n columns of ∂vec(Y)/∂vec(X)
    k = j % P
    expected = full[:, k * N : (k + 1) * N].reshape(P, Q, N).transpose(1, 0, 2)
    np.testing.assert_allclose(D.todense(), expected, rtol=1e-12, atol=1e-14)


def test_column_derivative_without_sparse(store: Path, monkeypatch) -> None:
    expected = cn.column_derivative(store, 57).todense()
    monkeypatch.setattr(operators, "find_spec", lambda _: None)
    for given in (store, cn.open(store)):
        D = cn.column_derivative(given, 57)
        assert isinstance(D, da.Array)
        np.testing.assert_array_equal(D, expected)


def test_refusals(store: Path) -> None:
    for j in (P, -P - 1):
        with pytest.raises(UsageError, match=f"0 to {P - 1}"):
            cn.column_derivative(store, j)
    with pytest.raises(StoreError, match="this dataset has"):
        cn.operator(cn.open(store).drop_vars(["jacobian", "slope"], errors="ignore"))
    assert M not in (Q, N, P)


def test_what_is_no_store_is_told_what_to_give(store: Path) -> None:
    ds = cn.open(store)
    with pytest.raises(UsageError, match=r"not a DataArray\. .*the Dataset that cn\.open"):
        cn.operator(ds.jacobian)
    with pytest.raises(UsageError, match="not a Dataset"):
        cn.open(ds)
    with pytest.raises(UsageError, match=r"no dimension column\. .*isel\(column=\[3\]\)"):
        cn.operator(ds.isel(column=3))
    with pytest.raises(UsageError, match="no dimension output and input"):
        cn.operator(ds.isel(output=1, input=2))
    with pytest.raises(TypeError, match="cannot be interpreted as an integer"):
        cn.column_derivative(store, 1.5)
