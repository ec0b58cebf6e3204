"""What a product is: its arrays, and what it does with a block."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from colonnade.buffers import Buffers
from colonnade.compute.kernel import Kernel
from colonnade.grid import ArrayPlan, Grid, Shapes

__all__ = ["BlockAccumulator", "Cut", "Product", "slices"]

# Bytes of float64 that a product works on at a time: about a core's second-level cache
_SLICE_BYTES = 2**20


class BlockAccumulator:
    """A block's rows of the arrays, and what its products keep until it ends.

    Parameters
    ----------
    view
        Views an array's rows: its name, the first of them, and the one after the last.

    Attributes
    ----------
    start
        Where the columns that are given to products begin in the block.
    """

    def __init__(self, view: Callable[[str, int, int], NDArray[Any]]) -> None:
        self._view = view
        self.start = 0
        self.kept: dict[str, NDArray[np.float64]] = {}

    def columns(self, name: str, first: int, stop: int) -> NDArray[Any]:
        """View some of the rows of the columns that are given."""
        return self._view(name, self.start + first, self.start + stop)

    def part(self, name: str) -> NDArray[Any]:
        """View the block's part in a statistic."""
        part: NDArray[Any] = self._view(name, 0, 1)[0]
        return part

    def add(self, name: str, part: NDArray[Any]) -> None:
        """Add to what is kept under a name, in float64."""
        if name in self.kept:
            self.kept[name] += part
        else:
            self.kept[name] = part.astype(np.float64)


class Cut(NamedTuple):
    """What the arrays of a store depend on."""

    shapes: Shapes
    dtype: str
    grid: Grid
    layout: str

    def column(self, name: str, *others: tuple[str, int], chunks: int | None = None) -> ArrayPlan:
        """Plan an array with a row for each column, of which a task writes a block's."""
        dimensions, sizes = ("column", *(d for d, _ in others)), tuple(s for _, s in others)
        p, B = self.grid.columns, self.grid.block_columns
        return ArrayPlan(
            name, (p, *sizes), (B, *sizes), (chunks or B, *sizes), dimensions, self.dtype,
            per_block=True,
        )  # fmt: skip

    def statistic(
        self, name: str, *axes: tuple[str, int], dtype: str = "float64"
    ) -> list[ArrayPlan]:
        """Plan a statistic over all columns, and the array of each block's part in it."""
        dimensions, shape = tuple(d for d, _ in axes), tuple(s for _, s in axes)
        blocks, one = (self.grid.blocks, *shape), (1, *shape)
        return [
            ArrayPlan(name, shape, shape, shape, dimensions, self.dtype, per_block=False),
            ArrayPlan(
                f"{name}_blocks", blocks, one, one, ("block", *dimensions), dtype, per_block=True
            ),
        ]

    @property
    def output(self) -> tuple[str, int]:
        """The dimension of the outputs."""
        return "output", self.shapes.q

    @property
    def input(self) -> tuple[str, int]:
        """The dimension of the inputs."""
        return "input", self.shapes.n


class Product:
    """One product: for each block `begin`, `slopes` or `blocks` some times, and `end`.

    A process has one of each; what belongs to a block is in its `BlockAccumulator`.

    Attributes
    ----------
    of_slopes
        Whether `slopes` computes it where σ acts on each entry alone; `blocks` always does.
    made_of
        The array that `final` makes the product's statistic of, if it has any.
    statistic
        The name of that.
    largest
        Whether it is the largest of the rows; else it is their mean.
    """

    name: ClassVar[str]
    of_slopes: ClassVar[bool] = False
    made_of: ClassVar[str | None] = None
    statistic: ClassVar[str] = ""
    largest: ClassVar[bool] = False

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.buffers = Buffers()

    @staticmethod
    def arrays(cut: Cut) -> list[ArrayPlan]:
        """Plan its arrays, the one that a task writes last, last."""
        raise NotImplementedError

    @staticmethod
    def kept_bytes(shapes: Shapes) -> int:  # noqa: ARG004 (for those that keep something)
        """Count what a process keeps for `slopes`, beside U and W in float64."""
        return 0

    @staticmethod
    def thread_bytes(shapes: Shapes, strip: int, itemsize: int) -> int:  # noqa: ARG004
        """Count what a thread takes to make it of a strip of so many columns, in slices."""
        return 8 * shapes.q * shapes.n + 3 * min(_SLICE_BYTES, 8 * shapes.m * strip)

    def begin(self, rows: BlockAccumulator) -> None:
        """Begin a block."""

    def slopes(self, S: NDArray[Any], rows: BlockAccumulator) -> None:
        """Take the slopes (m, b) of some of a block's columns."""
        raise NotImplementedError

    def blocks(self, T: NDArray[Any], rows: BlockAccumulator) -> None:
        """Take the tensor (b, q, n) of some of a block's columns."""
        raise NotImplementedError

    def end(self, rows: BlockAccumulator) -> None:
        """End a block."""

    def float64(self, A: NDArray[Any]) -> NDArray[np.float64]:
        """Copy A to where the thread's next copy is going to be."""
        copy = self.buffers.array("float64", A.shape, np.float64)
        copy[...] = A
        return copy

    @classmethod
    def final(cls, parts: Iterable[NDArray[Any]], p: int) -> Any:
        """Make the statistic of all rows of `made_of`, some at a time, in their order.

        `p` is the number of columns. Rows to find the largest of are not negative.
        """
        found: Any = 0.0
        for part in parts:
            # The largest is NaN where anything is
            found = np.maximum(found, part.max(axis=0)) if cls.largest else found + part.sum(axis=0)
        return found if cls.largest else found / p


def slices(A: NDArray[Any], numbers: int) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield parts of A along its first axis, of which each takes that many numbers a row."""
    width = max(1, _SLICE_BYTES // (8 * numbers))
    for k in range(0, len(A), width):
        yield k, A[k : k + width]
