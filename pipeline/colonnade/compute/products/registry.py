"""The products that a store may hold: their arrays, definitions and shortcuts.

Every product is defined by the blocks J_k alone, and can be computed from them for any network. For
one hidden layer and an elementwise σ, J_k = U Diag(s′_k) W, and some products need no block:

    mean J     = U Diag(mean s′) W
    mean JᵀJ   = Wᵀ [(UᵀU) ∘ mean(s′ s′ᵀ)] W
    ‖J_k‖²_F   = s′_kᵀ [(UᵀU) ∘ (WWᵀ)] s′_k
    ‖J_k‖₂     = ‖R Diag(s′_k) Lᵀ‖₂, where U = Q R and Wᵀ = P L have orthonormal Q and P

For a statistic over all columns, each block's part is stored as well. At the end, the statistic is
made from the parts in a fixed order, so that a resumed run gives the same bits as any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from typing_extensions import override

from colonnade.compute.products.base import Cut, Product
from colonnade.compute.products.norms import Norm, SpectralNorm
from colonnade.compute.products.statistics import Gram, MaxAbs, Mean, MeanAbs
from colonnade.grid import ArrayPlan, Grid, Shapes

__all__ = [
    "PRODUCTS",
    "kept_bytes",
    "make_arrays",
    "needs_blocks",
    "thread_bytes",
]


class Jacobian(Product):
    """The tensor, or its slopes; the task computes them for other products too, and writes them."""

    name = "jacobian"

    @staticmethod
    @override
    def arrays(cut: Cut) -> list[ArrayPlan]:
        chunks = cut.grid.chunk_columns
        if cut.layout == "factored":
            return [cut.column("slope", ("hidden", cut.shapes.m), chunks=chunks)]
        return [cut.column("jacobian", cut.output, cut.input, chunks=chunks)]


class Value(Product):
    """Y, computed on the way to the slopes."""

    name = "value"

    @staticmethod
    @override
    def arrays(cut: Cut) -> list[ArrayPlan]:
        return [cut.column("value", cut.output)]


# In the order in which a store lists them
PRODUCTS: Mapping[str, type[Product]] = {
    product.name: product
    for product in (Jacobian, Value, Norm, SpectralNorm, Mean, MeanAbs, MaxAbs, Gram)
}


def needs_blocks(names: Sequence[str], layout: str, *, elementwise: bool = True) -> bool:
    """Return whether a run must form blocks: to store them, or because a product needs them."""
    return any(
        layout == "dense"
        if name == "jacobian"
        else name != "value" and not (elementwise and PRODUCTS[name].of_slopes)
        for name in names
    )


def kept_bytes(names: Sequence[str], shapes: Shapes) -> int:
    """Return the bytes that a process keeps to make products of slopes, for all its threads."""
    of_slopes = [PRODUCTS[name] for name in names if PRODUCTS[name].of_slopes]
    weights64 = 8 * shapes.m * (shapes.n + shapes.q) if of_slopes else 0
    return weights64 + sum(product.kept_bytes(shapes) for product in of_slopes)


def thread_bytes(names: Sequence[str], shapes: Shapes, strip: int, itemsize: int) -> int:
    """Return the bytes that a thread needs to make the products of a strip of columns."""
    others = [PRODUCTS[name] for name in names if name not in ("jacobian", "value")]
    return sum(product.thread_bytes(shapes, strip, itemsize) for product in others)


def make_arrays(
    shapes: Shapes, products: Sequence[str], dtype: str, grid: Grid, layout: str = "dense"
) -> tuple[ArrayPlan, ...]:
    """Plan the arrays that a run makes; of those written per block, the main one is last."""
    cut = Cut(shapes, dtype, grid, layout)
    chosen = [PRODUCTS[name] for name in reversed(list(PRODUCTS)) if name in products]
    return tuple(array for product in chosen for array in product.arrays(cut))
