"""The mathematics: forward pass, slopes and Jacobian blocks, for NumPy and for dask arrays.

    Z = W X + b 1ᵀ                             (m × p)
    Y = U σ(Z) + c 1ᵀ                          (q × p)
    J_k = U Diag(σ′(z_k)) W                    (q × n), one block a column
    T[k,i,j] = Σ_h U[i,h] σ′(Z[h,k]) W[h,j]    (p × q × n)

σ acts on each column alone, hence ∂y_l/∂x_k = 0 for l ≠ k, and T holds all of the derivative.

Z, σ and σ′ are evaluated in the widest of the dtypes of X, the weights and the result, and
rounded once to that of the result: z = W x + b cancels where inputs are large and alike, the
products behind it do not.
"""

from __future__ import annotations

import sys
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import numpy as np
from numpy.typing import DTypeLike, NDArray

from colonnade.errors import InputError
from colonnade.matrix import check_dtype
from colonnade.network import Network

__all__ = [
    "Kernel",
    "forward",
    "jacobian",
    "jacobian_by_definition",
    "kernel_bytes",
    "result_dtype",
    "slopes",
    "strip_columns",
    "working_dtype",
]

# K is made once and kept: worth its memory up to here
_PRODUCT_LIMIT = 64 * 2**20
# Bytes of U or W scaled by the slopes of a few columns: about one core's second-level cache
_SLICE_BYTES = 2**20
# Columns that `blocks` is given at a time: rows enough for a matrix product to run at speed, or,
# where K is so small that it stays in a first-level cache, slopes few enough to stay in the second
_STRIP_COLUMNS = 1024
_SMALL_PRODUCT = 2**18
# Z, σ(Z), S′ and their temporaries, at a time: they stay in cache, and below the 128 KiB from which
# on glibc's malloc fetches fresh memory from the system, and returns it, every time
_PIECE_BYTES = 120 * 2**10
_PIECE_COLUMNS = 64

if TYPE_CHECKING:
    import dask.array as da
    from typing_extensions import TypeIs

    AnyMatrix = TypeVar("AnyMatrix", NDArray[Any], da.Array)


def forward(network: Network, X: AnyMatrix) -> AnyMatrix:
    """Y = U σ(W X + b 1ᵀ) + c 1ᵀ.

    Parameters
    ----------
    X
        (n, p), NumPy or Dask.

    Returns
    -------
    (q, p), of the same kind as X.

    Raises
    ------
    InputError
        X is no matrix of real numbers with n rows.
    """
    return _columnwise(network, X, "value", network.q)


def slopes(network: Network, X: AnyMatrix) -> AnyMatrix:
    """S′ = σ′(W X + b 1ᵀ), (m, p); X and errors as for `forward`."""
    return _columnwise(network, X, "slope", network.m)


def jacobian(network: Network, X: AnyMatrix, dtype: DTypeLike | None = None) -> AnyMatrix:
    """Every column's Jacobian block: T[k] = U Diag(σ′(W x_k + b)) W.

    Parameters
    ----------
    X
        (n, p). A NumPy array gives a NumPy array; a dask array gives a lazy one, chunked along
        its first axis as X is along its columns.
    dtype
        float32 or float64; by default the wider of X's and the network's.

    Returns
    -------
    (p, q, n): T[k, i, j] = ∂y_i/∂x_j at column k.

    Raises
    ------
    InputError
        X is no matrix of real numbers with n rows, or dtype is not one of the two.
    """
    check_columns(network, X)
    dtype = result_dtype(network, X.dtype) if dtype is None else np.dtype(dtype)
    if dtype not in (np.float32, np.float64):
        raise InputError(f"the Jacobian is computed in float32 or float64, not in {dtype}.")
    if _is_dask(X):
        X = _whole_columns(X)
        lazy: da.Array = sys.modules["dask.array"].map_blocks(
            _blocks,
            X,
            network=network,
            out_dtype=dtype,
            dtype=dtype,
            chunks=(X.chunks[1], (network.q,), (network.n,)),
            drop_axis=0,
            new_axis=(1, 2),
            meta=np.empty((0, 0, 0), dtype),
        )
        return lazy
    return _blocks(X, network, dtype)


def jacobian_by_definition(network: Network, X: NDArray[Any]) -> NDArray[Any]:
    """T[k,i,j] = Σ_h U[i,h] σ′(Z[h,k]) W[h,j], summed as it is written: slow, and the reference.

    X (n, p) gives (p, q, n), float64 throughout.
    """
    W, b, U = (a.astype(np.float64) for a in (network.W1, network.b1, network.W2))
    X = np.asarray(X, np.float64)
    slope = network.activation.slope
    T = np.zeros((X.shape[1], network.q, network.n))
    for k in range(X.shape[1]):
        for h in range(network.m):
            z = np.array(np.sum(W[h] * X[:, k]) + b[h])
            T[k] += U[:, h, None] * slope(z) * W[h, None, :]
    return T


def check_columns(network: Network, X: NDArray[Any] | da.Array) -> None:
    """Refuse an X that is no matrix of real numbers with the network's n rows."""
    if X.ndim != 2 or X.shape[0] != network.n:
        raise InputError(
            f"the network takes X of shape (n, p) = ({network.n}, p), one sample a column; "
            f"given shape {X.shape}."
        )
    check_dtype(X.dtype)


def result_dtype(network: Network, x_dtype: DTypeLike) -> np.dtype[Any]:
    """Find the dtype in which neither X nor the weights lose more than int64 does as float64."""
    return np.result_type(np.float32, network.dtype, np.dtype(x_dtype))


def working_dtype(network: Network, x_dtype: DTypeLike, dtype: DTypeLike) -> np.dtype[Any]:
    """Find the dtype of Z and of σ and σ′ of it, where results are of `dtype`."""
    return np.result_type(result_dtype(network, x_dtype), np.dtype(dtype))


def strip_columns(network: Network, dtype: DTypeLike) -> int:
    """Columns to give to a `Kernel` at a time, so that what lies between X and T stays in cache."""
    itemsize = np.dtype(dtype).itemsize
    if network.m * network.q * network.n * itemsize <= _SMALL_PRODUCT:
        return max(_PIECE_COLUMNS, _PIECE_BYTES // (network.m * itemsize))
    return _STRIP_COLUMNS


def kernel_bytes(network: Network, dtype: DTypeLike, columns: int, *, norm: bool = False) -> int:
    """Bytes that a `Kernel` keeps between blocks, shared by a process's threads.

    Parameters
    ----------
    columns
        As for `Kernel`.
    norm
        Whether norms are asked for: an m × m matrix, and another one while it is made.
    """
    m, n, q = network.m, network.n, network.q
    itemsize = np.dtype(dtype).itemsize
    weights = m * (n + q) * network.dtype.itemsize
    weights += m * (n + 1) * np.result_type(network.dtype, dtype).itemsize
    if network.dtype != dtype:
        weights += m * (n + q) * itemsize
    if norm:
        weights += (2 * m * m + m * (n + q)) * 8
    if _method(network, dtype, columns) == "product":
        return weights + m * q * n * itemsize
    return weights + max(_SLICE_BYTES, (m * max(q, n) + q * n) * itemsize)


_Method = Literal["product", "scale U", "scale W"]


def _method(network: Network, dtype: DTypeLike, columns: int) -> _Method:
    """Choose how T is computed, by shape alone: the same job always gives the same bits.

    Beside its 2mqn flops a column, the product reads all of K once for `columns` columns, and
    the others write a scaled U (or W) for each column that serves n (or q) numbers only. The
    weights of the three are measured ones.
    """
    m, n, q = network.m, network.n, network.q
    itemsize = np.dtype(dtype).itemsize
    costs: dict[_Method, float] = {
        # W is read again for every slice, from further away the larger it is
        "scale U": 25 / n + m * n * itemsize / (40 * 2**20),
        "scale W": 100 / q + 100 / m,
    }
    if m * q * n * itemsize <= _PRODUCT_LIMIT:
        costs["product"] = 15 / columns
    return min(costs, key=lambda method: costs[method])


class Kernel:
    """What a process prepares once to compute any number of blocks of one network.

    Parameters
    ----------
    network
        The network.
    x_dtype
        The dtype in which X comes.
    dtype
        The dtype of the results, float32 or float64.
    columns
        How many columns `blocks` is going to be given at a time.
    """

    def __init__(
        self, network: Network, x_dtype: DTypeLike, dtype: DTypeLike, columns: int
    ) -> None:
        self.network = network
        self.dtype = np.dtype(dtype)
        self.working_dtype = working_dtype(network, x_dtype, dtype)
        self._method = _method(network, dtype, columns)
        self._U = network.W2.astype(self.dtype, copy=False)
        self._W = network.W1.astype(self.dtype, copy=False)

    # K[h, (i,j)] = U[i,h] W[h,j]: row by row the Kronecker product of Uᵀ and W (Khatri–Rao)
    @cached_property
    def _K(self) -> NDArray[Any]:  # noqa: N802 (the letter of the mathematics)
        K: NDArray[Any] = self._U.T[:, :, None] * self._W[:, None, :]
        return K.reshape(self.network.m, -1)

    @cached_property
    def _Wb(self) -> NDArray[Any]:  # noqa: N802
        network = self.network
        Wb: NDArray[Any] = np.column_stack([network.W1, network.b1])
        return Wb.astype(self.working_dtype, copy=False)

    def preactivation(self, X: NDArray[Any]) -> NDArray[Any]:
        """Z = W X + b 1ᵀ: X (n, B) gives (m, B) in the working dtype."""
        # [W b] [X; 1]: one pass over Z less than adding b to W X
        bordered = np.empty((X.shape[0] + 1, X.shape[1]), self.working_dtype)
        bordered[:-1] = X
        bordered[-1] = 1
        Z: NDArray[Any] = self._Wb @ bordered
        return Z

    def value(self, Z: NDArray[Any]) -> NDArray[Any]:
        """Y = U σ(Z) + c 1ᵀ: Z (m, B) gives (q, B) in the dtype of the results."""
        U = self.network.W2.astype(self.working_dtype, copy=False)
        Y: NDArray[Any] = U @ self.network.activation.value(Z)
        Y += self.network.b2[:, None]
        return Y.astype(self.dtype, copy=False)

    def slope(self, Z: NDArray[Any]) -> NDArray[Any]:
        """S′ = σ′(Z): (m, B) in the working dtype."""
        return self.network.activation.slope(Z)

    def slopes(self, X: NDArray[Any], values: NDArray[Any] | None = None) -> NDArray[Any]:
        """S′ = σ′(W X + b 1ᵀ): X (n, B) gives (m, B), piece by piece.

        Parameters
        ----------
        values
            (B, q), to be filled with Yᵀ on the way.
        """
        m, B = self.network.m, X.shape[1]
        width = max(_PIECE_COLUMNS, _PIECE_BYTES // (m * self.working_dtype.itemsize))
        if width >= B and values is None:
            return self.slope(self.preactivation(X))
        S = np.empty((m, B), self.working_dtype)
        for k in range(0, B, width):
            Z = self.preactivation(X[:, k : k + width])
            if values is not None:
                values[k : k + width] = self.value(Z).T
            S[:, k : k + width] = self.slope(Z)
        return S

    def blocks(self, S: NDArray[Any], out: NDArray[Any] | None = None) -> NDArray[Any]:
        """T[k] = U Diag(s′_k) W for every column s′_k of S (m, B).

        Parameters
        ----------
        out
            (B, q, n), C-contiguous, of this kernel's dtype: written and returned.
        """
        q, n = self.network.q, self.network.n
        B = S.shape[1]
        S = S.astype(self.dtype, copy=False)
        out = np.empty((B, q, n), self.dtype) if out is None else out
        if self._method == "product":
            # T as B × qn is S′ᵀ K: one matrix product for all columns
            np.matmul(S.T, self._K, out=out.reshape(B, q * n))
        elif self._method == "scale U":
            self._scale_U(np.ascontiguousarray(S.T), out)
        else:
            self._scale_W(np.ascontiguousarray(S.T), out)
        return out

    # (U · s′_k) stacked over a few columns, (b·q) × m, times W, is those columns' T as (b·q) × n
    def _scale_U(self, S: NDArray[Any], out: NDArray[Any]) -> None:  # noqa: N802
        m, q, n = self.network.m, self.network.q, self.network.n
        width = max(1, _SLICE_BYTES // (m * q * self.dtype.itemsize))
        scaled = np.empty((width, q, m), self.dtype)
        for k in range(0, len(S), width):
            s = S[k : k + width, None, :]
            b = len(s)
            np.multiply(self._U, s, out=scaled[:b])
            np.matmul(scaled[:b].reshape(b * q, m), self._W, out=out[k : k + b].reshape(b * q, n))

    # U times (s′_k · W) of a few columns side by side, m × (b·n), is their T with columns and
    # outputs exchanged; for many outputs and few inputs, where scaling U is the larger work
    def _scale_W(self, S: NDArray[Any], out: NDArray[Any]) -> None:  # noqa: N802
        m, q, n = self.network.m, self.network.q, self.network.n
        width = max(1, 4 * _SLICE_BYTES // ((m + q) * n * self.dtype.itemsize))
        Wt = np.ascontiguousarray(self._W.T)
        scaled = np.empty((width, n, m), self.dtype)
        for k in range(0, len(S), width):
            s = S[k : k + width, None, :]
            b = len(s)
            np.multiply(Wt, s, out=scaled[:b])
            product = self._U @ scaled[:b].reshape(b * n, m).T
            out[k : k + b] = product.reshape(q, b, n).transpose(1, 0, 2)


def _blocks(X: NDArray[Any], network: Network, out_dtype: np.dtype[Any]) -> NDArray[Any]:
    kernel = Kernel(network, X.dtype, out_dtype, X.shape[1])
    return kernel.blocks(kernel.slopes(X))


def _of_preactivation(X: NDArray[Any], network: Network, what: str) -> NDArray[Any]:
    kernel = Kernel(network, X.dtype, result_dtype(network, X.dtype), X.shape[1])
    return cast("NDArray[Any]", getattr(kernel, what)(kernel.preactivation(X)))


def _columnwise(network: Network, X: AnyMatrix, what: str, rows: int) -> AnyMatrix:
    check_columns(network, X)
    if _is_dask(X):
        X = _whole_columns(X)
        dtype = result_dtype(network, X.dtype)
        lazy: da.Array = sys.modules["dask.array"].map_blocks(
            _of_preactivation,
            X,
            network=network,
            what=what,
            dtype=dtype,
            chunks=((rows,), X.chunks[1]),
            meta=np.empty((0, 0), dtype),
        )
        return lazy
    return _of_preactivation(X, network, what)


def _is_dask(X: NDArray[Any] | da.Array) -> TypeIs[da.Array]:
    # Who has a dask array has imported dask.array; nobody else should wait for it, and for xarray
    # and pandas, which it imports
    module = sys.modules.get("dask.array")
    return module is not None and isinstance(X, module.Array)


def _whole_columns(X: da.Array) -> da.Array:
    return X if len(X.chunks[0]) == 1 else X.rechunk({0: -1})
