"""Names and scales of a job, found and checked: in the job, in a file, in X's own store."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from colonnade.columns import Columns
from colonnade.columns.beside import array_beside, coordinate_beside
from colonnade.errors import ColonnadeError, JobError, reason, shown
from colonnade.job import Job
from colonnade.labels import Coordinate, Dimension, Labels, names_problem, scale_problem
from colonnade.limits import NAMES_FILE_BYTES
from colonnade.npy.file import read_array
from colonnade.places import place_at
from colonnade.places.locations import StorageOptions, storage_texts
from colonnade.places.regularfiles import read_regular
from colonnade.places.urls import is_url
from colonnade.weights.npz import load_npz

__all__ = ["find_labels"]


def find_labels(
    job: Job, columns: Columns, sizes: Mapping[str, int]
) -> tuple[Labels, dict[Dimension, Coordinate]]:
    """Find a job's names and scales, and the coordinates of X's own store that are numbers.

    Parameters
    ----------
    columns
        X.
    sizes
        Of the dimensions input and output.

    Raises
    ------
    JobError
        They cannot be read, or do not fit the network.
    """
    network, scale = job.network, job.output.scale
    found: dict[str, Any] = {
        "output_names": _names("output", network.output_names, network.storage_options, sizes),
        "input_names": _names("input", network.input_names, network.storage_options, sizes),
    }
    if scale is not None:
        found["output_std"] = _deviations("output", scale.output_std, job, columns, sizes)
        found["input_std"] = _deviations("input", scale.input_std, job, columns, sizes)
    coordinates: dict[Dimension, Coordinate] = {}
    left_out: list[str] = []
    dimensions: tuple[Literal["input", "column"], ...] = ("input", "column")
    for dimension in dimensions:
        if dimension == "input" and found["input_names"] is not None:
            continue
        try:
            here = coordinate_beside(columns, dimension)
            if here is not None:
                coordinates[dimension] = here
            elif dimension == "input":
                found["input_names"] = _own_names(columns)
        except ValueError as error:
            left_out.append(f"{dimension}, since {error}")
    return Labels(**found, copied=tuple(coordinates), left_out=tuple(left_out)), coordinates


def _own_names(columns: Columns) -> tuple[str, ...] | None:
    names = columns.feature_names
    problem = names_problem(names or ())
    if problem:
        raise ValueError(problem)
    return names


def _names(
    dimension: str,
    given: tuple[str, ...] | str | None,
    options: StorageOptions | None,
    sizes: Mapping[str, int],
) -> tuple[str, ...] | None:
    if given is None:
        return None
    key, names = f"network.{dimension}_names", given
    if isinstance(names, str):
        key = f"{key} {names}"
        with _telling(key):
            names = _names_of(names, _content(names, options).decode("utf-8-sig"))
            problem = names_problem(names)
            if problem:
                raise ValueError(problem)
    _count(key, names, "names", dimension, sizes)
    return names


def _names_of(path: str, text: str) -> tuple[str, ...]:
    if Path(path).suffix.lower() != ".json":
        return tuple(line.strip() for line in text.rstrip().splitlines())
    listed = json.loads(text)
    if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
        raise ValueError("a .json file of names holds a list of texts")
    return tuple(listed)


def _deviations(
    dimension: str,
    given: tuple[float, ...] | str | None,
    job: Job,
    columns: Columns,
    sizes: Mapping[str, int],
) -> tuple[float, ...] | None:
    if given is None:
        return None
    key = f"output.scale.{dimension}_std"
    told = key if isinstance(given, tuple) else f"{key} {given}"
    numbers: Iterable[Any] = given
    with _telling(told):
        if isinstance(given, str):
            beside = array_beside(columns, given)
            if beside is None:
                data = _content(given, job.output.storage_options)
                beside = _numbers_of(given, data, f"{dimension}_std")
            if beside.ndim != 1 or beside.dtype.kind not in "iuf":
                raise ValueError(f"it holds {beside.dtype} {beside.shape}, not a row of numbers")
            numbers = beside.tolist()
        std = tuple(float(number) for number in numbers)
        problem = scale_problem(std, divisor=dimension == "output")
        if problem:
            raise ValueError(problem)
    _count(told, std, "numbers", dimension, sizes)
    return std


def _numbers_of(path: str, data: bytes, name: str) -> NDArray[Any]:
    suffix = Path(path).suffix.lower()
    if suffix == ".npy":
        return read_array(io.BytesIO(data))
    if suffix == ".npz":
        arrays = load_npz(path, io.BytesIO(data)).arrays
        if name in arrays or len(arrays) == 1:
            return arrays[name] if name in arrays else next(iter(arrays.values()))
        raise ValueError(f"none of its arrays is {name}: {shown(', '.join(arrays))}")
    return np.array([float(number) for number in data.decode().split()])


def _content(path: str, options: StorageOptions | None) -> bytes:
    if is_url(path):
        return place_at(path, storage_texts(options)).read("", NAMES_FILE_BYTES)
    file = Path(os.path.expanduser(path))  # noqa: PTH111 (of an unknown user: left alone)
    return read_regular(file, NAMES_FILE_BYTES)


def _count(
    key: str, values: tuple[Any, ...], what: str, dimension: str, sizes: Mapping[str, int]
) -> None:
    if len(values) != sizes[dimension]:
        raise JobError(
            f"{key}: given {len(values):,} {what}; the network has {sizes[dimension]:,} "
            f"{dimension}s."
        )


@contextmanager
def _telling(key: str) -> Iterator[None]:
    """Say of which key of the job it is that a file cannot be read or used."""
    try:
        yield
    except FileNotFoundError:
        raise JobError(f"{key}: there is no such file.") from None
    except (OSError, ValueError, RecursionError, ColonnadeError) as error:
        raise JobError(f"{key}: {reason(error).rstrip('.')}.") from error
