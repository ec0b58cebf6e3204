"""What lies beside X in its Zarr group: arrays by name, and the coordinates of its dimensions."""

from __future__ import annotations

from typing import Any

import numpy as np
import zarr

from colonnade.labels import Coordinate

__all__ = ["array_beside", "coordinate_beside"]

# Of what CF says of a coordinate, what stays true of a copy
_KEPT = ("long_name", "standard_name", "units", "calendar", "axis", "scale_factor", "add_offset")
_EPOCH = {"units": "nanoseconds since 1970-01-01", "calendar": "proleptic_gregorian"}
# A reader loads a coordinate whole: 128 MiB
_MOST_VALUES = 2**24
_LONGEST_ATTRIBUTE = 1000


def array_beside(array: zarr.Array[Any], name: str) -> zarr.Array[Any] | None:
    """Find an array in the group of another one; None where there is none."""
    parent, _, own = array.path.rpartition("/")
    if not own or not name or "/" in name:
        return None
    group = zarr.open_group(array.store, path=parent, mode="r", use_consolidated=False)
    found = group.get(name)
    return found if isinstance(found, zarr.Array) else None


def dimensions(array: zarr.Array[Any]) -> tuple[str | None, ...]:
    """Names of an array's dimensions, as Zarr v3 has them, or as xarray writes them into v2."""
    named = getattr(array.metadata, "dimension_names", None)
    if named is None:
        named = array.attrs.get("_ARRAY_DIMENSIONS")
    if not isinstance(named, list | tuple) or len(named) != array.ndim:
        return (None,) * array.ndim
    return tuple(name if isinstance(name, str) else None for name in named)


def coordinate_beside(array: zarr.Array[Any], axis: int) -> Coordinate | None:
    """Find the coordinate of a dimension: an array that has its name, and it alone.

    Raises whatever zarr does, and ValueError where there is one that cannot be used.
    """
    name = dimensions(array)[axis]
    if name is None:
        return None
    found = array_beside(array, name)
    if found is None or found.ndim != 1:
        return None
    if found.shape != array.shape[axis : axis + 1]:
        raise ValueError(f"{name} has the shape {found.shape}")
    if found.size > _MOST_VALUES:
        raise ValueError(f"{name} has {found.size:,} values, more than {_MOST_VALUES:,}")
    attributes, dtype = found.attrs.asdict(), np.dtype(found.dtype)
    kept = {
        key: attributes[key]
        for key in _KEPT
        if isinstance(attributes.get(key), str | int | float)
        and len(str(attributes[key])) <= _LONGEST_ATTRIBUTE
    }
    if dtype.kind == "M":
        kept |= _EPOCH
    if dtype.kind not in "iufMOSUT":
        raise ValueError(f"{name} is of type {dtype}")
    return Coordinate(found, {"long_name": name} | kept)
