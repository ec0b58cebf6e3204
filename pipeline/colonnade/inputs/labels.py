"""Names and standard deviations of inputs and outputs, and the coordinates of X."""

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

# Characters that a terminal or JSON cannot take, or that nobody would see
_NO_NAME = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def names_problem(names: Iterable[str]) -> str | None:
    """Describe why texts cannot be the names along a dimension; return None if they can."""
    seen: set[str] = set()
    size = 0
    for at, name in enumerate(names):
        if not name.strip() or _NO_NAME.search(name):
            return f"name {at} is empty or has control characters: {sanitize(repr(name))}"
        if len(name) > NAME_CHARACTERS:
            return f"name {at} has more than {NAME_CHARACTERS} characters: {sanitize(name)}"
        if name in seen:
            return f"{sanitize(repr(name))} occurs twice; names must differ"
        seen.add(name)
        size += len(name.encode()) + 3
    if size > NAMES_BYTES:
        return f"the names take more than {NAMES_BYTES:,} bytes; shorten them"
    return None


def scale_problem(numbers: Iterable[float], *, divisor: bool) -> str | None:
    """Describe why numbers cannot be standard deviations; return None if they can.

    Those of inputs may be 0; those of outputs are divisors, and may not.
    """
    size = 0
    for at, number in enumerate(numbers):
        if not math.isfinite(number) or number < 0 or (divisor and number == 0):
            allowed = "a number above 0" if divisor else "0 or a number above it"
            return f"value {at} is {number!r}; a standard deviation must be {allowed}"
        size += len(repr(number)) + 2
    if size > NAMES_BYTES:
        return f"the numbers take more than {NAMES_BYTES:,} bytes as text; give fewer digits"
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
    """Names and standard deviations in a store's record; they can change, the tensor stays.

    Attributes
    ----------
    output_names, input_names
        (q,), (n,): names.
    output_std, input_std
        (q,), (n,): standard deviations.
    copied
        Dimensions whose numeric coordinates are copied from X's own store.
    left_out
        For each coordinate of X's store that is not copied, its dimension and the reason.
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
        """Names by dimension, for the dimensions that have any."""
        known = {"output": self.output_names, "input": self.input_names}
        return {dimension: names for dimension, names in known.items() if names is not None}

    @property
    def scale(self) -> dict[str, tuple[float, ...]]:
        """Standard deviations by dimension, for the dimensions that have any."""
        known = {"output": self.output_std, "input": self.input_std}
        return {dimension: std for dimension, std in known.items() if std is not None}

    def problem(self, sizes: dict[str, int]) -> str | None:
        """Describe the first list that does not fit its dimension; return None if all fit."""
        for what, lists in (("names", self.names), ("standard deviations", self.scale)):
            for dimension, values in lists.items():
                if len(values) != sizes[dimension]:
                    return f"{len(values)} {what} for {sizes[dimension]} {dimension}s"
        if 0 in (self.output_std or ()):
            return "a standard deviation of the outputs is 0; it must be above 0"
        return None


@dataclass(frozen=True, eq=False)
class Coordinate:
    """Numbers along a dimension of X, from its own store.

    Attributes
    ----------
    values
        A NumPy array, or a Zarr array, which is read in part.
    attributes
        CF attributes, such as units.
    first, size
        First value that belongs to X, and number of values.
    """

    values: Any
    attributes: dict[str, Any]
    first: int
    size: int

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Read a range as `dtype`; raise InputError if it cannot be read."""
        try:
            part = np.asarray(self.values[self.first + start : self.first + stop])
        # Damaged chunks can make zarr and its codecs raise any exception
        except Exception as error:
            name = self.attributes.get("long_name")
            message = f"{name}, a coordinate of X's own store, cannot be read: {one_line(error)}"
            raise InputError(message) from error
        return part.astype("M8[ns]").astype(np.int64) if part.dtype.kind == "M" else part

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the array that `read` returns."""
        kind = np.dtype(self.values.dtype)
        return np.dtype(np.int64) if kind.kind == "M" else kind.newbyteorder("=")
