"""The mathematics: forward pass, slopes and Jacobian blocks, for NumPy and Dask arrays.

    Z = W X + b 1ᵀ                             (m × p)
    Y = U σ(Z) + c 1ᵀ                          (q × p)
    J_k = U Diag(σ′(z_k)) W                    (q × n), one block per column
    T[k,i,j] = Σ_h U[i,h] σ′(Z[h,k]) W[h,j]    (p × q × n)

σ acts on each column alone, hence ∂y_l/∂x_k = 0 for l ≠ k, and T holds the whole derivative. For a
network of any depth, or whose σ mixes the entries of a column, J_k = W_L D_(L−1) … D_1 W_1 (see
`kernel`); with one hidden layer and an elementwise σ, this is the formula above.

Z, σ and σ′ are evaluated in the widest of the dtypes of X, the weights and the result, and
rounded once to the result's dtype: z = W x + b cancels if inputs are large and similar, but the
products after it do not.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from colonnade.compute.kernel import Kernel, result_dtype
from colonnade.errors import InputError, NetworkError
from colonnade.inputs.matrix import check_dtype
from colonnade.network.network import Network

__all__ = ["check_columns", "forward", "jacobian", "jacobian_by_definition", "slopes"]

# Enough rows for a matrix product to run at full speed
_STRIP_COLUMNS = 1024

if TYPE_CHECKING:
    import dask.array as da
    from typing_extensions import TypeIs

    AnyMatrix = TypeVar("AnyMatrix", NDArray[Any], da.Array)


def forward(network: Network, X: AnyMatrix) -> AnyMatrix:
    """Compute Y = U σ(W X + b 1ᵀ) + c 1ᵀ, or the outputs of a deeper network.

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
        X is not a matrix of real numbers with n rows.
    """
    return _columnwise(network, X, _values, network.q)


def slopes(network: Network, X: AnyMatrix) -> AnyMatrix:
    """Compute S′ = σ′(W X + b 1ᵀ), (m, p); X and errors as for `forward`.

    Raises
    ------
    NetworkError
        The network is deeper, or σ mixes the entries of a column: then σ′ is not such a matrix.
    """
    if not network.has_slopes:
        raise NetworkError(
            "slopes exist only for one hidden layer with an elementwise σ; this network has "
            f"{len(network.hidden)} hidden layers, with {_activations_text(network)}. Use "
            "cn.jacobian instead."
        )
    return _columnwise(network, X, _slopes, network.m)


def jacobian(network: Network, X: AnyMatrix, dtype: DTypeLike | None = None) -> AnyMatrix:
    """Compute every column's block T[k] = U Diag(σ′(W x_k + b)) W, or W_L D_(L−1) … D_1 W_1.

    Parameters
    ----------
    X
        (n, p). A NumPy array gives a NumPy array. A dask array gives a lazy dask array, whose
        chunks along the first axis are those of X along its columns.
    dtype
        float32 or float64; by default the wider of X's and the network's.

    Returns
    -------
    (p, q, n): T[k, i, j] = ∂y_i/∂x_j at column k.

    Raises
    ------
    InputError
        X is not a matrix of real numbers with n rows, or dtype is neither of the two.
    """
    check_columns(network, X)
    dtype = result_dtype(network, X.dtype) if dtype is None else np.dtype(dtype)
    if dtype not in (np.float32, np.float64):
        raise InputError(
            f"the Jacobian is computed in float32 or float64, not in {dtype}: pass one of the two "
            "as dtype."
        )
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
    """Sum T[k,i,j] = Σ_h U[i,h] σ′(Z[h,k]) W[h,j] literally: slow, and the reference.

    The network must have slopes (`has_slopes`).

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


def _activations_text(network: Network) -> str:
    return ", ".join(sigma.name for sigma in network.activations) or "no activation"


def check_columns(network: Network, X: NDArray[Any] | da.Array) -> None:
    """Raise an error unless X is a matrix of real numbers with the network's n rows."""
    if not isinstance(network, Network):
        raise NetworkError(
            f"the network must be a cn.Network, not a {type(network).__name__}: load its file with "
            "cn.Network.load."
        )
    if not hasattr(X, "ndim") or not hasattr(X, "dtype"):
        raise InputError(f"X must be a NumPy or Dask array, not a {type(X).__name__}.")
    if X.ndim != 2 or X.shape[0] != network.n:
        raise InputError(
            f"the network takes X of shape (n, p) = ({network.n}, p), one sample per column; "
            f"given shape {X.shape}. If its samples are rows, pass X.T."
        )
    check_dtype(X.dtype)


def _blocks(X: NDArray[Any], network: Network, out_dtype: np.dtype[Any]) -> NDArray[Any]:
    B = X.shape[1]
    strip = max(1, min(B, _STRIP_COLUMNS))
    kernel = Kernel(network, X.dtype, out_dtype, strip)
    T = np.empty((B, network.q, network.n), out_dtype)
    for k in range(0, B, strip):
        kernel.blocks(kernel.slopes(X[:, k : k + strip]), T[k : k + strip])
    return T


def _values(X: NDArray[Any], network: Network) -> NDArray[Any]:
    return Kernel(network, X.dtype, result_dtype(network, X.dtype), X.shape[1]).value(X)


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
    # A caller with a dask array has imported dask.array. Importing it here would make all others
    # wait for it, and for xarray and pandas, which it imports
    module = sys.modules.get("dask.array")
    return module is not None and isinstance(X, module.Array)


def _whole_columns(X: da.Array) -> da.Array:
    return X if len(X.chunks[0]) == 1 else X.rechunk({0: -1})
