"""From shapes, options and a cluster to a plan that fits it: pure arithmetic."""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import Literal

from colonnade.errors import TooLargeError
from colonnade.layout import MIB, Grid, Shapes, make_arrays, make_grid
from colonnade.plan import TASKS_PER_SECOND, Capacity, Plan
from colonnade.words import counted, format_bytes

__all__ = ["make_plan"]

# A Dask worker pauses at 0.8 of its limit, so that a plan beyond it would never finish.
_USABLE = 0.8
# A worker's process with NumPy, Dask and Zarr imported, before the first block.
_PROCESS_BYTES = 90 * MIB
# obstore and its connections; it sends a shard from where it lies.
_CLIENT_BYTES = 16 * MIB
# Arrays of (m, B) alive at once: Z, σ(Z) or S′, and the temporaries of an activation.
_HIDDEN_COPIES = 4

# Tasks for each thread, at the least, so that threads end at about the same time
_TASKS_PER_THREAD = 8
# What a block costs a thread whatever its size, and what a thread computes and writes in a second,
# about: to tell how many tasks that makes
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
) -> Plan:
    """Plan a run.

    Parameters
    ----------
    products
        In the order of the job file's list: jacobian, value, norm, mean.
    dtype
        float32 or float64: of the results.
    x_itemsize, working_itemsize
        Bytes of one number of X, and of one number of what lies between X and the results.
    x_chunk_columns
        Columns of X that are read at the least: those of a chunk of its file.
    kernel_bytes
        Bytes that a worker keeps between blocks for the weights and what is made of them.
    strip_columns
        Columns whose pre-activations and slopes are held at a time.
    compression
        none, lz4 or zstd.
    objects
        Whether X or the store lies in an object store.
    block_size, chunk_size
        Bytes, or auto.
    grid
        That of a store which exists; the sizes above are then not asked.

    Raises
    ------
    TooLargeError
        The plan does not fit a worker's memory.
    """
    itemsize = 4 if dtype == "float32" else 8
    dense = "jacobian" in products
    # A job without the tensor is cut by what it works on instead
    column_bytes = (shapes.q * shapes.n if dense else max(shapes.n, shapes.m, shapes.q)) * itemsize
    x_chunk = min(x_chunk_columns, shapes.p)

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
        )
        return kept | {t: capacity.threads_per_worker * size for t, size in terms.items()}

    kept = grid is not None
    if grid is None:
        room = None
        if capacity.memory_per_worker is not None:
            # The most columns whose block fits
            usable = _usable(capacity.memory_per_worker)
            room = bisect_right(
                range(1, shapes.p + 1), usable, key=lambda columns: sum(needed(columns).values())
            )
        # The other arrays are read by the block: only the tensor is cut finer
        finest = chunk_size if dense else shapes.p * column_bytes
        grid = make_grid(shapes.p, column_bytes, block_size, finest, room)
    arrays = make_arrays(shapes, products, dtype, grid)
    memory = needed(min(grid.block_columns, shapes.p))
    rate = _blocks_per_second(shapes, dtype, grid, capacity)
    batch = _batch(rate, grid, capacity, x_chunk)
    x_reads = _reads(min(batch * grid.block_columns, shapes.p), x_chunk)
    plan = Plan(
        shapes, products, dtype, grid, arrays, memory, capacity, batch, x_reads, rate / batch
    )
    _check_memory(plan, block_size, kept=kept)
    return plan


def _usable(memory: int) -> int:
    return int(_USABLE * memory)


def _blocks_per_second(shapes: Shapes, dtype: str, grid: Grid, capacity: Capacity) -> float:
    numbers = grid.block_columns * shapes.q * shapes.n
    seconds = (
        _SECONDS_PER_BLOCK
        + 2 * shapes.m * numbers / _FLOPS_PER_SECOND[dtype]
        + numbers * (4 if dtype == "float32" else 8) / _BYTES_PER_SECOND
    )
    return capacity.total_threads / seconds


def _batch(blocks_per_second: float, grid: Grid, capacity: Capacity, x_chunk: int) -> int:
    """Blocks of a task: few tasks for the scheduler, whole chunks of X, but work for everyone."""
    wanted = max(blocks_per_second / TASKS_PER_SECOND, x_chunk / grid.block_columns)
    share = grid.blocks // (_TASKS_PER_THREAD * capacity.total_threads)
    return max(1, min(math.ceil(wanted), share))


def _window(columns: int, chunk: int, p: int) -> int:
    """Columns of X that are held for a block: whole chunks of it, and the block's own copy."""
    return columns if chunk == 1 else columns + min(p, (-(-columns // chunk) + 1) * chunk)


def _reads(columns: int, chunk: int) -> float:
    """How often X is read where a task takes so many columns, and reads whole chunks.

    A task begins p / columns times and reads a chunk then; it reads another at each end of a
    chunk, p / chunk times, that is not also a task's.
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
) -> dict[str, int]:
    """Bytes that a thread holds for a block of so many columns, term by term."""
    terms = {
        "columns of X": shapes.n * (x_row_bytes + working * strip),
        "hidden units": _HIDDEN_COPIES * shapes.m * working * strip,
    }
    if "jacobian" in products:
        tensor = shapes.q * shapes.n * itemsize * columns
        terms["tensor block"] = tensor
        if compression != "none":
            # The chunks as they are compressed, and the shard that they are joined to
            terms["encoding"] = 2 * tensor
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
        options.append("lower cluster.workers, whose memory the others then share")
    if columns > 1 and kept:
        options.append("make the store anew (--overwrite) with a lower output.block_size")
    elif columns > 1:
        now = "" if block_size == "auto" else f" (now {format_bytes(block_size)})"
        options.append(f"lower output.block_size{now}")
    raise TooLargeError(
        f"a worker needs {format_bytes(plan.memory_needed)} for blocks of "
        f"{counted(columns, 'column')} on {counted(plan.capacity.threads_per_worker, 'thread')} "
        f"({terms}), and has {format_bytes(available)}, of which Dask lets it use {_USABLE:.0%}. "
        f"To mend it, {', or '.join(options)}."
    )
