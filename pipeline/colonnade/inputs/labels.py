"""What the numbers are called, and in what they are measured: names, and standard deviations."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict

from colonnade.errors import InputError, one_line, sanitize
from colonnade.limits import NAME_CHARACTERS, NAMES_BYTES

__all__ = ["Coordinate", "Dimension", "Labels", "names_problem", "scale_problem"]

Dimension = Literal["column", "output", "input"]

# Of a name, what would not pass a terminal or JSON, or would be seen by nobody
_NO_NAME = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def names_problem(names: Iterable[str]) -> str | None:
    """Say what keeps texts from being the names along a dimension, if anything does."""
    seen: set[str] = set()
    size = 0
    for at, name in enumerate(names):
        if not name.strip() or _NO_NAME.search(name):
            return f"name {at} is empty or has control characters: {sanitize(repr(name))}"
        if len(name) > NAME_CHARACTERS:
            return f"name {at} has more than {NAME_CHARACTERS} characters: {sanitize(name)}"
        if name in seen:
            return f"{sanitize(repr(name))} is there twice; names must differ"
        seen.add(name)
        size += len(name.encode()) + 3
    if size > NAMES_BYTES:
        return f"they take more than {NAMES_BYTES:,} bytes"
    return None


def scale_problem(numbers: Iterable[float], *, divisor: bool) -> str | None:
    """Say what keeps numbers from being standard deviations, if anything does.

    Those of inputs may be 0, those of outputs, by which one divides, may not.
    """
    size = 0
    for at, number in enumerate(numbers):
        if not math.isfinite(number) or number < 0 or (divisor and number == 0):
            allowed = "a number above 0" if divisor else "0 or a number above it"
            return f"value {at} is {number!r}; a standard deviation is {allowed}"
        size += len(repr(number)) + 2
    if size > NAMES_BYTES:
        return f"they take more than {NAMES_BYTES:,} bytes"
    return None


def _named(names: tuple[str, ...] | None) -> tuple[str, ...] | None:
    problem = names_problem(names or ())
    if problem:
        raise ValueError(problem)
    return names


def _scaling(numbers: tuple[float, ...] | None) -> tuple[float, ...] | None:
    problem = scale_problem(numbers or (), divisor=False)
    if problem:
        raise ValueError(problem)
    return numbers


_Names = Annotated[tuple[str, ...] | None, AfterValidator(_named)]
_Scale = Annotated[tuple[float, ...] | None, AfterValidator(_scaling)]


class Labels(BaseModel):
    """What a store's record says of names and scales; they may change, the numbers stay.

    Attributes
    ----------
    output_names, input_names
        (q,), (n,).
    output_std, input_std
        (q,), (n,): standard deviations.
    copied
        Dimensions whose coordinates are numbers, copied from X's own store.
    left_out
        A word on each coordinate of X's store that was not.
    """

    model_config = ConfigDict(frozen=True)
    output_names: _Names = None
    input_names: _Names = None
    output_std: _Scale = None
    input_std: _Scale = None
    copied: tuple[Dimension, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def names(self) -> dict[str, tuple[str, ...]]:
        """Names by dimension, of those that have any."""
        known = {"output": self.output_names, "input": self.input_names}
        return {dimension: names for dimension, names in known.items() if names is not None}

    @property
    def scale(self) -> dict[str, tuple[float, ...]]:
        """Standard deviations by dimension, of those that have any."""
        known = {"output": self.output_std, "input": self.input_std}
        return {dimension: std for dimension, std in known.items() if std is not None}

    def problem(self, sizes: dict[str, int]) -> str | None:
        """Say which of them does not fit the sizes of the dimensions."""
        for what, lists in (("names", self.names), ("standard deviations", self.scale)):
            for dimension, values in lists.items():
                if len(values) != sizes[dimension]:
                    return f"{len(values)} {what} of {sizes[dimension]} {dimension}s"
        if 0 in (self.output_std or ()):
            return "a standard deviation of the outputs is 0"
        return None


@dataclass(frozen=True, eq=False)
class Coordinate:
    """Numbers along a dimension of X, from its own store.

    Attributes
    ----------
    values
        A NumPy array, or one of Zarr's, which is read in part.
    attributes
        Units and the like, as CF has them.
    first, size
        Which of the values.
    """

    values: Any
    attributes: dict[str, Any]
    first: int
    size: int

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Read a range, as `dtype`; InputError where that cannot be done."""
        try:
            part = np.asarray(self.values[self.first + start : self.first + stop])
        # Damaged chunks make zarr and its codecs raise whatever they please
        except Exception as error:
            name = self.attributes.get("long_name")
            told = f"{name}, a coordinate of X's own store, cannot be read: {one_line(error)}"
            raise InputError(told) from error
        return part.astype("M8[ns]").astype(np.int64) if part.dtype.kind == "M" else part

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of what `read` returns."""
        kind = np.dtype(self.values.dtype)
        return np.dtype(np.int64) if kind.kind == "M" else kind.newbyteorder("=")
