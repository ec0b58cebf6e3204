"""The derivative of all of Y by all of X, as mathematicians write it, over a store.

    vec(A) = the columns of A, one below the other
    ∂vec(Y)/∂vec(X) = (I_p ⊗ U) Diag(vec S′) (I_p ⊗ W) = blockdiag(J_1, …, J_p)      (qp × np)

It is never formed: it is applied block by block, by dask, to what is stored.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from operator import index
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import scipy.sparse
import xarray as xr
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator

from colonnade.errors import StoreError, TooLargeError, UsageError
from colonnade.formatting import format_bytes
from colonnade.limits import SPARSE_BYTES
from colonnade.reading.backend import open as open_store
from colonnade.storage.locations import Options

__all__ = ["JacobianOperator", "column_derivative", "operator"]

StoreOrDataset = str | Path | xr.Dataset


def operator(store: StoreOrDataset, *, storage_options: Options = None) -> JacobianOperator:
    """∂vec(Y)/∂vec(X) = blockdiag(J_1, …, J_p), (qp, np), as a SciPy LinearOperator.

    vec stacks the columns of a matrix: vec(X)[k n + j] = X[j,k] and vec(Y)[k q + i] = Y[i,k]. Hence
    `A @ vec(dX)` is vec(dY), dY[:,k] = J_k dX[:,k], and `A.H @ vec(R)` is what backpropagation
    makes of R. As (I_p ⊗ U) Diag(vec S′) (I_p ⊗ W) it is applied where the store holds S′ (layout
    factored), without a block being formed; else the blocks are read, a few at a time.

    Parameters
    ----------
    store
        A store's path, or a Dataset that `open` has returned, or a selection of it: then p, q and n
        are the selection's.
    storage_options
        Of the object store, as in a job.

    Returns
    -------
    With matvec, rmatvec, matmat, rmatmat, adjoint, dtype, shape, and `tosparse`; results are in
    the wider of the store's type and the vector's. Vectors are NumPy's, of np and qp numbers.

    Raises
    ------
    UsageError
        It is no store, but a variable, or a selection without one of the dimensions.
    StoreError
        The store holds neither the tensor nor the slopes.
    IncompleteError
        It is not finished.
    """
    return JacobianOperator(_opened(store, storage_options))


def column_derivative(store: StoreOrDataset, j: int, *, storage_options: Options = None) -> Any:
    """∂Y/∂X_j, the derivative of all of Y by the column X_j: (q, p, n).

    D[i,k,l] = ∂Y[i,k]/∂X[l,j], which is J_j[i,l] = Σ_h U[i,h] S′[h,j] W[h,l] where k = j, and zero
    elsewhere, because each column of Y depends on its own column of X alone.

    Parameters
    ----------
    store, storage_options
        As for `operator`.
    j
        Which column, by its number; from the end where it is negative.

    Returns
    -------
    A `sparse.COO` array with the qn numbers of J_j, or, where pydata/sparse is not installed
    (pip install 'colonnade[sparse]'), a lazy dask array in chunks of one column or many zeros.

    Raises
    ------
    UsageError
        There is no column j.
    StoreError, IncompleteError
        As for `operator`.
    """
    dataset = _opened(store, storage_options)
    p, j = dataset.sizes["column"], index(j)
    if not -p <= j < p:
        raise UsageError(f"there is no column {j}: the store has the columns 0 to {p - 1}.")
    j %= p
    dataset = dataset.isel(column=slice(j, j + 1))
    U, W, data = _parts(dataset)
    q, n = len(U), W.shape[1]
    block = data if data.ndim == 3 else _blocks(data, W, U)
    if find_spec("sparse") is None:
        zeros = [
            da.zeros((q, width, n), dtype=block.dtype, chunks=(q, "auto", n))
            for width in (j, p - 1 - j)
        ]
        return da.concatenate([zeros[0], block.transpose(1, 0, 2), zeros[1]], axis=1)
    rows, columns = np.indices((q, n)).reshape(2, -1)
    places = np.stack([rows, np.full(q * n, j), columns])
    numbers = np.asarray(block).reshape(-1)
    return import_module("sparse").COO(places, numbers, shape=(q, p, n), has_duplicates=False)


class JacobianOperator(LinearOperator):
    """blockdiag(J_1, …, J_p), (qp, np); `operator` makes it.

    Attributes
    ----------
    sizes
        (p, q, n).
    """

    def __init__(self, dataset: xr.Dataset) -> None:
        self._U, self._W, self._data = _parts(dataset)
        p, q, n = self._data.shape[0], len(self._U), self._W.shape[1]
        self.sizes = (int(p), q, n)
        super().__init__(self._data.dtype, (q * p, n * p))  # type: ignore[no-untyped-call]

    def tosparse(self, limit: int = SPARSE_BYTES) -> scipy.sparse.bsr_array:
        """Form the matrix, with blocks of (q, n), p of them; for small ones.

        Parameters
        ----------
        limit
            Bytes that it may take.

        Raises
        ------
        TooLargeError
            It takes more.
        """
        p, q, n = self.sizes
        indexes = 4 if p < 2**31 else 8
        size = p * q * n * self.dtype.itemsize + (2 * p + 1) * indexes
        if size > limit:
            raise TooLargeError(
                f"as a sparse matrix this operator takes {format_bytes(size)}, more than "
                f"{format_bytes(limit)}; use it as it is, form a part (of "
                f"dataset.isel(column=slice(…))), or give limit={size}."
            )
        data = self._data
        blocks = np.asarray(data if data.ndim == 3 else _blocks(data, self._W, self._U))
        return scipy.sparse.bsr_array(
            (blocks, np.arange(p), np.arange(p + 1)), shape=self.shape, blocksize=(q, n)
        )

    def _matmat(self, V: NDArray[Any]) -> NDArray[Any]:
        return self._apply(V, adjoint=False)

    def _matvec(self, v: NDArray[Any]) -> NDArray[Any]:
        return self._apply(v.reshape(-1, 1), adjoint=False)

    def _rmatmat(self, V: NDArray[Any]) -> NDArray[Any]:
        return self._apply(V, adjoint=True)

    def _rmatvec(self, v: NDArray[Any]) -> NDArray[Any]:
        return self._apply(v.reshape(-1, 1), adjoint=True)

    def _apply(self, V: NDArray[Any], *, adjoint: bool) -> NDArray[Any]:
        p, q, n = self.sizes
        here, there = (q, n) if adjoint else (n, q)
        # A column of vec's below the other: (p, n, r) or (p, q, r), and the same behind it
        X = np.asarray(V).reshape(p, here, V.shape[1])
        dense = self._data.ndim == 3
        left, right = (self._W.T, self._U.T) if adjoint else (self._U, self._W)

        def product(block: NDArray[Any], x: NDArray[Any]) -> NDArray[Any]:
            found: NDArray[Any]
            if dense:
                found = np.matmul(block.transpose(0, 2, 1) if adjoint else block, x)
            else:
                found = np.matmul(left, block[:, :, None] * np.matmul(right, x))
            return found

        data = self._data.rechunk(dict.fromkeys(range(1, self._data.ndim), -1))
        given = da.from_array(X, chunks=(data.chunks[0], -1, -1))
        found = da.blockwise(
            product,
            "kor",
            data,
            "kij" if dense else "kh",
            given,
            "kxr",
            new_axes={"o": there},
            concatenate=True,
            dtype=np.result_type(self.dtype, X.dtype),
            meta=np.empty((0, 0, 0), np.result_type(self.dtype, X.dtype)),
        )
        return np.asarray(found).reshape(p * there, -1)


def _opened(store: StoreOrDataset, storage_options: Options) -> xr.Dataset:
    if not isinstance(store, xr.Dataset):
        return open_store(store, storage_options=storage_options)
    gone = [d for d in ("column", "output", "input") if d not in store.dims]
    if gone and not {"jacobian", "slope"}.isdisjoint(store):
        raise UsageError(
            f"this dataset has no dimension {' and '.join(gone)} any more: keep it in a selection, "
            f"as isel({gone[0]}=[3]) and isel({gone[0]}=slice(3, 4)) do."
        )
    return store


def _parts(dataset: xr.Dataset) -> tuple[NDArray[Any], NDArray[Any], da.Array]:
    """U, W, and of each column its slopes, (p, m), or its block, (p, q, n)."""
    try:
        U = dataset["W2"].transpose("output", "hidden")
        W = dataset["W1"].transpose("hidden", "input")
        if "slope" in dataset:
            data = dataset["slope"].transpose("column", "hidden")
        else:
            data = dataset["jacobian"].transpose("column", "output", "input")
    except (KeyError, ValueError) as error:
        raise StoreError(
            "the operator is made of W1, W2 and the jacobian (or slope) of a store, by column, "
            f"output and input; this dataset has {', '.join(map(str, dataset))}: make the store "
            "with output.products: [jacobian]."
        ) from error
    if "scaled" in dataset.attrs:
        # J_k in units of standard deviations is U, W in them
        U = U / dataset.coords.get("output_std", 1)
        W = W * dataset.coords.get("input_std", 1)
    # Their type is that of the numbers in the store: a product of float32 stays one
    weights = [np.asarray(array.astype(data.dtype)) for array in (U, W)]
    # Opened without `chunks`, it would be loaded whole
    if data.chunks is None:
        data = data.chunk(data.encoding.get("preferred_chunks", {}))
    return weights[0], weights[1], data.data


def _blocks(slopes: da.Array, W: NDArray[Any], U: NDArray[Any]) -> da.Array:
    """U Diag(s′_k) W for every row s′_k of the slopes (p, m): (p, q, n)."""
    blocks: da.Array = (U * slopes[:, None, :]) @ W
    return blocks
