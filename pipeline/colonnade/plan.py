"""From shapes, options and memory to blocks, shards, chunks and bytes: pure arithmetic.

A block is a run of columns: what one task computes, and one shard of each array that it writes.

    columns   0        B        2B       3B      p
    blocks    |   0    |   1    |   2    |   3  |      B = block_columns
    chunks    |C |C |C |C |C |C |C |C |C |C |C |       C = chunk_columns, B a multiple of C
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from colonnade.errors import TooLargeError

__all__ = [
    "ArrayPlan", "Capacity", "Grid", "Plan", "Shapes", "format_bytes", "make_arrays", "make_plan"
]  # fmt: skip

MIB = 2**20

# Blocks of this size hide a task's fixed costs; fewer bytes where that leaves too few blocks to
# share out, but not so few that the fixed costs show.
_BLOCK_BYTES = 64 * MIB
_SMALLEST_BLOCK = MIB
_BLOCKS = 64
_CHUNK_BYTES = 8 * MIB

# A Dask worker pauses at 0.8 of its limit, so that a plan beyond it would never finish.
_USABLE = 0.8
# A worker's process with NumPy, SciPy, Dask and Zarr imported, before the first block.
_PROCESS_BYTES = 200 * MIB
# Arrays of (m, B) alive at once: Z, σ(Z) or S′, and the temporaries of an activation.
_HIDDEN_COPIES = 4


@dataclass(frozen=True, slots=True)
class Shapes:
    """Sizes of a job: p columns, n inputs, m hidden units, q outputs."""

    p: int
    n: int
    m: int
    q: int


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a cluster gives: workers, threads of each, and bytes of each (None: not known)."""

    workers: int
    threads_per_worker: int
    memory_per_worker: int | None


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
    def itemsize(self) -> int:
        """Bytes of one of its numbers."""
        return int(self.dtype[-2:]) // 8

    @property
    def bytes(self) -> int:
        """Bytes of its numbers, without checksums, indexes and the padding of the last shard."""
        return math.prod(self.shape) * self.itemsize


@dataclass(frozen=True)
class Plan:
    """A finished plan: look at it, then run it. Sizes in bytes.

    Attributes
    ----------
    memory
        What a worker needs, term by term.
    memory_per_worker
        What a worker has; None where it is not known yet.
    """

    shapes: Shapes
    products: tuple[str, ...]
    dtype: str
    grid: Grid
    arrays: tuple[ArrayPlan, ...]
    memory: dict[str, int]
    capacity: Capacity

    @property
    def block_bytes(self) -> int:
        """Bytes that one task writes."""
        shards = (array for array in self.arrays if array.per_block)
        return sum(math.prod(array.shards) * array.itemsize for array in shards)

    @cached_property
    def output_bytes(self) -> int:
        """Bytes of the finished store's numbers."""
        return sum(array.bytes for array in self.arrays)

    @property
    def memory_needed(self) -> int:
        """Bytes that a worker needs at its peak."""
        return sum(self.memory.values())

    def __str__(self) -> str:
        shapes, grid, capacity = self.shapes, self.grid, self.capacity
        available = capacity.memory_per_worker
        lines = [
            (
                f"columns   p = {shapes.p:,}; inputs n = {shapes.n:,}, "
                f"hidden units m = {shapes.m:,}, outputs q = {shapes.q:,}; {self.dtype}"
            ),
            (
                f"blocks    {_counted(grid.blocks, 'task')} of "
                f"{_counted(grid.block_columns, 'column')}, {format_bytes(self.block_bytes)} each; "
                f"chunks of {_counted(grid.chunk_columns, 'column')}"
            ),
            f"output    {format_bytes(self.output_bytes)} in all",
            *(
                f"  {array.name:10} {' × '.join(map(str, array.dimensions)):24} "
                f"{' × '.join(f'{size:,}' for size in array.shape):24} "
                f"{format_bytes(array.bytes)}"
                for array in self.arrays
            ),
            f"memory    a worker needs {format_bytes(self.memory_needed)} of "
            + (
                "an amount that the cluster will tell"
                if available is None
                else format_bytes(available)
            ),
            *(f"  {term:20} {format_bytes(size)}" for term, size in self.memory.items()),
            (
                f"cluster   {capacity.workers} × {capacity.threads_per_worker} "
                "(workers × threads of each)"
            ),
        ]
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as plain values, for JSON."""
        grid = self.grid
        return {
            "shapes": {name: getattr(self.shapes, name) for name in "pnmq"},
            "products": list(self.products),
            "dtype": self.dtype,
            "blocks": grid.blocks,
            "block_columns": grid.block_columns,
            "chunk_columns": grid.chunk_columns,
            "block_bytes": self.block_bytes,
            "output_bytes": self.output_bytes,
            "arrays": [
                {
                    "name": array.name,
                    "dimensions": list(array.dimensions),
                    "shape": list(array.shape),
                    "shards": list(array.shards),
                    "chunks": list(array.chunks),
                    "dtype": array.dtype,
                    "bytes": array.bytes,
                }
                for array in self.arrays
            ],
            "memory": {
                "needed": self.memory_needed,
                "available": self.capacity.memory_per_worker,
                "terms": dict(self.memory),
            },
            "cluster": {
                "workers": self.capacity.workers,
                "threads_per_worker": self.capacity.threads_per_worker,
            },
        }


def make_plan(
    shapes: Shapes,
    *,
    products: tuple[str, ...],
    dtype: str,
    x_itemsize: int,
    working_itemsize: int,
    kernel_bytes: int,
    strip_columns: int,
    compression: str,
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
    kernel_bytes
        Bytes that a worker keeps between blocks for the weights and what is made of them.
    strip_columns
        Columns whose pre-activations and slopes are held at a time.
    compression
        none, lz4 or zstd.
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

    def needed(columns: int) -> dict[str, int]:
        kept = {"process": _PROCESS_BYTES, "weights and kernel": kernel_bytes}
        terms = _thread_memory(
            shapes,
            products,
            itemsize,
            x_itemsize,
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
        grid = _make_grid(shapes.p, column_bytes, block_size, finest, room)
    arrays = make_arrays(shapes, products, dtype, grid)
    memory = needed(min(grid.block_columns, shapes.p))
    plan = Plan(shapes, products, dtype, grid, arrays, memory, capacity)
    _check_memory(plan, block_size, kept=kept)
    return plan


def _usable(memory: int) -> int:
    return int(_USABLE * memory)


def _thread_memory(
    shapes: Shapes,
    products: tuple[str, ...],
    itemsize: int,
    x_itemsize: int,
    working: int,
    columns: int,
    strip: int,
    compression: str,
) -> dict[str, int]:
    """Bytes that a thread holds for a block of so many columns, term by term."""
    terms = {
        "columns of X": shapes.n * (x_itemsize * columns + working * strip),
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


def _make_grid(
    p: int,
    column_bytes: int,
    block_size: int | Literal["auto"],
    chunk_size: int | Literal["auto"],
    room: int | None,
) -> Grid:
    if block_size == "auto":
        target = min(max(p * column_bytes // _BLOCKS, _SMALLEST_BLOCK), _BLOCK_BYTES)
        block = max(1, target // column_bytes)
        block = block if room is None else max(1, min(block, room))
    else:
        block = max(1, block_size // column_bytes)
    block = min(block, p)
    chunk = max(1, (_CHUNK_BYTES if chunk_size == "auto" else chunk_size) // column_bytes)
    if chunk >= block:
        return Grid(p, block, block)
    return Grid(p, block // chunk * chunk, chunk)


def make_arrays(
    shapes: Shapes, products: tuple[str, ...], dtype: str, grid: Grid
) -> tuple[ArrayPlan, ...]:
    """Arrays that the run makes, the main one last of those that are written per block."""
    p, n, m, q = shapes.p, shapes.n, shapes.m, shapes.q
    B, C = grid.block_columns, grid.chunk_columns
    column, out, inp = "column", "output", "input"
    known = {
        "mean": [
            ArrayPlan("mean", (q, n), (q, n), (q, n), (out, inp), dtype, per_block=False),
            # A block's Σ_k s′_k; kept, so that a resumed run sums what an undisturbed one sums
            ArrayPlan(
                "slope_sum", (grid.blocks, m), (1, m), (1, m), ("block", "hidden"), "float64",
                per_block=True,
            ),
        ],
        "norm": [ArrayPlan("norm", (p,), (B,), (B,), (column,), dtype, per_block=True)],
        "value": [ArrayPlan("value", (p, q), (B, q), (B, q), (column, out), dtype, per_block=True)],
        "jacobian": [
            ArrayPlan(
                "jacobian", (p, q, n), (B, q, n), (C, q, n), (column, out, inp), dtype,
                per_block=True,
            )
        ],
    }  # fmt: skip
    return tuple(array for name, arrays in known.items() if name in products for array in arrays)


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
        f"{_counted(columns, 'column')} on {_counted(plan.capacity.threads_per_worker, 'thread')} "
        f"({terms}), and has {format_bytes(available)}, of which Dask lets it use {_USABLE:.0%}. "
        f"To mend it, {', or '.join(options)}."
    )


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def format_bytes(size: float) -> str:
    """Write bytes as people do: 1.5 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if round(size) < 1024 or unit == "TiB":
            return f"{size:,.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError
