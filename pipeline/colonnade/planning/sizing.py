"""Make a plan that fits a cluster from shapes, options and the cluster's size: pure arithmetic."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import Literal

from colonnade.compute.products import make_arrays, needs_blocks, thread_bytes
from colonnade.errors import TooLargeError
from colonnade.formatting import counted, format_bytes
from colonnade.grid import (
    DENSE_CHUNK_BYTES,
    FACTORED_CHUNK_BYTES,
    MIB,
    Grid,
    Shapes,
    make_grid,
)
from colonnade.planning.plan import TASKS_PER_SECOND, Capacity, Plan, Work

__all__ = ["PlanRequest", "make_plan"]

# A Dask worker pauses at 0.8 of its memory limit, so a plan that needs more would never finish.
_USABLE = 0.8
# A worker's process with NumPy, Dask and Zarr imported, before the first block.
_PROCESS_BYTES = 90 * MIB
# obstore and its connections; it sends a shard without a copy.
_CLIENT_BYTES = 16 * MIB
# Arrays of (m, B) alive at once: Z, σ(Z) or S′, and the temporaries of an activation.
_HIDDEN_COPIES = 4

# Least ratio of a block's bytes to the bytes of its per-block statistics
_BLOCK_OVER_PARTS = 8
# Fewest tasks per thread, so that threads end at about the same time
_TASKS_PER_THREAD = 8
# Rough costs of a block, to estimate the rate of tasks: a thread's overhead for each block, and
# what a thread computes and writes per second
_SECONDS_PER_BLOCK = 3e-3
_FLOPS_PER_SECOND = {"float32": 5e10, "float64": 2.5e10}
_BYTES_PER_SECOND = 1e9


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanRequest:
    """What a plan depends on, apart from the cluster's capacity.

    Attributes
    ----------
    work
        Work per column.
    products
        Names of the products, in the order in which a store lists them.
    dtype
        dtype of the results: float32 or float64.
    x_itemsize, working_itemsize
        Bytes of one number of X, and of one intermediate number between X and the results.
    x_chunk_columns
        Fewest columns of X that can be read: those of a chunk of its file.
    kernel_bytes
        Bytes that a worker keeps between blocks for the weights and arrays derived from them.
    strip_columns
        Columns whose pre-activations and slopes are held at a time.
    tile_columns
        Columns whose blocks are computed together.
    compression
        none, lz4 or zstd.
    objects
        Whether X or the store lies in an object store.
    block_size, chunk_size
        Bytes, or auto.
    """

    shapes: Shapes
    work: Work
    products: tuple[str, ...]
    dtype: str
    layout: Literal["dense", "factored"] = "dense"
    compression: str
    x_itemsize: int
    x_chunk_columns: int = 1
    working_itemsize: int
    kernel_bytes: int
    strip_columns: int
    tile_columns: int = 1
    objects: bool = False
    block_size: int | Literal["auto"] = "auto"
    chunk_size: int | Literal["auto"] = "auto"

    @property
    def itemsize(self) -> int:
        """Bytes of one number of the results."""
        return 4 if self.dtype == "float32" else 8

    @property
    def stores_main(self) -> bool:
        """Whether the store has the tensor, or the slopes in its place."""
        return "jacobian" in self.products

    @property
    def column_bytes(self) -> int:
        """Bytes of a column, by which block and chunk sizes are measured."""
        n, m, q = self.shapes.n, self.shapes.m, self.shapes.q
        if not self.stores_main:
            # Without the tensor, a column's largest intermediate array determines the blocks
            return max(n, m, q) * self.itemsize
        return (q * n if self.layout == "dense" else m) * self.itemsize

    @property
    def part_bytes(self) -> int:
        """Bytes of per-block statistics, which do not depend on the grid."""
        grid = Grid(self.shapes.p, 1, 1)
        arrays = make_arrays(self.shapes, self.products, self.dtype, grid, self.layout)
        return sum(
            math.prod(array.shards) * array.itemsize
            for array in arrays
            if array.per_block and array.dimensions[0] != "column"
        )

    @property
    def x_chunk(self) -> int:
        """Columns of a chunk of X."""
        return min(self.x_chunk_columns, self.shapes.p)

    @property
    def chunk(self) -> int:
        """Columns of a chunk of a new store, if a block has at least as many."""
        if not self.stores_main:
            # The other arrays are read by the block
            return self.shapes.p
        size = self.chunk_size
        if size == "auto":
            size = DENSE_CHUNK_BYTES if self.layout == "dense" else FACTORED_CHUNK_BYTES
        return max(1, size // self.column_bytes)

    def thread_memory(self, columns: int) -> dict[str, int]:
        """Return the bytes that a thread holds for a block of `columns` columns, by purpose."""
        shapes, strip = self.shapes, min(columns, self.strip_columns)
        x_row_bytes = self.x_itemsize * _window(columns, self.x_chunk, shapes.p)
        hidden = _HIDDEN_COPIES * self.work.slope_numbers * self.working_itemsize * strip
        terms = {
            "columns of X": shapes.n * (x_row_bytes + self.working_itemsize * strip),
            "hidden units": hidden,
        }
        if self.stores_main:
            block = self.column_bytes * columns
            terms["tensor block" if self.layout == "dense" else "slope block"] = block
            if self.compression != "none":
                # The compressed chunks, and the shard that they are joined to
                terms["encoding"] = 2 * block
        if needs_blocks(self.products, self.layout, elementwise=self.work.has_slopes):
            terms["tensor tile"] = self.tile_columns * shapes.q * shapes.n * self.itemsize
            if self.work.scratch_bytes:
                terms["products of layers"] = self.work.scratch_bytes
        if set(self.products) - {"jacobian", "value"}:
            # Their shards, and the arrays from which those are made
            made = thread_bytes(self.products, shapes, strip, self.itemsize)
            terms["products"] = self.part_bytes + self.itemsize * 2 * columns + made
        if "value" in self.products:
            values = self.itemsize * columns + 2 * self.working_itemsize * strip
            terms["values"] = shapes.q * values
        return terms

    def worker_memory(self, columns: int, chunk: int, threads: int) -> dict[str, int]:
        """Return the bytes that a worker holds for blocks of `columns` columns, by purpose."""
        kept = {"process": _PROCESS_BYTES, "weights and kernel": self.kernel_bytes}
        if self.objects:
            kept["object store"] = _CLIENT_BYTES
        terms = self.thread_memory(columns)
        needs = {term: threads * size for term, size in terms.items()}
        whole_tiles = columns % self.tile_columns == 0 and self.tile_columns <= chunk
        if self.stores_main and self.layout == "dense" and whole_tiles:
            # Whole tiles are computed in place; only X's last tile may be partial and need a buffer
            needs["tensor tile"] = terms["tensor tile"]
        return kept | needs


def make_plan(request: PlanRequest, capacity: Capacity, grid: Grid | None = None) -> Plan:
    """Plan a run.

    Parameters
    ----------
    grid
        Grid of an existing store; the request's sizes of blocks and chunks are then ignored.

    Raises
    ------
    TooLargeError
        The plan does not fit a worker's memory.
    """
    shapes, dtype = request.shapes, request.dtype
    chunk = request.chunk if grid is None else grid.chunk_columns

    def memory(columns: int) -> dict[str, int]:
        return request.worker_memory(columns, chunk, capacity.threads_per_worker)

    kept = grid is not None
    if grid is None:
        room = None
        if capacity.memory_per_worker is not None:
            # The most columns whose block fits
            usable = _usable(capacity.memory_per_worker)
            room = bisect_right(
                range(1, shapes.p + 1), usable, key=lambda columns: sum(memory(columns).values())
            )
        grid = make_grid(
            shapes.p,
            request.column_bytes,
            request.block_size,
            chunk,
            room,
            # Blocks so large that their statistics are small beside them
            least=-(-_BLOCK_OVER_PARTS * request.part_bytes // request.column_bytes),
            tile=request.tile_columns,
        )
    arrays = make_arrays(shapes, request.products, dtype, grid, request.layout)
    rate = _blocks_per_second(shapes, request.work, dtype, grid, capacity)
    batch = _batch(rate, grid, capacity, request.x_chunk)
    # A thread keeps the chunk in which its next task begins
    x_reads = _reads(min(batch * grid.block_columns, shapes.p), request.x_chunk)
    plan = Plan(
        shapes=shapes,
        work=request.work,
        products=request.products,
        dtype=dtype,
        grid=grid,
        arrays=arrays,
        memory=memory(min(grid.block_columns, shapes.p)),
        capacity=capacity,
        batch=batch,
        x_reads=min(x_reads, float(capacity.total_threads)),
        tasks_per_second=rate / batch,
    )
    _check_memory(plan, request.block_size, kept=kept)
    return plan


def _usable(memory: int) -> int:
    return int(_USABLE * memory)


def _blocks_per_second(
    shapes: Shapes, work: Work, dtype: str, grid: Grid, capacity: Capacity
) -> float:
    numbers = grid.block_columns * shapes.q * shapes.n
    seconds = (
        _SECONDS_PER_BLOCK
        + work.flops * grid.block_columns / _FLOPS_PER_SECOND[dtype]
        + numbers * (4 if dtype == "float32" else 8) / _BYTES_PER_SECOND
    )
    return capacity.total_threads / seconds


def _batch(blocks_per_second: float, grid: Grid, capacity: Capacity, x_chunk: int) -> int:
    """Return the blocks per task: few tasks, whole chunks of X, but work for every thread."""
    wanted = max(blocks_per_second / TASKS_PER_SECOND, x_chunk / grid.block_columns)
    share = grid.blocks // (_TASKS_PER_THREAD * capacity.total_threads)
    return max(1, min(math.ceil(wanted), share))


def _window(columns: int, chunk: int, p: int) -> int:
    """Return the columns of X held for a block: whole chunks, and the block's own copy."""
    return columns if chunk == 1 else columns + min(p, (-(-columns // chunk) + 1) * chunk)


def _reads(columns: int, chunk: int) -> float:
    """Return how often X is read if a task takes `columns` columns and reads whole chunks.

    Each of the p / columns tasks reads a chunk at its beginning. Each of the p / chunk ends of a
    chunk causes another read, unless a task ends there too.
    """
    return chunk / columns + 1 - math.gcd(columns, chunk) / columns


def _check_memory(plan: Plan, block_size: int | Literal["auto"], *, kept: bool) -> None:
    available = plan.capacity.memory_per_worker
    if available is None or plan.memory_needed <= _usable(available):
        return
    terms = ", ".join(f"{term} {format_bytes(size)}" for term, size in plan.memory.items())
    columns = plan.grid.block_columns
    options = ["raise cluster.memory_per_worker"]
    if plan.capacity.threads_per_worker > 1:
        options.append("lower cluster.threads_per_worker")
    if plan.capacity.workers > 1:
        options.append("lower cluster.workers, so that each gets more memory")
    if columns > 1 and kept:
        options.append("recreate the store (--overwrite) with a lower output.block_size")
    elif columns > 1:
        now = "" if block_size == "auto" else f" (now {format_bytes(block_size)})"
        options.append(f"lower output.block_size{now}")
    raise TooLargeError(
        f"a worker needs {format_bytes(plan.memory_needed)} for blocks of "
        f"{counted(columns, 'column')} on {counted(plan.capacity.threads_per_worker, 'thread')} "
        f"({terms}), but has {format_bytes(available)}, and Dask lets it use {_USABLE:.0%}. "
        f"To fix this, {', or '.join(options)}."
    )
