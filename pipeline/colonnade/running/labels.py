"""Find and check a job's names and scales: in the job, in a file, or in X's own store."""

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

from colonnade.errors import ColonnadeError, JobError, listed, one_line, sanitize
from colonnade.inputs import InputMatrix
from colonnade.inputs.coordinates import array_beside, coordinate_beside
from colonnade.inputs.labels import Coordinate, Dimension, Labels, names_problem, scale_problem
from colonnade.inputs.name_matching import Pairing
from colonnade.job import Job
from colonnade.limits import NAMES_FILE_BYTES
from colonnade.network.network import Network
from colonnade.network.weights.npz import load_npz
from colonnade.storage import place_at
from colonnade.storage.locations import StorageOptions, storage_texts
from colonnade.storage.npy.file import read_array
from colonnade.storage.regularfiles import read_regular
from colonnade.storage.urls import is_url

__all__ = ["find_labels", "network_names"]


def find_labels(
    job: Job, columns: InputMatrix, pairing: Pairing, sizes: Mapping[str, int]
) -> tuple[Labels, dict[Dimension, Coordinate]]:
    """Find a job's names and scales, and the numeric coordinates of X's own store.

    Parameters
    ----------
    columns
        X, with its features in the network's order.
    pairing
        The names of X's features and of the network's inputs.
    sizes
        Sizes of the dimensions input and output.

    Raises
    ------
    JobError
        Names or scales cannot be read, or do not fit the network.
    """
    network, scale = job.network, job.output.scale
    found: dict[str, Any] = {
        "output_names": _names("output", network.output_names, network.storage_options, sizes)
    }
    if scale is not None:
        for side, given in (("output", scale.output_std), ("input", scale.input_std)):
            found[f"{side}_std"] = _deviations(side, given, job, columns, pairing, sizes)
    coordinates: dict[Dimension, Coordinate] = {}
    left_out: list[str] = []
    dimensions: tuple[Literal["input", "column"], ...] = ("input", "column")
    # X's names describe what was read; without any, the network's names replace them
    of_network = pairing.features is None and pairing.inputs is not None
    for dimension in dimensions:
        try:
            of_x = dimension == "column" or not of_network
            here = coordinate_beside(columns, dimension) if of_x else None
            if here is not None:
                coordinates[dimension] = here
            elif dimension == "input":
                found["input_names"] = _usable(pairing.names)
        except ValueError as error:
            left_out.append(f"{dimension}, since {error}")
    return Labels(**found, copied=tuple(coordinates), left_out=tuple(left_out)), coordinates


def network_names(job: Job, network: Network) -> tuple[str, ...] | None:
    """Return the names of a network's inputs: the job's, or else its file's; None without either.

    Raises
    ------
    JobError
        The job's names cannot be read, are too many or too few, or give one of the file's names to
        another input.
    """
    settings, declared = job.network, network.input_names
    sizes = {"input": network.n}
    given = _names("input", settings.input_names, settings.storage_options, sizes)
    if given is None or declared is None:
        return declared if given is None else given
    places = {name: at for at, name in enumerate(declared)}
    for at, name in enumerate(given):
        if declared[at] != name and name in places:
            raise JobError(
                f"network.input_names: input {at} is {sanitize(repr(name))}, but that is input "
                f"{places[name]} in {settings.weights}, whose input {at} is "
                f"{sanitize(repr(declared[at]))}. Leave network.input_names out: X's features are "
                "matched with the file's names."
            )
    return given


def _usable(names: tuple[str, ...] | None) -> tuple[str, ...] | None:
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
        raise ValueError("a .json file of names must hold a list of strings")
    return tuple(listed)


def _deviations(
    dimension: str,
    given: tuple[float, ...] | str | None,
    job: Job,
    columns: InputMatrix,
    pairing: Pairing,
    sizes: Mapping[str, int],
) -> tuple[float, ...] | None:
    if given is None:
        return None
    key = f"output.scale.{dimension}_std"
    where = key if isinstance(given, tuple) else f"{key} {given}"
    numbers: Iterable[Any] = given
    with _telling(where):
        beside = array_beside(columns, given) if isinstance(given, str) else None
        if dimension == "input" and beside is not None:
            beside = _wanted(beside, columns)
        elif dimension == "input" and pairing.order is not None:
            raise ValueError(
                "X's features are put into the network's order, and it is unknown whether these "
                "numbers are in that order or in X's. Give input.features in the network's order, "
                f"[{listed(pairing.features or ())}], and the numbers in the same order"
            )
        if isinstance(given, str):
            if beside is None:
                data = _content(given, job.output.storage_options)
                beside = _numbers_of(given, data, f"{dimension}_std")
            if beside.ndim != 1 or beside.dtype.kind not in "iuf":
                raise ValueError(
                    f"it holds {beside.dtype} {beside.shape}; give a one-dimensional array of "
                    "numbers"
                )
            numbers = beside.tolist()
        std = tuple(float(number) for number in numbers)
        problem = scale_problem(std, divisor=dimension == "output")
        if problem:
            raise ValueError(problem)
    _count(where, std, "numbers", dimension, sizes)
    return std


def _wanted(numbers: NDArray[Any], columns: InputMatrix) -> NDArray[Any]:
    """Select the numbers of the features that the job reads, in its order, from all in the file."""
    if columns.features is None:
        return numbers
    held = columns.source.shape[0]
    if numbers.shape != (held,):
        raise ValueError(
            f"it holds {numbers.dtype} {numbers.shape}; give a number for each of the {held:,} "
            "features of X's array, from which input.features selects"
        )
    return numbers[list(columns.features)]


def _numbers_of(path: str, data: bytes, name: str) -> NDArray[Any]:
    suffix = Path(path).suffix.lower()
    if suffix == ".npy":
        return read_array(io.BytesIO(data))
    if suffix == ".npz":
        arrays = load_npz(path, io.BytesIO(data)).arrays
        if name in arrays or len(arrays) == 1:
            return arrays[name] if name in arrays else next(iter(arrays.values()))
        raise ValueError(
            f"it has no array {name}, but {sanitize(', '.join(arrays))}: rename the array, or "
            "store it alone"
        )
    return np.array([float(number) for number in data.decode().split()])


def _content(path: str, options: StorageOptions | None) -> bytes:
    if is_url(path):
        return place_at(path, storage_texts(options)).read("", NAMES_FILE_BYTES)
    file = Path(os.path.expanduser(path))  # noqa: PTH111 (keeps the ~ of an unknown user)
    return read_regular(file, NAMES_FILE_BYTES)


def _count(
    key: str, values: tuple[Any, ...], what: str, dimension: str, sizes: Mapping[str, int]
) -> None:
    if len(values) != sizes[dimension]:
        raise JobError(
            f"{key}: given {len(values):,} {what}; the network has {sizes[dimension]:,} "
            f"{dimension}s. Give one for each."
        )


@contextmanager
def _telling(key: str) -> Iterator[None]:
    """Turn errors into a JobError that names the key of the job."""
    try:
        yield
    except FileNotFoundError:
        raise JobError(f"{key}: there is no such file.") from None
    except (OSError, ValueError, RecursionError, ColonnadeError) as error:
        raise JobError(f"{key}: {one_line(error).rstrip('.')}.") from error
