"""The products that a store may hold: their arrays, definitions and shortcuts."""

from colonnade.compute.products.base import BlockAccumulator, Product
from colonnade.compute.products.registry import (
    PRODUCTS,
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
