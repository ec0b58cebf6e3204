"""Values that several sections of a job file have: bytes, counts, seconds, addresses."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal

from dask.utils import parse_bytes
from pydantic import BeforeValidator, PlainValidator, WithJsonSchema

from colonnade.errors import has_credentials
from colonnade.labels import names_problem, scale_problem
from colonnade.locations import file_path

__all__ = ["Address", "Count", "Deviations", "Names", "Seconds", "Size", "Whole", "number"]


def number(given: Any) -> float:
    """Take a number, also as text: ${VAR} is that, and so is 1e-3 to YAML; NaN where it is none."""
    try:
        usable = isinstance(given, int | float | str) and not isinstance(given, bool)
        return float(given) if usable else math.nan
    except (ValueError, OverflowError):
        return math.nan


def _size(given: Any) -> int | Literal["auto"]:
    """Bytes from 'auto', 1048576, '64 MiB'."""
    if given == "auto":
        return "auto"
    # The length first: on spaces without end the pattern takes the square of their time
    text = isinstance(given, str) and len(given) <= _LONGEST and re.fullmatch(_SIZE, given)
    size = parse_bytes(given) if text else given
    if isinstance(size, bool | str) or not isinstance(size, int | float):
        raise ValueError("allowed: auto, or bytes such as 67108864 or '64 MiB'")
    if not 1 <= size < _LARGEST_SIZE:
        raise ValueError("allowed: auto, or from one byte to 8 EiB")
    return int(size)


def _whole(given: Any) -> int:
    found = number(given)
    if not 1 <= found <= _MOST or found != int(found):
        raise ValueError(f"allowed: a whole number from 1 to {_MOST}")
    return int(found)


def _count(given: Any) -> int | Literal["auto"]:
    if given == "auto":
        return "auto"
    try:
        return _whole(given)
    except ValueError as error:
        raise ValueError(str(error).replace(":", ": auto, or", 1)) from None


def _seconds(given: Any) -> float:
    if not 0 < number(given) < math.inf:
        raise ValueError("allowed: a number of seconds above 0")
    return number(given)


def _address(given: Any) -> str:
    if not isinstance(given, str) or not re.match(_ADDRESS, given):
        raise ValueError("allowed: a scheduler's address such as tcp://10.0.0.1:8786")
    if has_credentials(given):
        raise ValueError(_NO_CREDENTIALS)
    return given


def _names(given: Any) -> tuple[str, ...] | str:
    if isinstance(given, str):
        return file_path(given)
    if not isinstance(given, list | tuple) or not given:
        raise ValueError("allowed: a list of names, or a file's path")
    if not all(isinstance(name, str) for name in given):
        raise ValueError("allowed: names that are texts; quote what YAML takes for something else")
    problem = names_problem(given)
    if problem:
        raise ValueError(problem)
    return tuple(given)


def _deviations(given: Any) -> tuple[float, ...] | str:
    if isinstance(given, str):
        return file_path(given)
    if not isinstance(given, list | tuple) or not given:
        raise ValueError("allowed: a list of numbers, a file's path, or an array in X's store")
    numbers = tuple(number(value) for value in given)
    problem = scale_problem(numbers, divisor=False)
    if problem:
        raise ValueError(problem)
    return numbers


# The store keeps the job, and whoever reads the store reads it
_NO_CREDENTIALS = "allowed: no user or password in an address; they belong into the environment"
# The same sizes as text for the job and for its JSON Schema
_SIZE = r"\s*[0-9]+(\.[0-9]*)?([eE][0-9]{1,2})?\s*([kKmMgGtTpP][iI]?)?[bB]?\s*"
_LONGEST = 40
_LARGEST_SIZE = 2**63
_MOST = 10**6
_ADDRESS = r"^(tcp|tls|ws|wss|ucx)://.+"
_WHOLE_SCHEMA: dict[str, Any] = {"type": "integer", "minimum": 1, "maximum": _MOST}

Size = Annotated[
    int | Literal["auto"],
    PlainValidator(_size),
    WithJsonSchema(
        {
            "anyOf": [
                {"const": "auto"},
                {"type": "integer", "minimum": 1, "exclusiveMaximum": _LARGEST_SIZE},
                {"type": "string", "pattern": f"^{_SIZE}$"},
            ]
        }
    ),
]
Whole = Annotated[int, PlainValidator(_whole), WithJsonSchema(_WHOLE_SCHEMA)]
Count = Annotated[
    int | Literal["auto"],
    PlainValidator(_count),
    WithJsonSchema({"anyOf": [{"const": "auto"}, _WHOLE_SCHEMA]}),
]
Seconds = Annotated[
    float, PlainValidator(_seconds), WithJsonSchema({"type": "number", "exclusiveMinimum": 0})
]
_AddressSchema = WithJsonSchema({"type": "string", "pattern": _ADDRESS})
Address = Annotated[str, PlainValidator(_address), _AddressSchema]
Names = Annotated[
    tuple[str, ...] | str,
    BeforeValidator(_names),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": r"\S"},
                {"type": "array", "items": {"type": "string", "pattern": r"\S"}, "minItems": 1},
            ]
        }
    ),
]
Deviations = Annotated[
    tuple[float, ...] | str,
    BeforeValidator(_deviations),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": r"\S"},
                {"type": "array", "items": {"type": "number", "minimum": 0}, "minItems": 1},
            ]
        }
    ),
]
