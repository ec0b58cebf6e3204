"""The base class of products: their arrays, and how they process a block."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from colonnade.buffers import Buffers
from colonnade.compute.kernel import Kernel
from colonnade.grid import ArrayPlan, Grid, Shapes

__all__ = ["BlockAccumulator", "Cut", "Product", "slices"]

# Bytes of float64 that a product works on at a time: about a core's L2 cache
_SLICE_BYTES = 2**20


class BlockAccumulator:
    """A block's rows of the arrays, and the sums that products keep until the block ends.

    Parameters
    ----------
    view
        Returns a view of an array's rows, given its name, the first row and the one after the last.

    Attributes
    ----------
    start
        Position in the block of the first column that products currently process.
    """

    def __init__(self, view: Callable[[str, int, int], NDArray[Any]]) -> None:
        self._view = view
        self.start = 0
        self.kept: dict[str, NDArray[np.float64]] = {}

    def columns(self, name: str, first: int, stop: int) -> NDArray[Any]:
        """View some of the rows of the columns that are currently processed."""
        return self._view(name, self.start + first, self.start + stop)

    def part(self, name: str) -> NDArray[Any]:
        """View the block's part of a statistic."""
        part: NDArray[Any] = self._view(name, 0, 1)[0]
        return part

    def add(self, name: str, part: NDArray[Any]) -> None:
        """Add to the sum that is kept under a name, in float64."""
        if name in self.kept:
            self.kept[name] += part
        else:
            self.kept[name] = part.astype(np.float64)


class Cut(NamedTuple):
    """The parameters on which a store's arrays depend."""

    shapes: Shapes
    dtype: str
    grid: Grid
    layout: str

    def column(self, name: str, *others: tuple[str, int], chunks: int | None = None) -> ArrayPlan:
        """Plan an array with a row for each column; a shard holds a block's rows."""
        dimensions, sizes = ("column", *(d for d, _ in others)), tuple(s for _, s in others)
        p, B = self.grid.columns, self.grid.block_columns
        return ArrayPlan(
            name, (p, *sizes), (B, *sizes), (chunks or B, *sizes), dimensions, self.dtype,
            per_block=True,
        )  # fmt: skip

    def statistic(
        self, name: str, *axes: tuple[str, int], dtype: str = "float64"
    ) -> list[ArrayPlan]:
        """Plan a statistic over all columns, and the array of each block's part of it."""
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
    """A product. Each block calls `begin`, then `slopes` or `blocks` several times, then `end`.

    A process has one instance of each product; a block's state is in its `BlockAccumulator`.

    Attributes
    ----------
    of_slopes
        Whether `slopes` can compute the product if σ is elementwise; `blocks` always can.
    made_of
        The array from which `final` makes the product's statistic, if it has one.
    statistic
        The name of the statistic.
    largest
        Whether the statistic is the largest of the rows; else it is their mean.
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
        """Plan the product's arrays; the one that a task writes last comes last."""
        raise NotImplementedError

    @staticmethod
    def kept_bytes(shapes: Shapes) -> int:  # noqa: ARG004 (for those that keep something)
        """Return the bytes that a process keeps for `slopes`, besides U and W in float64."""
        return 0

    @staticmethod
    def thread_bytes(shapes: Shapes, strip: int, itemsize: int) -> int:  # noqa: ARG004
        """Return how many bytes a thread needs for `strip` columns, taken slice by slice."""
        return 8 * shapes.q * shapes.n + 3 * min(_SLICE_BYTES, 8 * shapes.m * strip)

    def begin(self, rows: BlockAccumulator) -> None:
        """Begin a block."""

    def slopes(self, S: NDArray[Any], rows: BlockAccumulator) -> None:
        """Process the slopes (m, b) of some of a block's columns."""
        raise NotImplementedError

    def blocks(self, T: NDArray[Any], rows: BlockAccumulator) -> None:
        """Process the tensor (b, q, n) of some of a block's columns."""
        raise NotImplementedError

    def end(self, rows: BlockAccumulator) -> None:
        """End a block."""

    def float64(self, A: NDArray[Any]) -> NDArray[np.float64]:
        """Copy A to float64, in a buffer that the thread's next copy reuses."""
        copy = self.buffers.array("float64", A.shape, np.float64)
        copy[...] = A
        return copy

    @classmethod
    def final(cls, parts: Iterable[NDArray[Any]], p: int) -> Any:
        """Make the statistic from all rows of `made_of`, which come in parts, in order.

        `p` is the number of columns. If the largest is sought, rows are not negative.
        """
        found: Any = 0.0
        for part in parts:
            # The largest is NaN if any entry is
            found = np.maximum(found, part.max(axis=0)) if cls.largest else found + part.sum(axis=0)
        return found if cls.largest else found / p


def slices(A: NDArray[Any], numbers: int) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield parts of A along its first axis, with their starts, for `numbers` numbers per row."""
    width = max(1, _SLICE_BYTES // (8 * numbers))
    for k in range(0, len(A), width):
        yield k, A[k : k + width]
