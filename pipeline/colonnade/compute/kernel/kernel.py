"""The kernel: Jacobian blocks of a network of any depth, J_k = W_L D_(L−1) W_(L−1) … D_1 W_1.

D_l is σ′ of hidden layer l at column k: diagonal, or diagonal plus low rank where σ mixes the
entries of a column. `order` chooses the order of the products. Intermediate products are made for a
few columns at a time, so that they stay in cache, and the last product is written in place. With
one hidden layer, the block is one `DiagonalProduct` for all columns.

A column of S (s, B) holds all numbers of that column's D. For one hidden layer and an elementwise
σ, they are the slopes S′ = σ′(Z), and s = m.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from colonnade.buffers import PIECE_BYTES, Buffers, made_once
from colonnade.compute.kernel.diagonal import DiagonalProduct, add_outer, kept_bytes, slice_bytes
from colonnade.compute.kernel.order import MatrixProduct, cheapest
from colonnade.network.activations.formulas import Array, LowRank, Slope
from colonnade.network.network import Network

__all__ = [
    "Kernel",
    "kernel_bytes",
    "result_dtype",
    "scratch_bytes",
    "slope_numbers",
    "working_dtype",
]

# Bytes of all intermediate products of some columns: they fit a core's share of the L3 cache
_SLICE_BYTES = 4 * 2**20
# Fewest columns of Z, σ(Z), S′ and their temporaries at a time; so few stay in cache
_PIECE_COLUMNS = 64


def result_dtype(network: Network, x_dtype: DTypeLike) -> np.dtype[Any]:
    """Return the dtype in which neither X nor the weights lose more than int64 does as float64."""
    return np.result_type(np.float32, network.dtype, np.dtype(x_dtype))


def working_dtype(network: Network, x_dtype: DTypeLike, dtype: DTypeLike) -> np.dtype[Any]:
    """Return the dtype of Z, σ(Z) and σ′(Z) for results of `dtype`."""
    return np.result_type(result_dtype(network, x_dtype), np.dtype(dtype))


def _ranks(network: Network) -> tuple[tuple[int, int | None], ...]:
    """List each hidden layer's units, and the rank r of its `LowRank` slopes, if it has any."""
    found = []
    for sigma, m in zip(network.activations, network.hidden, strict=True):
        slope = sigma.slope(np.linspace(-1, 1, m)[:, None]) if sigma.columnwise else None
        found.append((m, len(slope.A) if isinstance(slope, LowRank) else None))
    # Without a hidden layer: the slope of the identity
    return tuple(found) or ((1, None),)


def slope_numbers(network: Network) -> int:
    """Count the numbers of one column's D."""
    return sum(m * (1 + 2 * (rank or 0)) for m, rank in _ranks(network))


def kernel_bytes(network: Network, dtype: DTypeLike, columns: int, *, blocks: bool = True) -> int:
    """Return the bytes that a `Kernel` keeps between blocks, shared by a process's threads.

    Parameters
    ----------
    columns
        As for `Kernel`.
    blocks
        Whether blocks are formed: the arrays that only they need are made with the first one.
    """
    itemsize = np.dtype(dtype).itemsize
    weights = sum(layer.W.size for layer in network.layers)
    kept = weights * network.dtype.itemsize
    # The first layer with its bias as an extra column, in the working dtype
    first = network.layers[0]
    working = np.result_type(network.dtype, dtype)
    kept += (first.W.size + first.b.size) * working.itemsize
    if network.dtype != dtype:
        inner = sum(layer.W.size for layer in network.layers[1:-1])
        kept += weights * itemsize + (network.dtype != working) * inner * working.itemsize
    if not blocks:
        return kept
    width = _width(cheapest(network.sizes), itemsize, columns)
    for q, m, n, turned in _shapes(network):
        kept += kept_bytes(q, m, n, itemsize, width) + turned * m * (n + q) * itemsize
    return kept


def scratch_bytes(network: Network, dtype: DTypeLike, columns: int) -> int:
    """Return the bytes that a thread needs for the intermediate products of a block."""
    product, itemsize = cheapest(network.sizes), np.dtype(dtype).itemsize
    width = _width(product, itemsize, columns)
    slices = sum(slice_bytes(q, m, n, itemsize, width) for q, m, n, _ in _shapes(network))
    return product.numbers * itemsize * width + slices


def _shapes(network: Network) -> list[tuple[int, int, int, bool]]:
    """List outputs, hidden units, inputs and `turned` of each `DiagonalProduct`."""
    found = []
    for i, turned in _pairs(cheapest(network.sizes)):
        n, m, q = network.sizes[i - 1 : i + 2]
        found.append((n, m, q, True) if turned else (q, m, n, False))
    return found


def _pairs(product: MatrixProduct, *, turned: bool = False) -> list[tuple[int, bool]]:
    """List the hidden layers whose two weights make a `DiagonalProduct`, each with `turned`.

    `turned` is whether the product is made transposed.
    """
    if product.is_layer:
        return []
    left, right = product.parts
    if left.is_layer and right.is_layer:
        return [(product.inner, turned)]
    return _pairs(left) + _pairs(right, turned=True)


def _width(product: MatrixProduct, itemsize: int, columns: int) -> int:
    """Return the number of columns whose products are made at a time."""
    if not product.numbers:
        return columns
    return max(1, min(columns, _SLICE_BYTES // (product.numbers * itemsize)))


class Kernel:
    """State that a process prepares once to compute any number of blocks of one network.

    Parameters
    ----------
    network
        A network of any depth, with any σ.
    x_dtype
        The dtype of X.
    dtype
        The dtype of the results, float32 or float64.
    columns
        How many columns `blocks` will be given at a time.
    """

    def __init__(
        self, network: Network, x_dtype: DTypeLike, dtype: DTypeLike, columns: int
    ) -> None:
        self.network = network
        self.dtype = np.dtype(dtype)
        self.working_dtype = working_dtype(network, x_dtype, dtype)
        self.product = cheapest(network.sizes)
        self._most = float(np.finfo(self.dtype).max) / 4
        self._ranks = _ranks(network)
        if any(rank is not None for _, rank in self._ranks):
            # Import it before BLAS threads are limited, so that SciPy's own BLAS is limited too
            import_module("scipy.linalg.blas")
        self._weights = [layer.W.astype(self.dtype, copy=False) for layer in network.layers]
        self._width = _width(self.product, self.dtype.itemsize, columns)
        self._diagonals: dict[int, DiagonalProduct] = {}
        self._buffers = Buffers()
        for i, turned in _pairs(self.product):
            W, U = self._weights[i - 1 : i + 1]
            if turned:
                U, W = np.ascontiguousarray(W.T), np.ascontiguousarray(U.T)
            self._diagonals[i] = DiagonalProduct(U, W, self._width)

    @property
    def numbers(self) -> int:
        """Count of the numbers in one column's D: the rows of S."""
        return sum(m * (1 + 2 * (rank or 0)) for m, rank in self._ranks)

    @made_once
    def _affine(self) -> list[tuple[Array, Array]]:
        dtype = self.working_dtype
        return [
            (W.astype(dtype, copy=False), b.astype(dtype)[:, None]) for W, b in self.network.layers
        ]

    @made_once
    def _Wb(self) -> Array:  # noqa: N802
        return np.column_stack(self.network.layers[0]).astype(self.working_dtype, copy=False)

    @made_once
    def weights64(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """U and W of one hidden layer, in float64."""
        return self.network.W2.astype(np.float64), self.network.W1.astype(np.float64)

    # Product of the layers' largest row sums of |W|: it bounds every entry of a product of layers
    @made_once
    def _row_sums(self) -> float:
        with np.errstate(all="ignore"):
            sums = [
                np.abs(layer.W.astype(np.float64)).sum(axis=1).max()
                for layer in self.network.layers
            ]
            return float(np.prod(np.maximum(1, sums)))

    def surely_finite(self, S: NDArray[Any]) -> tuple[bool, bool]:
        """Return whether S is finite, and whether a bound shows that `blocks(S)` is.

        |W_L| |D_(L−1)| … |D_1| |W_1| bounds each block and all its intermediate products, in any
        order. If the bound is too large, a block may still be finite.
        """
        # Both are NaN if any entry is
        high, low = float(S.max()), float(S.min())
        if not (math.isfinite(high) and math.isfinite(low)):
            return False, False
        largest = max(high, -low)
        bound = self._row_sums
        for m, rank in self._ranks:
            most = largest if rank is None else largest + rank * m * largest * max(1, largest)
            bound *= max(1, most)
        # With rounding, no sum exceeds twice its bound
        return True, bound < self._most

    def value(self, X: NDArray[Any]) -> Array:
        """Compute Y, (q, B) in the dtype of the results, of X (n, B)."""
        Y = np.empty((self.network.q, X.shape[1]), self.dtype)
        for piece, Z in self._pieces(X):
            H = Z
            for i, sigma in enumerate(self.network.activations, start=1):
                H = self._layer(i, sigma.value(H))
            Y[:, piece] = H
        return Y

    def slopes(
        self, X: NDArray[Any], values: NDArray[Any] | None = None, out: Array | None = None
    ) -> Array:
        """Compute S, the numbers of the D of each column of X (n, B), piece by piece.

        Parameters
        ----------
        values
            (B, q): filled with Yᵀ on the way.
        out
            (s, B): written and returned; by default a new array of the working dtype.

        Returns
        -------
        (s, B); ones for a network without hidden layers.
        """
        S = np.empty((self.numbers, X.shape[1]), self.working_dtype) if out is None else out
        activations = self.network.activations
        for piece, first in self._pieces(X):
            Z, row = first, 0
            if not activations:
                # NaN in X gives NaN in the block, although the block does not depend on X
                S[:, piece] = np.where(np.isnan(Z).any(axis=0), np.nan, 1)
            for i, sigma in enumerate(activations, start=1):
                slope = sigma.slope(Z)
                for part in slope if isinstance(slope, LowRank) else (slope,):
                    rows = part.reshape(-1, Z.shape[1])
                    S[row : row + len(rows), piece] = rows
                    row += len(rows)
                if i < len(activations) or values is not None:
                    Z = self._layer(i, sigma.value(Z))
            if values is not None:
                values[piece] = Z.T
        return S

    def _pieces(self, X: NDArray[Any]) -> Iterator[tuple[slice, Array]]:
        """Yield slices of columns, each with the first layer's Z of these columns."""
        widest = max(self.network.hidden, default=1)
        width = max(_PIECE_COLUMNS, PIECE_BYTES // (widest * self.working_dtype.itemsize))
        for k in range(0, X.shape[1], width):
            piece = slice(k, min(k + width, X.shape[1]))
            yield piece, self._first(X[:, piece])

    def _first(self, X: NDArray[Any]) -> Array:
        # [W b] [X; 1] takes one pass over Z less than adding b to W X
        (n, B), dtype = X.shape, self.working_dtype
        bordered = self._buffers.array("bordered", (n + 1, B), dtype)
        bordered[:-1] = X
        bordered[-1] = 1
        Z = self._buffers.array("Z", (len(self._Wb), B), dtype)
        return np.matmul(self._Wb, bordered, out=Z)

    def _layer(self, i: int, H: Array) -> Array:
        W, b = self._affine[i]
        Z = self._buffers.array("Z", (len(W), H.shape[1]), self.working_dtype)
        np.matmul(W, H, out=Z)
        Z += b
        return Z

    def blocks(self, S: NDArray[Any], out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Compute T[k] = W_L D_(L−1) W_(L−1) … D_1 W_1 at every column of S.

        Parameters
        ----------
        S
            (s, B), as `slopes` returns it.
        out
            (B, q, n), C-contiguous, of this kernel's dtype: written and returned.
        """
        B, product = S.shape[1], self.product
        if out is None:
            out = np.empty((B, *product.shape), self.dtype)
        if product.is_layer:
            out[...] = self._weights[0]
            out *= S.T[:, :, None].astype(self.dtype, copy=False)
        elif not product.numbers:
            self._diagonals[1].blocks(self._split(S)[0], out)
        else:
            for k in range(0, B, self._width):
                part = out[k : k + self._width]
                made = self._made(product, self._split(S[:, k : k + len(part)]), part)
                if made is not part:
                    part[...] = made
        return out

    def _split(self, S: NDArray[Any]) -> list[Slope]:
        """Split S into the D of each hidden layer."""
        slopes: list[Slope] = []
        S, row = S.astype(self.dtype, copy=False), 0
        for m, rank in self._ranks:
            d, row = S[row : row + m], row + m
            if rank is None:
                slopes.append(d)
                continue
            A, B = S[row : row + 2 * rank * m].reshape(2, rank, m, -1)
            slopes.append(LowRank(d, A, B))
            row += 2 * rank * m
        return slopes

    def _made(
        self,
        product: MatrixProduct,
        S: list[Slope],
        out: Array | None = None,
        *,
        turned: bool = False,
    ) -> Array:
        """Make a product for a few columns, (b, r, c); `turned` asks for memory as (b, c, r).

        A turned product is a transposed view of a contiguous array. Each product has a buffer of
        its own, turned or not.
        """
        left, right = product.parts
        s, (r, c), b = S[product.inner - 1], product.shape, S[0].shape[-1]
        if left.is_layer and right.is_layer:
            diagonal = self._diagonals[product.inner]
            if turned:
                made = diagonal.blocks(_turned(s), self._room(product, b, (c, r)))
                return made.transpose(0, 2, 1)
            return diagonal.blocks(s, self._room(product, b, (r, c), out))
        if right.is_layer:
            P = self._made(left, S)
            _scale(P, s)
            made = self._room(product, b, (r, c), out)
            np.matmul(P.reshape(b * r, -1), self._weights[right.first - 1], made.reshape(b * r, c))
            return made
        P = self._made(right, S, turned=True).transpose(0, 2, 1)
        _scale(P, _turned(s))
        if left.is_layer:
            made = self._room(product, b, (c, r))
            np.matmul(P.reshape(b * c, -1), self._weights[left.first - 1].T, made.reshape(b * c, r))
            return made.transpose(0, 2, 1)
        made = self._room(product, b, (r, c), out)
        return np.matmul(self._made(left, S), P.transpose(0, 2, 1), out=made)

    def _room(
        self, product: MatrixProduct, b: int, shape: tuple[int, int], out: Array | None = None
    ) -> Array:
        return self._buffers.array(product, (b, *shape), self.dtype) if out is None else out


def _scale(P: Array, s: Slope) -> None:
    """Multiply each P[k], (r, m), by D_k from the right, in place."""
    if not isinstance(s, LowRank):
        P *= np.ascontiguousarray(s.T)[:, None, :]
        return
    moved = [P @ np.ascontiguousarray(a.T)[:, :, None] for a in s.A]
    P *= np.ascontiguousarray(s.d.T)[:, None, :]
    for left, b in zip(moved, s.B, strict=True):
        add_outer(left[:, :, 0], np.ascontiguousarray(b.T), P)


def _turned(s: Slope) -> Slope:
    """Return D_kᵀ."""
    return LowRank(s.d, s.B, s.A) if isinstance(s, LowRank) else s
