"""Make a plan that fits a cluster from shapes, options and the cluster's size: pure arithmetic."""

from __future__ import annotations

import math
from bisect import bisect_right
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

__all__ = ["make_plan"]

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


def make_plan(
    shapes: Shapes,
    *,
    products: tuple[str, ...],
    dtype: str,
    x_itemsize: int,
    x_chunk_columns: int = 1,
    working_itemsize: int,
    kernel_bytes: int,
    strip_columns: int,
    compression: str,
    objects: bool = False,
    capacity: Capacity,
    block_size: int | Literal["auto"] = "auto",
    chunk_size: int | Literal["auto"] = "auto",
    grid: Grid | None = None,
    layout: Literal["dense", "factored"] = "dense",
    tile_columns: int = 1,
    work: Work,
) -> Plan:
    """Plan a run.

    Parameters
    ----------
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
    compression
        none, lz4 or zstd.
    objects
        Whether X or the store lies in an object store.
    block_size, chunk_size
        Bytes, or auto.
    grid
        Grid of an existing store; block_size and chunk_size are then ignored.
    layout
        dense or factored.
    tile_columns
        Columns whose blocks are computed together.
    work
        Work per column.

    Raises
    ------
    TooLargeError
        The plan does not fit a worker's memory.
    """
    itemsize = 4 if dtype == "float32" else 8
    main = "jacobian" in products
    # Without the tensor, a column's largest intermediate array determines the blocks
    numbers = max(shapes.n, shapes.m, shapes.q)
    if main:
        numbers = shapes.q * shapes.n if layout == "dense" else shapes.m
    column_bytes = numbers * itemsize
    forms_blocks = needs_blocks(products, layout, elementwise=work.has_slopes)
    # Bytes of per-block statistics, which do not depend on the grid
    parts = sum(
        math.prod(array.shards) * array.itemsize
        for array in make_arrays(shapes, products, dtype, Grid(shapes.p, 1, 1), layout)
        if array.per_block and array.dimensions[0] != "column"
    )
    x_chunk = min(x_chunk_columns, shapes.p)

    chunk = shapes.p if chunk_size == "auto" else max(1, chunk_size // column_bytes)
    if grid is not None:
        chunk = grid.chunk_columns

    def needed(columns: int) -> dict[str, int]:
        kept = {"process": _PROCESS_BYTES, "weights and kernel": kernel_bytes}
        if objects:
            kept["object store"] = _CLIENT_BYTES
        terms = _thread_memory(
            shapes,
            products,
            itemsize,
            x_itemsize * _window(columns, x_chunk, shapes.p),
            working_itemsize,
            columns,
            min(columns, strip_columns),
            compression,
            column_bytes if main else 0,
            parts,
            layout,
            tile_columns * shapes.q * shapes.n * itemsize if forms_blocks else 0,
            work,
        )
        needs = {t: capacity.threads_per_worker * size for t, size in terms.items()}
        stored = main and layout == "dense"
        if stored and columns % tile_columns == 0 and tile_columns <= chunk:
            # Whole tiles are computed in place; only X's last tile may be partial and need a buffer
            needs["tensor tile"] = terms["tensor tile"]
        return kept | needs

    kept = grid is not None
    if grid is None:
        room = None
        if capacity.memory_per_worker is not None:
            # The most columns whose block fits
            usable = _usable(capacity.memory_per_worker)
            room = bisect_right(
                range(1, shapes.p + 1), usable, key=lambda columns: sum(needed(columns).values())
            )
        # Only the main array has chunks smaller than a block; the others are read by the block
        finest = chunk_size if main else shapes.p * column_bytes
        grid = make_grid(
            shapes.p,
            column_bytes,
            block_size,
            finest,
            room,
            chunk_bytes=DENSE_CHUNK_BYTES if layout == "dense" else FACTORED_CHUNK_BYTES,
            # Blocks so large that their statistics are small beside them
            least=-(-_BLOCK_OVER_PARTS * parts // column_bytes),
            tile=tile_columns,
        )
    arrays = make_arrays(shapes, products, dtype, grid, layout)
    memory = needed(min(grid.block_columns, shapes.p))
    rate = _blocks_per_second(shapes, work, dtype, grid, capacity)
    batch = _batch(rate, grid, capacity, x_chunk)
    # A thread keeps the chunk in which its next task begins
    x_reads = _reads(min(batch * grid.block_columns, shapes.p), x_chunk)
    x_reads = min(x_reads, float(capacity.total_threads))
    plan = Plan(
        shapes, work, products, dtype, grid, arrays, memory, capacity, batch, x_reads, rate / batch
    )
    _check_memory(plan, block_size, kept=kept)
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


def _thread_memory(
    shapes: Shapes,
    products: tuple[str, ...],
    itemsize: int,
    x_row_bytes: int,
    working: int,
    columns: int,
    strip: int,
    compression: str,
    main_bytes: int,
    parts: int,
    layout: str,
    tile_bytes: int,
    work: Work,
) -> dict[str, int]:
    """Return the bytes that a thread holds for a block of `columns` columns, term by term."""
    terms = {
        "columns of X": shapes.n * (x_row_bytes + working * strip),
        "hidden units": _HIDDEN_COPIES * work.slope_numbers * working * strip,
    }
    if main_bytes:
        block = main_bytes * columns
        terms["tensor block" if layout == "dense" else "slope block"] = block
        if compression != "none":
            # The compressed chunks, and the shard that they are joined to
            terms["encoding"] = 2 * block
    if tile_bytes:
        terms["tensor tile"] = tile_bytes
    if tile_bytes and work.scratch_bytes:
        terms["products of layers"] = work.scratch_bytes
    others = [name for name in products if name not in ("jacobian", "value")]
    if others:
        # Their shards, and the arrays from which those are made
        made = thread_bytes(products, shapes, strip, itemsize)
        terms["products"] = parts + itemsize * 2 * columns + made
    if "value" in products:
        terms["values"] = shapes.q * (itemsize * columns + 2 * working * strip)
    return terms


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
        f"({terms}), but has {format_bytes(available)}, of which Dask lets it use {_USABLE:.0%}. "
        f"To fix this, {', or '.join(options)}."
    )
