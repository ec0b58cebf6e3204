"""Compute U Diag(s) W for many s at the speed of a matrix product; also for slopes of low rank.

    T[k,i,j] = Σ_h U[i,h] s[h,k] W[h,j]        U (q × m), W (m × n), s (m × B), T (B × q × n)

If a slope is Diag(d) + Σ_r a_r b_rᵀ, T[k] has additional terms (U a_r)(b_rᵀ W): two matrix products
for all columns, and an outer product for each. These terms are written first, and the product with
Diag(d) is added to them: a BLAS that overwrites its output would first fill it with zeros.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from colonnade.buffers import PIECE_BYTES, Buffers, made_once
from colonnade.network.activations.formulas import Array, LowRank, Slope

__all__ = ["DiagonalProduct", "Method", "add_outer", "choose_method", "kept_bytes", "slice_bytes"]

# Up to this many bytes, K is made once and kept; a larger K is not formed
_PRODUCT_LIMIT = 64 * 2**20
# Bytes of U or W scaled by the slopes of a few columns: about one core's L2 cache
_SLICE_BYTES = 2**20

Method = Literal["product", "scale U", "scale W"]


def choose_method(q: int, m: int, n: int, itemsize: int, columns: int) -> Method:
    """Choose how T is computed, by shape alone: the same job always gives the same bits.

    In addition to 2mqn flops per column, "product" reads all of K once for `columns` columns. The
    others write a scaled U (or W) for each column, which serves only n (or q) numbers. The weights
    of the three costs are measured.
    """
    costs: dict[Method, float] = {
        # W is read again for every slice, from a slower cache the larger it is
        "scale U": 25 / n + m * n * itemsize / (40 * 2**20),
        "scale W": 100 / q + 100 / m,
    }
    if m * q * n * itemsize <= _PRODUCT_LIMIT:
        costs["product"] = 15 / columns
    return min(costs, key=lambda method: costs[method])


def kept_bytes(q: int, m: int, n: int, itemsize: int, columns: int) -> int:
    """Return the bytes that a `DiagonalProduct` keeps besides U and W, for all threads."""
    method = choose_method(q, m, n, itemsize, columns)
    return m * q * n * itemsize if method == "product" else 0


def slice_bytes(q: int, m: int, n: int, itemsize: int, columns: int) -> int:
    """Return the bytes that a thread needs for U or W scaled by the slopes of a few columns."""
    method = choose_method(q, m, n, itemsize, columns)
    if method == "product":
        return 0
    if method == "scale U":
        return min(max(_SLICE_BYTES, m * q * itemsize), columns * m * q * itemsize)
    one = (m + q) * n * itemsize
    return min(max(4 * _SLICE_BYTES, one), columns * one) + m * n * itemsize


class DiagonalProduct:
    """State that is prepared once to compute T for any number of columns.

    Parameters
    ----------
    U, W
        (q, m) and (m, n), of one dtype.
    columns
        How many columns `blocks` will be given at a time.
    """

    def __init__(self, U: Array, W: Array, columns: int) -> None:
        self.U = U
        self.W = W
        self._buffers = Buffers()
        q, m = U.shape
        self.method: Method = choose_method(q, m, W.shape[1], W.dtype.itemsize, columns)

    # K[h, (i,j)] = U[i,h] W[h,j]: row by row the Kronecker product of Uᵀ and W (Khatri–Rao)
    @made_once
    def _K(self) -> Array:  # noqa: N802 (the letter of the mathematics)
        K: Array = self.U.T[:, :, None] * self.W[:, None, :]
        return K.reshape(len(self.W), -1)

    def blocks(self, S: Slope, out: NDArray[Any]) -> NDArray[Any]:
        """Compute T[k] = U Diag(s_k) W for every column of S (m, B), or U (Diag(d_k) + …) W.

        Parameters
        ----------
        out
            (B, q, n), C-contiguous, of the dtype of U and W: written and returned.
        """
        multiply: Callable[..., Any] = np.matmul
        if isinstance(S, LowRank):
            S = S.astype(out.dtype)
            lefts, rights = S.A.transpose(0, 2, 1) @ self.U.T, S.B.transpose(0, 2, 1) @ self.W
            np.multiply(lefts[0][:, :, None], rights[0][:, None, :], out=out)
            for left, right in zip(lefts[1:], rights[1:], strict=True):
                add_outer(left, right, out)
            S, multiply = S.d, _add_matmul
        S = S.T.astype(out.dtype, copy=False)
        if self.method == "product":
            # T as B × qn is S′ᵀ K: one matrix product for all columns
            multiply(S, self._K, out=out.reshape(len(out), -1))
        elif self.method == "scale U":
            self._scale_U(np.ascontiguousarray(S), out, multiply)
        else:
            self._scale_W(np.ascontiguousarray(S), out, multiply)
        return out

    # (U · s_k) stacked over a few columns, (b·q) × m, times W gives their T as (b·q) × n
    def _scale_U(self, S: Array, out: Array, multiply: Callable[..., Any]) -> None:  # noqa: N802
        (q, m), n = self.U.shape, self.W.shape[1]
        width = max(1, _SLICE_BYTES // (m * q * out.itemsize))
        scaled = self._buffers.array("scaled", (min(width, len(S)), q, m), out.dtype)
        for k in range(0, len(S), width):
            s = S[k : k + width, None, :]
            b = len(s)
            np.multiply(self.U, s, out=scaled[:b])
            multiply(scaled[:b].reshape(b * q, m), self.W, out=out[k : k + b].reshape(b * q, n))

    # U times (s_k · W) of a few columns side by side, m × (b·n), gives their T with columns and
    # outputs exchanged; for many outputs and few inputs, where scaling U is more work
    def _scale_W(self, S: Array, out: Array, multiply: Callable[..., Any]) -> None:  # noqa: N802
        (q, m), n = self.U.shape, self.W.shape[1]
        width = max(1, 4 * _SLICE_BYTES // ((m + q) * n * out.itemsize))
        Wt = np.ascontiguousarray(self.W.T)
        scaled = self._buffers.array("scaled", (min(width, len(S)), n, m), out.dtype)
        for k in range(0, len(S), width):
            s = S[k : k + width, None, :]
            b = len(s)
            np.multiply(Wt, s, out=scaled[:b])
            product = self._buffers.array("product", (q, b * n), out.dtype)
            np.matmul(self.U, scaled[:b].reshape(b * n, m).T, out=product)
            turned = product.reshape(q, b, n).transpose(1, 0, 2)
            if multiply is np.matmul:
                out[k : k + b] = turned
            else:
                out[k : k + b] += turned


def _add_matmul(A: Array, B: Array, out: Array) -> None:
    """Add A B to out in one pass over out; B, out, and A or its transpose are C-contiguous."""
    blas = import_module("scipy.linalg.blas")
    gemm = blas.sgemm if out.dtype == np.float32 else blas.dgemm
    # Fortran takes C-contiguous arrays for their transposes
    if A.flags.c_contiguous:
        gemm(1.0, B.T, A.T, beta=1.0, c=out.T, overwrite_c=True)
    else:
        gemm(1.0, B.T, A, beta=1.0, c=out.T, overwrite_c=True, trans_b=True)


def add_outer(left: Array, right: Array, out: Array) -> None:
    """Add left[k] right[k]ᵀ to out[k] for each k, in slices that stay in cache."""
    B, q, n = out.shape
    rows = max(1, min(q, PIECE_BYTES // (n * out.itemsize)))
    width = max(1, PIECE_BYTES // (rows * n * out.itemsize))
    outer = np.empty((width, rows, n), out.dtype)
    for k in range(0, B, width):
        for i in range(0, q, rows):
            part = out[k : k + width, i : i + rows]
            some = outer[: part.shape[0], : part.shape[1]]
            np.multiply(left[k : k + width, i : i + rows, None], right[k : k + width, None], some)
            part += some
