"""Partition columns into blocks, shards and chunks: pure arithmetic.

A block is a range of columns and one shard of each array. A task computes one or several blocks.

    columns   0        B        2B       3B      p
    blocks    |   0    |   1    |   2    |   3  |      B = block_columns
    chunks    |C |C |C |C |C |C |C |C |C |C |C |       C = chunk_columns, B a multiple of C
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from colonnade.limits import STORE_BLOCKS, STORE_CHUNKS, STORE_COLUMNS

__all__ = [
    "DENSE_CHUNK_BYTES",
    "FACTORED_CHUNK_BYTES",
    "MIB",
    "ArrayPlan",
    "Grid",
    "Shapes",
    "count_plan",
    "make_grid",
]

MIB = 2**20

# Blocks of 64 MiB hide a task's fixed costs. To share out at least 32 blocks, they are smaller, but
# not below 1 MiB, where the fixed costs would show.
_BLOCK_BYTES = 64 * MIB
_SMALLEST_BLOCK = MIB
_BLOCKS = 32
# Smaller chunks favour a reader of one column, larger ones the matrix product
DENSE_CHUNK_BYTES = 16 * MIB
# Slopes of a few hundred columns, from which a reader computes a chunk of the tensor
FACTORED_CHUNK_BYTES = MIB


@dataclass(frozen=True, slots=True)
class Shapes:
    """Sizes of a job: p columns, n inputs, m hidden units, q outputs."""

    p: int
    n: int
    m: int
    q: int


@dataclass(frozen=True, slots=True)
class Grid:
    """Partition of p columns into blocks and chunks; a store keeps its initial grid."""

    columns: int
    block_columns: int
    chunk_columns: int

    @property
    def blocks(self) -> int:
        """Number of blocks; the last may hold fewer columns."""
        return -(-self.columns // self.block_columns)

    @property
    def problem(self) -> str | None:
        """Why the grid is unusable; None if it is usable."""
        if not 1 <= self.chunk_columns <= self.block_columns <= self.columns <= STORE_COLUMNS:
            return "its sizes must be 1 ≤ chunk_columns ≤ block_columns ≤ columns ≤ 2⁶⁰"
        if self.block_columns % self.chunk_columns:
            return "block_columns must be a multiple of chunk_columns"
        chunks = -(-self.columns // self.chunk_columns)
        if self.blocks > STORE_BLOCKS or chunks > STORE_CHUNKS:
            return f"{self.blocks:,} blocks in {chunks:,} chunks are more than {STORE_BLOCKS:,}"
        return None

    def bounds(self, block: int) -> tuple[int, int]:
        """Return the first column of a block, and the column after its last."""
        start = block * self.block_columns
        return start, min(start + self.block_columns, self.columns)

    def count(self, blocks: Iterable[int]) -> int:
        """Return the number of columns in the given blocks."""
        return sum(stop - start for start, stop in map(self.bounds, blocks))


@dataclass(frozen=True, slots=True)
class ArrayPlan:
    """One array of the store. If `per_block`, each block is one whole shard of it."""

    name: str
    shape: tuple[int, ...]
    shards: tuple[int, ...]
    chunks: tuple[int, ...]
    dimensions: tuple[str, ...]
    dtype: str
    per_block: bool

    @property
    def fill_value(self) -> float:
        """Value of entries that were never written: 0 for counts, NaN for numbers."""
        return 0 if self.dtype == "int64" else math.nan

    @property
    def itemsize(self) -> int:
        """Bytes of one number."""
        return int(self.dtype[-2:]) // 8

    @property
    def bytes(self) -> int:
        """Bytes of all numbers, without checksums, indexes and the padding of the last shard."""
        return math.prod(self.shape) * self.itemsize


def make_grid(
    p: int,
    column_bytes: int,
    block_size: int | Literal["auto"],
    chunk: int,
    room: int | None,
    *,
    least: int = 1,
    tile: int = 1,
) -> Grid:
    """Partition p columns into blocks and chunks of the given sizes.

    Blocks and chunks larger than a tile are multiples of it, and a block of automatic size is at
    least one tile, so that work shared by the columns of a tile is done once.

    Parameters
    ----------
    column_bytes
        Bytes of a column, by which sizes are measured.
    block_size
        Bytes, or auto.
    chunk
        Columns of a chunk, if a block has at least as many.
    room
        Most columns in a block of automatic size; None if memory sets no bound.
    least
        Fewest columns in a block of automatic size.
    tile
        Columns that are computed together.
    """

    def whole(columns: int) -> int:
        return columns // tile * tile if columns > tile else columns

    if block_size == "auto":
        target = min(max(p * column_bytes // _BLOCKS, _SMALLEST_BLOCK), _BLOCK_BYTES)
        wanted = min(target // column_bytes + tile // 2, _BLOCK_BYTES // column_bytes)
        nearest = wanted // tile * tile
        block = max(nearest, least, tile)
        block = block if room is None else max(1, min(block, room))
    else:
        block = max(1, block_size // column_bytes)
    block = min(whole(block), p)
    chunk = whole(chunk)
    if chunk >= block:
        return Grid(p, block, block)
    return Grid(p, block // chunk * chunk, chunk)


def count_plan(name: str, grid: Grid) -> ArrayPlan:
    """Plan an array with each block's number of columns that are not finite.

    A block without such columns writes no chunk, so the array usually takes no space.
    """
    shape = (grid.blocks,)
    return ArrayPlan(name, shape, (1,), (1,), ("block",), "int64", per_block=False)
