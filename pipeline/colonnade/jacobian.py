"""The mathematics: forward pass, slopes and Jacobian blocks, for NumPy and for dask arrays.

    Z = W X + b 1ᵀ                             (m × p)
    Y = U σ(Z) + c 1ᵀ                          (q × p)
    J_k = U Diag(σ′(z_k)) W                    (q × n), one block a column
    T[k,i,j] = Σ_h U[i,h] σ′(Z[h,k]) W[h,j]    (p × q × n)

σ acts on each column alone, hence ∂y_l/∂x_k = 0 for l ≠ k, and T holds all of the derivative. A
network of any depth, or whose σ mixes the entries of a column, has J_k = W_L D_(L−1) … D_1 W_1:
that is `chain`'s, and with one hidden layer it is the above.

Z, σ and σ′ are evaluated in the widest of the dtypes of X, the weights and the result, and
rounded once to that of the result: z = W x + b cancels where inputs are large and alike, the
products behind it do not.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

import numpy as np
from numpy.typing import DTypeLike, NDArray

from colonnade.chain import Chain, chain_bytes, result_dtype, working_dtype
from colonnade.errors import InputError, NetworkError
from colonnade.matrix import check_dtype
from colonnade.network import Network
from colonnade.sandwich import PIECE_BYTES, SLICE_BYTES

__all__ = [
    "AnyKernel",
    "Kernel",
    "forward",
    "jacobian",
    "jacobian_by_definition",
    "kernel_bytes",
    "make_kernel",
    "result_dtype",
    "slopes",
    "strip_columns",
    "working_dtype",
]

# Columns that `blocks` is given at a time: rows enough for a matrix product to run at speed, or,
# where K is so small that it stays in a first-level cache, slopes few enough to stay in the second
_STRIP_COLUMNS = 1024
_SMALL_PRODUCT = 2**18
_PIECE_COLUMNS = 64

if TYPE_CHECKING:
    import dask.array as da
    from typing_extensions import TypeIs

    AnyMatrix = TypeVar("AnyMatrix", NDArray[Any], da.Array)


def forward(network: Network, X: AnyMatrix) -> AnyMatrix:
    """Y = U σ(W X + b 1ᵀ) + c 1ᵀ, or that of a deeper network.

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
    return _columnwise(network, X, _values, network.q)


def slopes(network: Network, X: AnyMatrix) -> AnyMatrix:
    """S′ = σ′(W X + b 1ᵀ), (m, p); X and errors as for `forward`.

    Raises
    ------
    NetworkError
        The network is deeper, or σ mixes the entries of a column: σ′ is no such matrix then.
    """
    if not network.has_slopes:
        raise NetworkError(
            "slopes are those of one hidden layer whose σ is elementwise; this network has "
            f"{len(network.hidden)} hidden layers, of {_told(network)}."
        )
    return _columnwise(network, X, _slopes, network.m)


def jacobian(network: Network, X: AnyMatrix, dtype: DTypeLike | None = None) -> AnyMatrix:
    """Every column's Jacobian block: T[k] = U Diag(σ′(W x_k + b)) W, or W_L D_(L−1) … D_1 W_1.

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

    Of a network that `has_slopes`.

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


def _told(network: Network) -> str:
    return ", ".join(sigma.name for sigma in network.activations) or "no activation"


def check_columns(network: Network, X: NDArray[Any] | da.Array) -> None:
    """Refuse an X that is no matrix of real numbers with the network's n rows."""
    if X.ndim != 2 or X.shape[0] != network.n:
        raise InputError(
            f"the network takes X of shape (n, p) = ({network.n}, p), one sample a column; "
            f"given shape {X.shape}."
        )
    check_dtype(X.dtype)


def strip_columns(network: Network, dtype: DTypeLike) -> int:
    """Columns to give to a kernel at a time, so that what lies between X and T stays in cache."""
    itemsize = np.dtype(dtype).itemsize
    if network.m * network.q * network.n * itemsize <= _SMALL_PRODUCT:
        return max(_PIECE_COLUMNS, PIECE_BYTES // (max(1, network.m) * itemsize))
    return _STRIP_COLUMNS


def kernel_bytes(network: Network, dtype: DTypeLike, columns: int, *, norm: bool = False) -> int:
    """Bytes that a kernel keeps between blocks, shared by a process's threads.

    Parameters
    ----------
    columns
        As for `Kernel`.
    norm
        Whether norms are asked for, which take two m × m matrices more while the first is made.
    """
    m, n, q = network.m, network.n, network.q
    more = (2 * m * m + m * (n + q)) * 8 if norm and network.has_slopes else 0
    return chain_bytes(network, dtype, columns) + more


class Kernel:
    """What a process prepares once for any number of blocks of a network that `has_slopes`.

    Parameters
    ----------
    network
        With one hidden layer and an elementwise σ.
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
        self.chain = Chain(network, x_dtype, dtype, columns)

    # ‖U Diag(s) W‖²_F = Σ_hg s_h (UᵀU)[h,g] (WWᵀ)[h,g] s_g, in float64: the sum may cancel
    @cached_property
    def _gram(self) -> NDArray[np.float64]:
        U, W = self.network.W2.astype(np.float64), self.network.W1.astype(np.float64)
        return (U.T @ U) * (W @ W.T)

    def slopes(self, X: NDArray[Any], values: NDArray[Any] | None = None) -> NDArray[Any]:
        """S′ = σ′(W X + b 1ᵀ): X (n, B) gives (m, B) in the working dtype, piece by piece.

        Parameters
        ----------
        values
            (B, q), to be filled with Yᵀ on the way.
        """
        (S,) = self.chain.slopes(X, values)
        return cast("NDArray[Any]", S)

    def blocks(self, S: NDArray[Any], out: NDArray[Any] | None = None) -> NDArray[Any]:
        """T[k] = U Diag(s′_k) W for every column s′_k of S (m, B).

        Parameters
        ----------
        out
            (B, q, n), C-contiguous, of this kernel's dtype: written and returned.
        """
        return self.chain.blocks([S], out)

    def norm(self, S: NDArray[Any]) -> NDArray[Any]:
        """‖J_k‖_F for every column of S (m, B): (B,), without forming a block."""
        width = max(1, SLICE_BYTES // (8 * self.network.m))
        squared = np.empty(S.shape[1])
        for k in range(0, S.shape[1], width):
            s = S[:, k : k + width].astype(np.float64, copy=False)
            squared[k : k + width] = np.einsum("hk,hk->k", s, self._gram @ s)
        # Rounding may leave a vanishing norm's square below zero; NaN stays NaN
        return np.sqrt(np.maximum(squared, 0)).astype(self.dtype, copy=False)

    def mean(self, s: NDArray[np.float64]) -> NDArray[Any]:
        """Mean block U Diag(mean s′) W from the mean slope (m,): (q, n); J is linear in s′."""
        U, W = self.network.W2.astype(np.float64), self.network.W1.astype(np.float64)
        mean: NDArray[Any] = (U * s) @ W
        return mean.astype(self.dtype)


AnyKernel: TypeAlias = Kernel | Chain
"""Both have `slopes` of X, and `blocks` of what that returns."""


def make_kernel(network: Network, x_dtype: DTypeLike, dtype: DTypeLike, columns: int) -> AnyKernel:
    """Make the `Kernel` of a network that has slopes, and the `Chain` of another."""
    kind = Kernel if network.has_slopes else Chain
    return kind(network, x_dtype, dtype, columns)


def _blocks(X: NDArray[Any], network: Network, out_dtype: np.dtype[Any]) -> NDArray[Any]:
    # The chain of one hidden layer is what its `Kernel` computes with
    B = X.shape[1]
    strip = max(1, min(B, strip_columns(network, out_dtype)))
    chain = Chain(network, X.dtype, out_dtype, strip)
    T = np.empty((B, network.q, network.n), out_dtype)
    for k in range(0, B, strip):
        chain.blocks(chain.slopes(X[:, k : k + strip]), T[k : k + strip])
    return T


def _values(X: NDArray[Any], network: Network) -> NDArray[Any]:
    return Chain(network, X.dtype, result_dtype(network, X.dtype), X.shape[1]).value(X)


def _slopes(X: NDArray[Any], network: Network) -> NDArray[Any]:
    return Kernel(network, X.dtype, result_dtype(network, X.dtype), X.shape[1]).slopes(X)


def _columnwise(
    network: Network,
    X: AnyMatrix,
    function: Callable[[NDArray[Any], Network], NDArray[Any]],
    rows: int,
) -> AnyMatrix:
    check_columns(network, X)
    if _is_dask(X):
        X = _whole_columns(X)
        lazy: da.Array = sys.modules["dask.array"].map_blocks(
            function,
            X,
            network=network,
            dtype=result_dtype(network, X.dtype),
            chunks=((rows,), X.chunks[1]),
            meta=np.empty((0, 0), result_dtype(network, X.dtype)),
        )
        return lazy
    return function(X, network)


def _is_dask(X: NDArray[Any] | da.Array) -> TypeIs[da.Array]:
    # Who has a dask array has imported dask.array; nobody else should wait for it, and for xarray
    # and pandas, which it imports
    module = sys.modules.get("dask.array")
    return module is not None and isinstance(X, module.Array)


def _whole_columns(X: da.Array) -> da.Array:
    return X if len(X.chunks[0]) == 1 else X.rechunk({0: -1})
