"""What a store may hold: each product's arrays, its definition, and its way around the tensor."""

from colonnade.compute.products.registry import (
    PRODUCTS,
    BlockAccumulator,
    Product,
    kept_bytes,
    make_arrays,
    needs_blocks,
    thread_bytes,
)

__all__ = [
    "PRODUCTS",
    "BlockAccumulator",
    "Product",
    "kept_bytes",
    "make_arrays",
    "needs_blocks",
    "thread_bytes",
]
