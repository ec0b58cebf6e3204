"""What an operator of an ONNX graph is given, and what it makes."""

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
    """What a tensor of the graph is: elementwise in z, behind the steps that lead to z.

    Attributes
    ----------
    axis
        Along which the features lie: 1 where a sample is a row, 0 where it is a column; None
        before anything tells.
    flat
        Whether it is a matrix, as far as one knows.
    """

    steps: tuple[Step, ...] = ()
    expression: Expression = Z
    axis: int | None = None
    flat: bool = True

    def settled(self) -> tuple[Step, ...]:
        """Return the steps up to here, the expression among them."""
        return (*self.steps, *recognised(self.expression))

    @property
    def width(self) -> int | None:
        """Features, where a layer tells them."""
        for step in reversed(self.steps):
            if isinstance(step, Dense):
                return int(step.W.shape[0])
        return None


class Node:
    """A node's inputs and attributes."""

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
        """Return the one input that is no constant, and its place."""
        places = [i for i, name in enumerate(self._names) if name in self._values]
        if len(places) != 1:
            raise ValueError("it has more than one input that is no constant")
        return self._values[self._names[places[0]]], places[0]

    def first(self) -> Value:
        """Return the first input, where others are parameters; KeyError if it is a constant."""
        return self._values[self._names[0]]

    def inputs(self) -> list[Value | NDArray[Any]]:
        """Return all of them; KeyError where one is neither a constant nor a value."""
        return [self._values[n] if n in self._values else self._constants[n] for n in self._names]

    def constant(self, place: int) -> NDArray[Any] | None:
        """Return a constant input, or None where it is left out."""
        if place >= len(self._names) or not self._names[place]:
            return None
        return self._constants[self._names[place]]

    def number(self, name: str, default: float) -> float:
        """Return a number among its attributes."""
        given = self._attributes.get(name)
        return default if given is None else float(given.f)

    def whole(self, name: str, default: int) -> int:
        """Return a whole number among its attributes."""
        given = self._attributes.get(name)
        return default if given is None else int(given.i)

    def many(self, name: str) -> list[Any]:
        """Return the numbers of an attribute, or none."""
        given = self._attributes.get(name)
        return [] if given is None else list(given.floats) or list(given.ints)

    def text(self, name: str, default: str) -> str:
        """Return a text among its attributes."""
        given = self._attributes.get(name)
        return default if given is None else str(given.s.decode(errors="replace"))
