"""Norms of each column's block."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from colonnade.buffers import made_once
from colonnade.compute.products.base import BlockAccumulator, Cut, Product, slices
from colonnade.grid import ArrayPlan, Shapes

__all__ = ["Norm", "SpectralNorm"]


class Norm(Product):
    """‖J_k‖_F of each column."""

    name = "norm"
    of_slopes = True

    @staticmethod
    @override
    def arrays(cut: Cut) -> list[ArrayPlan]:
        return [cut.column("norm")]

    @staticmethod
    @override
    def kept_bytes(shapes: Shapes) -> int:
        # The coupling, and while it is made a factor of the same size
        return 2 * 8 * shapes.m**2

    # ‖U Diag(s) W‖²_F = Σ_hg s_h (UᵀU)[h,g] (WWᵀ)[h,g] s_g, in float64: the sum may cancel
    @made_once
    def _coupling(self) -> NDArray[np.float64]:
        U, W = self.kernel.weights64
        coupling: NDArray[np.float64] = (U.T @ U) * (W @ W.T)
        return coupling

    @override
    def slopes(self, S: NDArray[Any], rows: BlockAccumulator) -> None:
        for k, part in slices(S.T, S.shape[0]):
            s = self.float64(part.T)
            coupled = self.buffers.array("coupled", s.shape, np.float64)
            squared = np.einsum("hk,hk->k", s, np.matmul(self._coupling, s, out=coupled))
            # Rounding may make the square of a vanishing norm negative; NaN stays NaN
            rows.columns("norm", k, k + s.shape[1])[...] = np.sqrt(np.maximum(squared, 0))

    @override
    def blocks(self, T: NDArray[Any], rows: BlockAccumulator) -> None:
        for k, part in slices(T, T[0].size):
            t = self.float64(part)
            squared = np.einsum("kij,kij->k", t, t)
            rows.columns("norm", k, k + len(t))[...] = np.sqrt(squared)


class SpectralNorm(Product):
    """‖J_k‖₂, the largest singular value of each column's block, and the largest of them."""

    name = "spectral_norm"
    of_slopes = True
    made_of = "spectral_norm"
    statistic = "spectral_norm_max"
    largest = True

    # R and Lᵀ of the definition
    @made_once
    def _ends(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        U, W = self.kernel.weights64
        return _triangle(U), _triangle(W.T).T

    @staticmethod
    @override
    def arrays(cut: Cut) -> list[ArrayPlan]:
        largest = ArrayPlan("spectral_norm_max", (), (), (), (), cut.dtype, per_block=False)
        return [largest, cut.column("spectral_norm")]

    @staticmethod
    @override
    def kept_bytes(shapes: Shapes) -> int:
        # Two triangles, or U and W themselves, and copies while they are made
        return 2 * 8 * shapes.m * (shapes.q + shapes.n)

    @override
    def slopes(self, S: NDArray[Any], rows: BlockAccumulator) -> None:
        left, right = self._ends
        for k, s in slices(S.T, left.size):
            J = (left * s.astype(np.float64)[:, None, :]) @ right
            rows.columns("spectral_norm", k, k + len(s))[...] = _largest(J)

    @override
    def blocks(self, T: NDArray[Any], rows: BlockAccumulator) -> None:
        for k, t in slices(T, T[0].size):
            found = _largest(self.float64(t))
            rows.columns("spectral_norm", k, k + len(t))[...] = found


def _triangle(A: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return R of A = Q R if R is smaller than A, else A; both have the same singular values."""
    rows, columns = A.shape
    if rows <= columns:
        return A
    R: Any = np.linalg.qr(A, mode="r")
    return np.asarray(R)


def _largest(J: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the largest singular value of each of the matrices (b, ·, ·)."""
    scale = np.abs(J).max(axis=(1, 2), initial=0)
    usable = np.isfinite(scale) & (scale > 0)
    # Squares of scaled numbers neither overflow nor vanish; LAPACK refuses NaN and infinities
    A = np.where(usable[:, None, None], J, 0) / np.where(usable, scale, 1)[:, None, None]
    A = A if A.shape[1] <= A.shape[2] else A.transpose(0, 2, 1)
    square = np.linalg.eigvalsh(A @ A.transpose(0, 2, 1))[:, -1]
    # The result of a matrix that is not finite is its scale, which is NaN or infinite
    found: NDArray[np.float64] = np.where(usable, np.sqrt(np.maximum(square, 0)), 1) * scale
    return found
