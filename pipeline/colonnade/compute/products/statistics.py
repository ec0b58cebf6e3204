"""Statistics over all columns."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from colonnade.buffers import made_once
from colonnade.compute.products.base import BlockAccumulator, Cut, Product, slices
from colonnade.grid import ArrayPlan, Shapes

__all__ = ["Gram", "MaxAbs", "Mean", "MeanAbs"]

# With smaller sums, squares of slopes may begin to vanish in float32, below 2⁻¹²⁶
_LEAST_SQUARES = 2.0**-80


class Mean(Product):
    """The mean block."""

    name = "mean"
    of_slopes = True
    made_of = "mean_blocks"
    statistic = "mean"

    @staticmethod
    @override
    def arrays(cut: Cut) -> list[ArrayPlan]:
        return cut.statistic("mean", cut.output, cut.input)

    @override
    def begin(self, rows: BlockAccumulator) -> None:
        rows.part("mean_blocks")[...] = 0

    @override
    def slopes(self, S: NDArray[Any], rows: BlockAccumulator) -> None:
        rows.add("slope", S.sum(axis=1, dtype=np.float64))

    @override
    def blocks(self, T: NDArray[Any], rows: BlockAccumulator) -> None:
        rows.part("mean_blocks")[...] += T.sum(axis=0, dtype=np.float64)

    @override
    def end(self, rows: BlockAccumulator) -> None:
        if "slope" in rows.kept:
            # J is linear in s′
            U, W = self.kernel.weights64
            rows.part("mean_blocks")[...] = (U * rows.kept["slope"]) @ W


class MeanAbs(Product):
    """The mean of |J_k|, entry by entry."""

    name = "mean_abs"
    made_of = "mean_abs_blocks"
    statistic = "mean_abs"

    @staticmethod
    @override
    def arrays(cut: Cut) -> list[ArrayPlan]:
        return cut.statistic("mean_abs", cut.output, cut.input)

    @override
    def begin(self, rows: BlockAccumulator) -> None:
        rows.part("mean_abs_blocks")[...] = 0

    @override
    def blocks(self, T: NDArray[Any], rows: BlockAccumulator) -> None:
        total = rows.part("mean_abs_blocks")
        for _, t in slices(T, T[0].size):
            size = np.abs(t, out=self.buffers.array("size", t.shape, t.dtype))
            total += size.sum(axis=0, dtype=np.float64)


class MaxAbs(Product):
    """The entrywise maximum of |J_k| over all columns k."""

    name = "max_abs"
    made_of = "max_abs_blocks"
    statistic = "max_abs"
    largest = True

    @staticmethod
    @override
    def arrays(cut: Cut) -> list[ArrayPlan]:
        return cut.statistic("max_abs", cut.output, cut.input, dtype=cut.dtype)

    @override
    def begin(self, rows: BlockAccumulator) -> None:
        rows.part("max_abs_blocks")[...] = 0

    @override
    def blocks(self, T: NDArray[Any], rows: BlockAccumulator) -> None:
        found = rows.part("max_abs_blocks")
        for _, t in slices(T, T[0].size):
            size = np.abs(t, out=self.buffers.array("size", t.shape, t.dtype))
            np.maximum(found, size.max(axis=0), out=found)


class Gram(Product):
    """The mean of J_kᵀ J_k; its leading eigenvectors span the active subspaces."""

    name = "gram"
    of_slopes = True
    made_of = "gram_blocks"
    statistic = "gram"

    @staticmethod
    @override
    def arrays(cut: Cut) -> list[ArrayPlan]:
        # xarray does not allow a dimension twice
        return cut.statistic("gram", cut.input, ("other_input", cut.shapes.n))

    @staticmethod
    @override
    def kept_bytes(shapes: Shapes) -> int:
        return 8 * shapes.m**2

    @staticmethod
    @override
    def thread_bytes(shapes: Shapes, strip: int, itemsize: int) -> int:
        # The strip's sum, a float64 copy of it if it left float32's range, and the block's sum
        sums = (itemsize + 8) * shapes.m**2 + 8 * shapes.m * shapes.n
        return sums + Product.thread_bytes(shapes, strip, itemsize)

    @made_once
    def _coupling(self) -> NDArray[np.float64]:
        U, _ = self.kernel.weights64
        coupling: NDArray[np.float64] = U.T @ U
        return coupling

    @override
    def begin(self, rows: BlockAccumulator) -> None:
        rows.part("gram_blocks")[...] = 0

    @override
    def slopes(self, S: NDArray[Any], rows: BlockAccumulator) -> None:
        outer = self._outer(S)
        # The diagonal is Σ s²: no other entry is larger (Cauchy–Schwarz)
        known = _LEAST_SQUARES <= outer.diagonal().max() < np.inf
        if S.dtype == np.float32 and not known:
            outer = self._outer(self.float64(S))
        rows.add("outer", outer)

    # Σ s sᵀ, in the dtype of the slopes: float32 is twice as fast, and exact enough for the sum of
    # a strip. The sums of many strips are added in float64
    def _outer(self, S: NDArray[Any]) -> NDArray[Any]:
        outer = self.buffers.array("outer", (len(S), len(S)), S.dtype)
        with np.errstate(over="ignore", invalid="ignore"):
            return np.matmul(S, S.T, out=outer)

    @override
    def blocks(self, T: NDArray[Any], rows: BlockAccumulator) -> None:
        total = rows.part("gram_blocks")
        for _, t in slices(T, T[0].size):
            flat = self.float64(t.reshape(-1, T.shape[2]))
            total += flat.T @ flat

    @override
    def end(self, rows: BlockAccumulator) -> None:
        if "outer" in rows.kept:
            outer, W = rows.kept["outer"], self.kernel.weights64[1]
            outer *= self._coupling
            rows.part("gram_blocks")[...] = W.T @ outer @ W
