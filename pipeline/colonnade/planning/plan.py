"""The plan of a run, as a value to look at and to run: pure arithmetic."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, NamedTuple

from colonnade.errors import sanitize
from colonnade.formatting import counted, format_bytes, format_seconds
from colonnade.grid import ArrayPlan, Grid, Shapes

__all__ = ["TASKS_PER_SECOND", "Calibration", "Capacity", "Feature", "Plan", "Work"]

# Tasks per second that a scheduler is expected to handle. On two cores that it shares with the
# workers, it handles about three times as many
TASKS_PER_SECOND = 200
# The plan warns if X is read this many times or more
_TOO_OFTEN = 2
# Most features in a plan's text
_FEW = 4


@dataclass(frozen=True, slots=True)
class Capacity:
    """Size of a cluster: workers, threads per worker, and bytes per worker (None: unknown)."""

    workers: int
    threads_per_worker: int
    memory_per_worker: int | None

    @property
    def total_threads(self) -> int:
        """Threads of all workers."""
        return self.workers * self.threads_per_worker


@dataclass(frozen=True, slots=True)
class Calibration:
    """Measured times of sample blocks: mean seconds of one block on one thread."""

    blocks: int
    seconds_read: float
    seconds_compute: float
    seconds_write: float

    @property
    def seconds_per_block(self) -> float:
        """Seconds of one block in total."""
        return self.seconds_read + self.seconds_compute + self.seconds_write


class Feature(NamedTuple):
    """An input of the network, and the feature of X that it takes.

    Attributes
    ----------
    input, feature
        Its name in the network, and in X; None if that side has no names.
    place
        The feature's number, from 0, in X as the job's section input describes it.
    """

    input: str | None
    feature: str | None
    place: int


@dataclass(frozen=True, slots=True)
class Work:
    """Work per column.

    Attributes
    ----------
    order
        The order of the products, for instance W2 D1 W1.
    flops, forward_flops
        Floating-point operations for a column's block, and for its slopes.
    slope_numbers
        How many numbers a column's slopes have.
    scratch_bytes
        Bytes that a thread needs for intermediate products of some columns.
    has_slopes
        Whether a column's slopes are a vector of m numbers: one hidden layer, σ elementwise.
    """

    order: str
    flops: int
    forward_flops: int
    slope_numbers: int
    scratch_bytes: int = 0
    has_slopes: bool = True


@dataclass(frozen=True)
class Plan:
    """A finished plan: look at it, then run it. Sizes are in bytes.

    Attributes
    ----------
    work
        Work per column.
    memory
        What a worker needs, term by term.
    batch
        Blocks that one task computes, one after the other.
    x_reads
        How many times X is read from its disk in total; more than once if its chunks hold the
        columns of several tasks.
    tasks_per_second
        Approximate number of tasks that the scheduler handles per second.
    calibration
        Measured times of some blocks, if there are any.
    features
        The network's inputs, in the network's order, if the network or X has names.
    """

    shapes: Shapes
    work: Work
    products: tuple[str, ...]
    dtype: str
    grid: Grid
    arrays: tuple[ArrayPlan, ...]
    memory: dict[str, int]
    capacity: Capacity
    batch: int
    x_reads: float
    tasks_per_second: float
    calibration: Calibration | None = None
    features: tuple[Feature, ...] = ()

    @property
    def tasks(self) -> int:
        """Number of tasks."""
        return -(-self.grid.blocks // self.batch)

    @property
    def seconds(self) -> float | None:
        """Seconds that all blocks take on the whole cluster, if some blocks have been timed."""
        if self.calibration is None:
            return None
        return self.grid.blocks * self.calibration.seconds_per_block / self.capacity.total_threads

    @property
    def block_bytes(self) -> int:
        """Bytes of a block's shards."""
        shards = (array for array in self.arrays if array.per_block)
        return sum(math.prod(array.shards) * array.itemsize for array in shards)

    @cached_property
    def output_bytes(self) -> int:
        """Bytes of the finished store's numbers."""
        return sum(array.bytes for array in self.arrays)

    @property
    def layouts(self) -> dict[str, int]:
        """Bytes of the main array in each layout; empty if there is no choice of layout."""
        if "jacobian" not in self.products or not self.work.has_slopes:
            return {}
        shapes, itemsize = self.shapes, 4 if self.dtype == "float32" else 8
        numbers = {"dense": shapes.q * shapes.n, "factored": shapes.m}
        return {layout: shapes.p * count * itemsize for layout, count in numbers.items()}

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
            *self._features_text(),
            (
                f"work      {self.work.order}: {self.work.flops / 1e6:,.3g} Mflop a column, and "
                f"{self.work.forward_flops / 1e6:,.3g} for the slopes"
            ),
            (
                f"blocks    {grid.blocks:,} of {counted(grid.block_columns, 'column')}, "
                f"{format_bytes(self.block_bytes)} each; "
                f"chunks of {counted(grid.chunk_columns, 'column')}"
            ),
            f"tasks     {self.tasks:,} of {counted(self.batch, 'block')}{self._rate_text()}",
            *self._output_text(),
            f"memory    a worker needs {format_bytes(self.memory_needed)} of "
            + (
                "an amount that is known when the cluster runs"
                if available is None
                else format_bytes(available)
            ),
            *(f"  {term:20} {format_bytes(size)}" for term, size in self.memory.items()),
            (
                f"cluster   {capacity.workers} × {capacity.threads_per_worker} "
                "(workers × threads of each)"
            ),
        ]
        timed = self.calibration
        if timed is not None and self.seconds is not None:
            lines.append(
                f"time      about {format_seconds(self.seconds)}, plus the start: a block takes "
                f"{format_seconds(timed.seconds_per_block)} (read {timed.seconds_read:.2g} s, "
                f"compute {timed.seconds_compute:.2g} s, write {timed.seconds_write:.2g} s; "
                f"{counted(timed.blocks, 'block')} timed)"
            )
        if self.x_reads >= _TOO_OFTEN:
            lines.append(
                f"warning   X is read {self.x_reads:.1f} times over, because its chunks hold the "
                f"columns of several tasks ({grid.block_columns * self.batch:,} columns each). "
                "Store X in smaller chunks, or raise output.block_size."
            )
        return "\n".join(lines)

    def _output_text(self) -> list[str]:
        """Describe the arrays of the store and their sizes."""
        width = max(len(array.name) for array in self.arrays)
        return [
            f"output    {format_bytes(self.output_bytes)} in all",
            *(
                f"  {array.name:{width}} {' × '.join(map(str, array.dimensions)):29} "
                f"{' × '.join(f'{size:,}' for size in array.shape):24} "
                f"{format_bytes(array.bytes)}"
                for array in self.arrays
            ),
            *self._layouts_text(),
        ]

    def _features_text(self) -> list[str]:
        """Describe which feature of X is which input of the network, if either has names."""
        if not self.features:
            return []
        first, few = self.features[0], self.features[:_FEW]
        more = ", …" * (len(self.features) > _FEW)
        if first.input is None or first.feature is None:
            names = ", ".join(sanitize(str(f.input or f.feature), 40) for f in few)
            whose = "X" if first.input is None else "the network"
            return [f"features  {names}{more}: only {whose} has names; X's order is used"]
        if all(feature.place == at for at, feature in enumerate(self.features)):
            names = ", ".join(sanitize(str(feature.input), 40) for feature in few)
            return [f"features  {names}{more}: the same names in the network and in X"]
        pairs = ", ".join(f"{sanitize(str(f.feature), 40)} (number {f.place} of X)" for f in few)
        return [f"features  {pairs}{more}: matched by name, in the network's order"]

    def _rate_text(self) -> str:
        # A few tasks are no load for the scheduler, however fast they come
        if self.tasks < TASKS_PER_SECOND:
            return ""
        rate = counted(math.ceil(self.tasks_per_second), "task")
        return f"; about {rate} a second (a scheduler handles {TASKS_PER_SECOND} and more)"

    def _layouts_text(self) -> list[str]:
        sizes = self.layouts
        if not sizes:
            return []
        text = ", ".join(f"{layout} {format_bytes(size)}" for layout, size in sizes.items())
        smaller = min(sizes, key=lambda layout: sizes[layout])
        verdict = f"{smaller} is the smaller"
        if len(set(sizes.values())) == 1:
            verdict = "they are of equal size"
        return [f"layouts   {text}: {verdict} (output.layout)"]

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as plain values for JSON."""
        grid = self.grid
        return {
            "shapes": {name: getattr(self.shapes, name) for name in "pnmq"},
            "work": {
                "order": self.work.order,
                "flops": self.work.flops,
                "forward_flops": self.work.forward_flops,
            },
            "features": [feature._asdict() for feature in self.features],
            "products": list(self.products),
            "dtype": self.dtype,
            "blocks": grid.blocks,
            "tasks": self.tasks,
            "blocks_per_task": self.batch,
            "tasks_per_second": self.tasks_per_second,
            "x_reads": self.x_reads,
            "block_columns": grid.block_columns,
            "chunk_columns": grid.chunk_columns,
            "block_bytes": self.block_bytes,
            "output_bytes": self.output_bytes,
            "layouts": self.layouts,
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
            "seconds": self.seconds,
            "calibration": None if self.calibration is None else asdict(self.calibration),
        }
