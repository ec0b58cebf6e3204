"""The inputs and the output of an operator in an ONNX graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from colonnade.network.weights.expressions import Expression, Z, recognised
from colonnade.network.weights.steps import Dense, Step

__all__ = ["Node", "Value"]


@dataclass(frozen=True)
class Value:
    """A tensor of the graph: `expression`, elementwise in z, where z is the result of `steps`.

    Attributes
    ----------
    axis
        Axis of the features: 1 where a sample is a row, 0 where it is a column, None while
        unknown.
    flat
        Whether the tensor has at most two dimensions, as far as known.
    """

    steps: tuple[Step, ...] = ()
    expression: Expression = Z
    axis: int | None = None
    flat: bool = True

    def settled(self) -> tuple[Step, ...]:
        """Return the steps up to this tensor, including the expression."""
        return (*self.steps, *recognised(self.expression))

    @property
    def width(self) -> int | None:
        """Number of features, or None before the first layer."""
        for step in reversed(self.steps):
            if isinstance(step, Dense):
                return int(step.W.shape[0])
        return None


class Node:
    """The inputs and attributes of a node."""

    def __init__(
        self,
        node: Any,
        values: Mapping[str, Value],
        constants: Mapping[str, NDArray[Any]],
        opset: int,
    ) -> None:
        self._names = list(node.input)
        self._values, self._constants = values, constants
        self.opset = opset
        self._attributes = {a.name: a for a in node.attribute}
        self.op = node.op_type

    def data(self) -> tuple[Value, int]:
        """Return the only input that is not a constant, and its position."""
        places = [i for i, name in enumerate(self._names) if name in self._values]
        if len(places) != 1:
            raise ValueError("it must have exactly one input that is not a constant")
        return self._values[self._names[places[0]]], places[0]

    def first(self) -> Value:
        """Return the first input, where the others are parameters; KeyError if it is constant."""
        return self._values[self._names[0]]

    def inputs(self) -> list[Value | NDArray[Any]]:
        """Return all inputs; KeyError if one is neither a constant nor a value."""
        return [self._values[n] if n in self._values else self._constants[n] for n in self._names]

    def constant(self, place: int) -> NDArray[Any] | None:
        """Return a constant input, or None if it is omitted."""
        if place >= len(self._names) or not self._names[place]:
            return None
        return self._constants[self._names[place]]

    def number(self, name: str, default: float) -> float:
        """Return a float attribute."""
        given = self._attributes.get(name)
        return default if given is None else float(given.f)

    def whole(self, name: str, default: int) -> int:
        """Return an integer attribute."""
        given = self._attributes.get(name)
        return default if given is None else int(given.i)

    def many(self, name: str) -> list[Any]:
        """Return a list attribute of numbers, empty if it is absent."""
        given = self._attributes.get(name)
        return [] if given is None else list(given.floats) or list(given.ints)

    def text(self, name: str, default: str) -> str:
        """Return a string attribute."""
        given = self._attributes.get(name)
        return default if given is None else str(given.s.decode(errors="replace"))
