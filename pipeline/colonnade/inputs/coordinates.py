"""What lies beside X in its Zarr group: arrays by name, and the coordinates of its dimensions."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import zarr
from numpy.typing import NDArray

from colonnade.errors import one_line
from colonnade.inputs.arrays import Stacked, Variable
from colonnade.inputs.base import InputMatrix
from colonnade.inputs.labels import Coordinate
from colonnade.inputs.zarrs import ZarrStored, check_chunks
from colonnade.limits import ATTRIBUTE_CHARACTERS, COORDINATE_VALUES
from colonnade.storage.decoding import bounded

__all__ = ["array_beside", "coordinate_beside"]

# Of what CF says of a coordinate, what stays true of a copy
_KEPT = ("long_name", "standard_name", "units", "calendar", "axis", "scale_factor", "add_offset")
_EPOCH = {"units": "nanoseconds since 1970-01-01", "calendar": "proleptic_gregorian"}


def array_beside(columns: InputMatrix, name: str) -> NDArray[Any] | None:
    """Read another array of X's own group; None where there is none, ValueError where no list."""
    found = _variable(columns)
    if found is None:
        return None
    try:
        array = _member(found[1], name)
        if array is not None:
            check_chunks(array)
            if array.ndim == 1 and array.size <= max(columns.source.shape):
                return np.asarray(array[...])
    # zarr raises whatever damaged metadata and chunks happen to break
    except Exception as error:
        raise ValueError(f"{name} cannot be read: {one_line(error)}") from error
    if array is not None:
        raise ValueError(f"{name} has the shape {array.shape}")
    return None


def coordinate_beside(
    columns: InputMatrix, dimension: Literal["input", "column"]
) -> Coordinate | None:
    """Find the coordinate that xarray would show along a dimension of X, if it is of numbers.

    Raises
    ------
    ValueError
        There is one, and it cannot be used.
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
        raise ValueError(f"{name} has the shape {values.shape}")
    if dtype.kind not in "iufM":
        # Names of inputs are the columns' own
        if dimension == "input":
            return None
        raise ValueError(f"{name} holds {dtype}, and only numbers and times are kept of columns")
    if size > COORDINATE_VALUES:
        raise ValueError(f"{name} has {size:,} values, more than {COORDINATE_VALUES:,}")
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
    """Read the values of the features that are X, in the order of these."""
    if values.size > COORDINATE_VALUES:
        raise ValueError(f"it has {values.size:,} values, more than {COORDINATE_VALUES:,}")
    try:
        return np.asarray(values[...])[list(features)]
    except Exception as error:
        raise ValueError(f"it cannot be read: {one_line(error)}") from error


def _variable(columns: InputMatrix) -> tuple[Variable, zarr.Array[Any]] | None:
    """X's only array, where it is one of Zarr's."""
    source = columns.source
    if not isinstance(source, Stacked) or len(source.variables) != 1:
        return None
    variable = source.variables[0]
    stored = variable.stored
    return (variable, stored.array) if isinstance(stored, ZarrStored) else None


def _member(array: zarr.Array[Any], name: str) -> zarr.Array[Any] | None:
    """Find an array in the group of another one; None where there is none."""
    parent, _, own = array.path.rpartition("/")
    if not own or not name or "/" in name:
        return None
    group = zarr.open_group(array.store, path=parent, mode="r", use_consolidated=False)
    found = group.get(name)
    return bounded(found) if isinstance(found, zarr.Array) else None
