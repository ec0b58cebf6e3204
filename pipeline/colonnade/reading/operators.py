"""The derivative of all of Y with respect to all of X, as one matrix over a store.

    vec(A) = the columns of A, stacked
    ∂vec(Y)/∂vec(X) = (I_p ⊗ U) Diag(vec S′) (I_p ⊗ W) = blockdiag(J_1, …, J_p)      (qp × np)

The matrix is never formed: dask applies it block by block, from the stored arrays.
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
    """Return ∂vec(Y)/∂vec(X) = blockdiag(J_1, …, J_p), (qp, np), as a SciPy LinearOperator.

    vec stacks the columns of a matrix: vec(X)[k n + j] = X[j,k] and vec(Y)[k q + i] = Y[i,k]. Hence
    `A @ vec(dX)` is vec(dY) with dY[:,k] = J_k dX[:,k], and `A.H @ vec(R)` is the backpropagation
    of R. If the store holds S′ (layout factored), the operator is applied as (I_p ⊗ U) Diag(vec S′)
    (I_p ⊗ W), without forming a block; otherwise the blocks are read, a few at a time.

    Parameters
    ----------
    store
        A store's path, a Dataset that `open` has returned, or a selection of one: then p, q and n
        are the selection's.
    storage_options
        Options of the object store, as in a job.

    Returns
    -------
    An operator with matvec, rmatvec, matmat, rmatmat, adjoint, dtype, shape, and `tosparse`.
    Results have the wider of the store's type and the vector's. Vectors are NumPy arrays, of np and
    qp numbers.

    Raises
    ------
    UsageError
        The argument is a single variable, or a selection that has lost a dimension.
    StoreError
        The store holds neither the tensor nor the slopes.
    IncompleteError
        The store is not finished.
    """
    return JacobianOperator(_opened(store, storage_options))


def column_derivative(store: StoreOrDataset, j: int, *, storage_options: Options = None) -> Any:
    """Return ∂Y/∂X_j, the derivative of all of Y with respect to the column X_j: (q, p, n).

    D[i,k,l] = ∂Y[i,k]/∂X[l,j], which is J_j[i,l] = Σ_h U[i,h] S′[h,j] W[h,l] where k = j, and zero
    elsewhere, because each column of Y depends on its own column of X alone.

    Parameters
    ----------
    store, storage_options
        As for `operator`.
    j
        Number of the column; a negative number counts from the end.

    Returns
    -------
    A `sparse.COO` array with the qn numbers of J_j; or, without pydata/sparse (pip install
    'colonnade[sparse]'), a lazy dask array whose chunks hold the one column or only zeros.

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
        raise UsageError(
            f"there is no column {j}: the store has the columns 0 to {p - 1}. Choose one of them; "
            "negative numbers count from the end."
        )
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
    """The matrix blockdiag(J_1, …, J_p), (qp, np), as a LinearOperator; `operator` makes it.

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
        """Form the matrix, with p blocks of (q, n), if it is small.

        Parameters
        ----------
        limit
            Most bytes that the matrix may take.

        Raises
        ------
        TooLargeError
            It would take more.
        """
        p, q, n = self.sizes
        indexes = 4 if p < 2**31 else 8
        size = p * q * n * self.dtype.itemsize + (2 * p + 1) * indexes
        if size > limit:
            raise TooLargeError(
                f"as a sparse matrix this operator takes {format_bytes(size)}, more than the limit "
                f"of {format_bytes(limit)}. Use the operator itself, form a part of it (from "
                f"dataset.isel(column=slice(…))), or pass limit={size}."
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
        # Unstack vec into (p, n, r) or (p, q, r); the result is stacked again at the end
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
            f"this dataset has no dimension {' and '.join(gone)}. Keep it when you select, as "
            f"isel({gone[0]}=[3]) and isel({gone[0]}=slice(3, 4)) do."
        )
    return store


def _parts(dataset: xr.Dataset) -> tuple[NDArray[Any], NDArray[Any], da.Array]:
    """Return U, W, and the slopes of all columns, (p, m), or their blocks, (p, q, n)."""
    try:
        U = dataset["W2"].transpose("output", "hidden")
        W = dataset["W1"].transpose("hidden", "input")
        if "slope" in dataset:
            data = dataset["slope"].transpose("column", "hidden")
        else:
            data = dataset["jacobian"].transpose("column", "output", "input")
    except (KeyError, ValueError) as error:
        raise StoreError(
            "the operator needs a store's W1, W2 and jacobian (or slope), with the dimensions "
            f"column, output and input; this dataset has {', '.join(map(str, dataset))}. Make the "
            "store with output.products: [jacobian]."
        ) from error
    if "scaled" in dataset.attrs:
        # Scaling J_k means scaling the rows of U and the columns of W
        U = U / dataset.coords.get("output_std", 1)
        W = W * dataset.coords.get("input_std", 1)
    # Convert the weights to the stored type, so that a product of float32 stays float32
    weights = [np.asarray(array.astype(data.dtype)) for array in (U, W)]
    # Without dask chunks, the whole array would be loaded
    if data.chunks is None:
        data = data.chunk(data.encoding.get("preferred_chunks", {}))
    return weights[0], weights[1], data.data


def _blocks(slopes: da.Array, W: NDArray[Any], U: NDArray[Any]) -> da.Array:
    """Return U Diag(s′_k) W for every row s′_k of the slopes (p, m): (p, q, n)."""
    blocks: da.Array = (U * slopes[:, None, :]) @ W
    return blocks
