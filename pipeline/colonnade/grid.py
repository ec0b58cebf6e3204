"""How columns fall into blocks, shards and chunks: pure arithmetic.

A block is a run of columns, of which a task computes one or several, and one shard of each array.

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

# Blocks of this size hide a task's fixed costs; fewer bytes where that leaves too few blocks to
# share out, but not so few that the fixed costs show.
_BLOCK_BYTES = 64 * MIB
_SMALLEST_BLOCK = MIB
_BLOCKS = 32
# Smaller ones serve a reader of one column better, larger ones the matrix product
DENSE_CHUNK_BYTES = 16 * MIB
# Slopes of some hundred columns, from which a reader computes a tensor's chunk
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
    """How p columns fall into blocks and chunks; a store keeps the grid that it was made with."""

    columns: int
    block_columns: int
    chunk_columns: int

    @property
    def blocks(self) -> int:
        """Number of blocks; the last may hold fewer columns."""
        return -(-self.columns // self.block_columns)

    @property
    def problem(self) -> str | None:
        """What makes it unusable, if anything does."""
        if not 1 <= self.chunk_columns <= self.block_columns <= self.columns <= STORE_COLUMNS:
            return "its sizes must be 1 ≤ chunk_columns ≤ block_columns ≤ columns ≤ 2⁶⁰"
        if self.block_columns % self.chunk_columns:
            return "block_columns must be a multiple of chunk_columns"
        chunks = -(-self.columns // self.chunk_columns)
        if self.blocks > STORE_BLOCKS or chunks > STORE_CHUNKS:
            return f"{self.blocks:,} blocks in {chunks:,} chunks are more than {STORE_BLOCKS:,}"
        return None

    def bounds(self, block: int) -> tuple[int, int]:
        """First column of a block, and the one after its last."""
        start = block * self.block_columns
        return start, min(start + self.block_columns, self.columns)

    def count(self, blocks: Iterable[int]) -> int:
        """Columns that these blocks hold."""
        return sum(stop - start for start, stop in map(self.bounds, blocks))


@dataclass(frozen=True, slots=True)
class ArrayPlan:
    """One array of the store. `per_block`: each task writes one whole shard of it."""

    name: str
    shape: tuple[int, ...]
    shards: tuple[int, ...]
    chunks: tuple[int, ...]
    dimensions: tuple[str, ...]
    dtype: str
    per_block: bool

    @property
    def fill_value(self) -> float:
        """What is read where nothing was written: no count, and no number."""
        return 0 if self.dtype == "int64" else math.nan

    @property
    def itemsize(self) -> int:
        """Bytes of one of its numbers."""
        return int(self.dtype[-2:]) // 8

    @property
    def bytes(self) -> int:
        """Bytes of its numbers, without checksums, indexes and the padding of the last shard."""
        return math.prod(self.shape) * self.itemsize


def make_grid(
    p: int,
    column_bytes: int,
    block_size: int | Literal["auto"],
    chunk_size: int | Literal["auto"],
    room: int | None,
    *,
    chunk_bytes: int = DENSE_CHUNK_BYTES,
    least: int = 1,
    tile: int = 1,
) -> Grid:
    """Cut p columns into blocks and chunks of these sizes.

    Both are whole tiles where they are larger than one, and a block that is sized automatically is
    a tile at the least: what a tile has in common is then computed once.

    Parameters
    ----------
    column_bytes
        Bytes of what a column is measured by.
    block_size, chunk_size
        Bytes, or auto.
    room
        Columns of a block at most; None where memory sets no bound.
    chunk_bytes
        What auto means for a chunk.
    least
        Columns of a block of automatic size at the least.
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
    chunk = whole(max(1, (chunk_bytes if chunk_size == "auto" else chunk_size) // column_bytes))
    if chunk >= block:
        return Grid(p, block, block)
    return Grid(p, block // chunk * chunk, chunk)


def count_plan(name: str, grid: Grid) -> ArrayPlan:
    """Plan an array of each block's count of columns that are not finite.

    A block without any writes no chunk of it: where all is well, it costs nothing.
    """
    shape = (grid.blocks,)
    return ArrayPlan(name, shape, (1,), (1,), ("block",), "int64", per_block=False)
