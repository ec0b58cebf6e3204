"""What a run would do, as a value to look at, and to run: pure arithmetic."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, NamedTuple

from colonnade.errors import sanitize
from colonnade.formatting import counted, format_bytes, format_seconds
from colonnade.grid import ArrayPlan, Grid, Shapes

__all__ = ["TASKS_PER_SECOND", "Calibration", "Capacity", "Feature", "Plan", "Work"]

# Tasks a second that a scheduler is asked to pass; it passes about three times as many on two
# cores that it shares with the workers
TASKS_PER_SECOND = 200
# Readings of X from which on the plan warns
_TOO_OFTEN = 2
# Features that a plan's text tells
_FEW = 4


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a cluster gives: workers, threads of each, and bytes of each (None: not known)."""

    workers: int
    threads_per_worker: int
    memory_per_worker: int | None

    @property
    def total_threads(self) -> int:
        """Threads of all workers."""
        return self.workers * self.threads_per_worker


@dataclass(frozen=True, slots=True)
class Calibration:
    """What blocks took that were computed to see: mean seconds of one on one thread."""

    blocks: int
    seconds_read: float
    seconds_compute: float
    seconds_write: float

    @property
    def seconds_per_block(self) -> float:
        """Seconds of one block, all in all."""
        return self.seconds_read + self.seconds_compute + self.seconds_write


class Feature(NamedTuple):
    """What one of the network's inputs is.

    Attributes
    ----------
    input, feature
        The network's name of it, and X's; None where that side has no names.
    place
        The number of the feature in X, from 0 on, as the job's section input has it.
    """

    input: str | None
    feature: str | None
    place: int


@dataclass(frozen=True, slots=True)
class Work:
    """What a column takes.

    Attributes
    ----------
    order
        The order of the products, as W2 D1 W1.
    flops, forward_flops
        Floating-point operations of its block, and of its slopes.
    slope_numbers
        Numbers of its slopes.
    scratch_bytes
        What a thread takes for products of some columns on the way to their blocks.
    has_slopes
        Whether its slopes are a vector of m numbers: one hidden layer, σ elementwise.
    """

    order: str
    flops: int
    forward_flops: int
    slope_numbers: int
    scratch_bytes: int = 0
    has_slopes: bool = True


@dataclass(frozen=True)
class Plan:
    """A finished plan: look at it, then run it. Sizes in bytes.

    Attributes
    ----------
    work
        What a column takes.
    memory
        What a worker needs, term by term.
    batch
        Blocks that one task computes, one after the other.
    x_reads
        How many times X is read from its disk, all in all; more than once where its chunks hold
        the columns of several tasks.
    tasks_per_second
        Tasks that the scheduler is going to pass in a second, about.
    calibration
        What some of its blocks took, if they have been timed.
    features
        What each of the network's inputs is, in the network's order, where one side has names.
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
        """Seconds that all blocks take on the whole cluster, if some of them have been timed."""
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
        """Bytes of the main array in each layout; empty where the tensor is not kept."""
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
        width = max(len(array.name) for array in self.arrays)
        lines = [
            (
                f"columns   p = {shapes.p:,}; inputs n = {shapes.n:,}, "
                f"hidden units m = {shapes.m:,}, outputs q = {shapes.q:,}; {self.dtype}"
            ),
            *self._told_features(),
            (
                f"work      {self.work.order}: {self.work.flops / 1e6:,.3g} Mflop a column, and "
                f"{self.work.forward_flops / 1e6:,.3g} for the slopes"
            ),
            (
                f"blocks    {grid.blocks:,} of {counted(grid.block_columns, 'column')}, "
                f"{format_bytes(self.block_bytes)} each; "
                f"chunks of {counted(grid.chunk_columns, 'column')}"
            ),
            f"tasks     {self.tasks:,} of {counted(self.batch, 'block')}{self._told_rate()}",
            f"output    {format_bytes(self.output_bytes)} in all",
            *(
                f"  {array.name:{width}} {' × '.join(map(str, array.dimensions)):29} "
                f"{' × '.join(f'{size:,}' for size in array.shape):24} "
                f"{format_bytes(array.bytes)}"
                for array in self.arrays
            ),
            *self._told_layouts(),
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
        timed = self.calibration
        if timed is not None and self.seconds is not None:
            lines.append(
                f"time      about {format_seconds(self.seconds)}, and some to start: a block takes "
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

    def _told_features(self) -> list[str]:
        """Tell how X's features and the network's inputs belong together, where that has names."""
        if not self.features:
            return []
        first, few = self.features[0], self.features[:_FEW]
        more = ", …" * (len(self.features) > _FEW)
        if first.input is None or first.feature is None:
            names = ", ".join(sanitize(str(f.input or f.feature), 40) for f in few)
            whose = "X" if first.input is None else "the network"
            return [f"features  {names}{more}: names that {whose} alone has; X's order is taken"]
        if all(feature.place == at for at, feature in enumerate(self.features)):
            names = ", ".join(sanitize(str(feature.input), 40) for feature in few)
            return [f"features  {names}{more}: the same names in the network and in X"]
        pairs = ", ".join(f"{sanitize(str(f.feature), 40)} (number {f.place} of X)" for f in few)
        return [f"features  {pairs}{more}: matched by name, in the network's order"]

    def _told_rate(self) -> str:
        # Few tasks are none to the scheduler, however fast they come
        if self.tasks < TASKS_PER_SECOND:
            return ""
        rate = counted(math.ceil(self.tasks_per_second), "task")
        return f"; about {rate} a second (a scheduler passes {TASKS_PER_SECOND} and more)"

    def _told_layouts(self) -> list[str]:
        sizes = self.layouts
        if not sizes:
            return []
        told = ", ".join(f"{layout} {format_bytes(size)}" for layout, size in sizes.items())
        smaller = min(sizes, key=lambda layout: sizes[layout])
        verdict = f"{smaller} is the smaller"
        if len(set(sizes.values())) == 1:
            verdict = "they are alike"
        return [f"layouts   {told}: {verdict} (output.layout)"]

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as plain values, for JSON."""
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
