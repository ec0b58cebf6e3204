"""Choose the order in which to multiply a chain of layers: pure arithmetic.

J = W_L D_(L−1) W_(L−1) … D_1 W_1. The D differ from column to column, the W do not. A product of
neighbours is one of four kinds, of 2rmc flops each for (r × m) D (m × c):

    W D W   both are weights, as in a network with one hidden layer: a `DiagonalProduct`
    P D W   P differs from column to column: P is scaled, then one matrix product for many columns
    W D P   the same, transposed
    P D P   a small matrix product for each column
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

__all__ = ["MatrixProduct", "cheapest"]

# Costs of a kind in addition to its flops, measured like those in `diagonal.choose_method`: scaling
# a row of P takes as long as 25 flops for each of its numbers, and small matrix products are slower
_SCALE, _SMALL, _TRANSPOSE = 25.0, 0.5, 50.0


@dataclass(frozen=True)
class MatrixProduct:
    """The product W_last D … D W_first, layers counted from 1 at X; a single layer has no parts.

    Attributes
    ----------
    sizes
        Sizes of the whole network: inputs, hidden units of each layer, outputs.
    """

    first: int
    last: int
    sizes: tuple[int, ...]
    left: MatrixProduct | None = None
    right: MatrixProduct | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.sizes[self.last], self.sizes[self.first - 1]

    @property
    def is_layer(self) -> bool:
        """Whether it is a weight matrix, the same at all columns."""
        return self.left is None

    @property
    def parts(self) -> tuple[MatrixProduct, MatrixProduct]:
        """The factors to the left and right of the D that is multiplied last."""
        assert self.left is not None  # noqa: S101 (for the type checker)
        assert self.right is not None  # noqa: S101
        return self.left, self.right

    @property
    def inner(self) -> int:
        """Number, from 1, of the hidden layer between the parts."""
        return self.parts[1].last

    @property
    def flops(self) -> int:
        """Floating-point operations per column, without those of the D."""
        if self.is_layer:
            return 0
        left, right = self.parts
        return left.flops + right.flops + 2 * left.shape[0] * left.shape[1] * right.shape[1]

    @property
    def numbers(self) -> int:
        """How many numbers per column all intermediate products have."""
        if self.is_layer:
            return 0
        return sum(part.numbers + (not part.is_layer) * _area(part) for part in self.parts)

    def __str__(self) -> str:
        if self.is_layer:
            return f"W{self.first}"
        left, right = (f"{part}" if part.is_layer else f"({part})" for part in self.parts)
        return f"{left} D{self.inner} {right}"


def _area(product: MatrixProduct) -> int:
    return product.shape[0] * product.shape[1]


@lru_cache
def cheapest(sizes: tuple[int, ...]) -> MatrixProduct:
    """Return the cheapest order for a network of these sizes: inputs, hidden units, outputs."""
    layers = len(sizes) - 1
    best: dict[tuple[int, int], tuple[float, MatrixProduct]] = {
        (i, i): (0.0, MatrixProduct(i, i, sizes)) for i in range(1, layers + 1)
    }
    for length in range(2, layers + 1):
        for first in range(1, layers - length + 2):
            last = first + length - 1
            ways = []
            for middle in range(first, last):
                (cost_right, right), (cost_left, left) = best[first, middle], best[middle + 1, last]
                product = MatrixProduct(first, last, sizes, left, right)
                ways.append((cost_left + cost_right + _cost(product), product))
            best[first, last] = min(ways, key=lambda way: way[0])
    return best[1, layers][1]


def _cost(product: MatrixProduct) -> float:
    (left, right), (r, c) = product.parts, product.shape
    m = left.shape[1]
    if left.is_layer and right.is_layer:
        more = min(_SCALE / c, _SCALE / r)
    elif right.is_layer:
        more = _SCALE / c
    elif left.is_layer:
        more = _SCALE / r + _TRANSPOSE / m
    else:
        more = _SCALE / c + _SMALL
    return 2.0 * r * m * c * (1 + more)
