"""Lists in a job, or in files that it names: names along a dimension, standard deviations."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

from colonnade.inputs.labels import names_problem, scale_problem
from colonnade.job.values import number
from colonnade.storage.locations import file_path

__all__ = ["Deviations", "Names"]


def _names(given: Any) -> tuple[str, ...] | str:
    if isinstance(given, str):
        return file_path(given)
    if not isinstance(given, list | tuple) or not given:
        raise ValueError("allowed: a list of names, or a file's path")
    if not all(isinstance(name, str) for name in given):
        raise ValueError(
            "allowed: names that are texts; quote a name that YAML reads as another type"
        )
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
