"""Arrays next to X in its Zarr group: by name, or as the coordinates of its dimensions."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import zarr
from numpy.typing import NDArray

from colonnade.errors import one_line
from colonnade.inputs.arrays import Stacked, Variable
from colonnade.inputs.base import InputMatrix
from colonnade.inputs.labels import Coordinate
from colonnade.inputs.zarr import ZarrStored, check_chunks
from colonnade.limits import ATTRIBUTE_CHARACTERS, COORDINATE_VALUES
from colonnade.storage.decoding import bounded

__all__ = ["array_beside", "coordinate_beside"]

# CF attributes of a coordinate that remain valid for a copy
_KEPT = ("long_name", "standard_name", "units", "calendar", "axis", "scale_factor", "add_offset")
_EPOCH = {"units": "nanoseconds since 1970-01-01", "calendar": "proleptic_gregorian"}


def array_beside(columns: InputMatrix, name: str) -> NDArray[Any] | None:
    """Read a one-dimensional array of X's own group; return None if it does not exist.

    Raises
    ------
    ValueError
        The array cannot be read, has more dimensions, or is longer than X.
    """
    found = _variable(columns)
    if found is None:
        return None
    try:
        array = _member(found[1], name)
        if array is not None:
            check_chunks(array)
            if array.ndim == 1 and array.size <= max(columns.source.shape):
                return np.asarray(array[...])
    # Damaged metadata and chunks can make zarr raise any exception
    except Exception as error:
        raise ValueError(f"{name} cannot be read: {one_line(error)}") from error
    if array is not None:
        raise ValueError(
            f"{name} has the shape {array.shape}; it must have one dimension, no longer than X's"
        )
    return None


def coordinate_beside(
    columns: InputMatrix, dimension: Literal["input", "column"]
) -> Coordinate | None:
    """Return the numeric coordinate that xarray would show along a dimension of X, or None.

    Raises
    ------
    ValueError
        There is a coordinate, but it cannot be used.
    """
    found = _variable(columns)
    if found is None:
        return None
    variable, array = found
    axis, first, size = variable.features, 0, columns.n
    if dimension == "column":
        axis = variable.columns[0] if len(variable.columns) == 1 else None
        first, size = columns.first, columns.p
    name = None if axis is None else variable.stored.dims[axis]
    if axis is None or name is None:
        return None
    try:
        values = _member(array, name)
        if values is None or values.ndim != 1:
            return None
        check_chunks(values)
        attributes, dtype = values.attrs.asdict(), np.dtype(values.dtype)
    except Exception as error:
        raise ValueError(f"{name} cannot be read: {one_line(error)}") from error
    if values.shape != array.shape[axis : axis + 1]:
        raise ValueError(f"{name} has the shape {values.shape}, not the length of its dimension")
    if dtype.kind not in "iufM":
        # Text labels of features are read with X, as its feature names
        if dimension == "input":
            return None
        raise ValueError(
            f"{name} holds {dtype}; a coordinate of columns must hold numbers or times"
        )
    if size > COORDINATE_VALUES:
        raise ValueError(f"{name} has {size:,} values; the limit is {COORDINATE_VALUES:,}")
    held: Any = values
    if dimension == "input" and columns.features is not None:
        held = _chosen(values, columns.features)
    kept = {
        key: attributes[key]
        for key in _KEPT
        if isinstance(attributes.get(key), str | int | float)
        and len(str(attributes[key])) <= ATTRIBUTE_CHARACTERS
    }
    if dtype.kind == "M":
        kept |= _EPOCH
    return Coordinate(held, {"long_name": name} | kept, first, size)


def _chosen(values: zarr.Array[Any], features: tuple[int, ...]) -> NDArray[Any]:
    """Read the values at X's features, in their order."""
    if values.size > COORDINATE_VALUES:
        raise ValueError(
            f"the coordinate has {values.size:,} values; the limit is {COORDINATE_VALUES:,}"
        )
    try:
        return np.asarray(values[...])[list(features)]
    except Exception as error:
        raise ValueError(f"the coordinate cannot be read: {one_line(error)}") from error


def _variable(columns: InputMatrix) -> tuple[Variable, zarr.Array[Any]] | None:
    """Return X's array if X is a single Zarr array, else None."""
    source = columns.source
    if not isinstance(source, Stacked) or len(source.variables) != 1:
        return None
    variable = source.variables[0]
    stored = variable.stored
    return (variable, stored.array) if isinstance(stored, ZarrStored) else None


def _member(array: zarr.Array[Any], name: str) -> zarr.Array[Any] | None:
    """Return an array of the group that holds another one; None if it does not exist."""
    parent, _, own = array.path.rpartition("/")
    if not own or not name or "/" in name:
        return None
    group = zarr.open_group(array.store, path=parent, mode="r", use_consolidated=False)
    found = group.get(name)
    return bounded(found) if isinstance(found, zarr.Array) else None
