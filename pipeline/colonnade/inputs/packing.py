"""Unpack numbers by the CF conventions, bitwise as xarray does."""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ATTRIBUTES", "Packing", "find_packing", "promoted"]

ATTRIBUTES = ("scale_factor", "add_offset", "_FillValue", "missing_value", "_Unsigned")
"""Attributes of a variable that change the meaning of its numbers."""


@dataclass(frozen=True)
class Packing:
    """How to unpack stored numbers: number · scale + offset; fill values become NaN.

    Attributes
    ----------
    stored
        Type in which to interpret the stored numbers.
    dtype
        Type of the unpacked numbers.
    """

    stored: np.dtype[Any]
    dtype: np.dtype[Any]
    fills: tuple[Any, ...]
    scale: Any = None
    offset: Any = None

    @property
    def said(self) -> dict[str, Any]:
        """The packing, as plain values."""
        return {
            "unpacked_to": self.dtype.name,
            "fill_values": [float(fill) for fill in self.fills],
            "scale_factor": None if self.scale is None else float(self.scale),
            "add_offset": None if self.offset is None else float(self.offset),
        }

    def unpack(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Unpack stored numbers."""
        values = stored.view(self.stored).astype(self.dtype)
        for fill in self.fills:
            values[values == fill] = np.nan
        if self.scale is not None:
            values *= self.scale
        if self.offset is not None:
            values += self.offset
        return values


def find_packing(dtype: np.dtype[Any], attributes: Mapping[str, Any]) -> Packing | None:
    """Return the packing that the attributes describe; None if the numbers are not packed.

    Raises
    ------
    ValueError
        An attribute is not a number.
    """
    said = {key: _number(key, attributes[key], dtype) for key in ATTRIBUTES if key in attributes}
    stored = dtype
    signed, other = {"true": ("i", "u"), "false": ("u", "i")}.get(
        said.pop("_Unsigned", ""), ("", "")
    )
    if dtype.kind == signed:
        stored = np.dtype(f"{dtype.byteorder}{other}{dtype.itemsize}")
        native = (stored.newbyteorder("="), dtype.newbyteorder("="))
        if "_FillValue" in said:
            said["_FillValue"] = said["_FillValue"].astype(native[1]).view(native[0])
    found = (fill for key in _FILLS for fill in said.get(key, ()) if not np.isnan(fill))
    fills = {fill.item(): fill for fill in found}
    scale, offset = (said.get(key, [None])[0] for key in ("scale_factor", "add_offset"))
    if scale is None and offset is None:
        if not fills:
            return None if stored == dtype else Packing(stored, stored.newbyteorder("="), ())
        return Packing(stored, promoted(stored), tuple(fills.values()))
    return Packing(stored, _unpacked(stored, scale, offset), tuple(fills.values()), scale, offset)


_FILLS = ("_FillValue", "missing_value")


def _number(key: str, given: Any, dtype: np.dtype[Any]) -> Any:
    if key == "_Unsigned":
        return given.decode() if isinstance(given, bytes) else str(given)
    # Zarr metadata are JSON: xarray writes a float there as base64 of its bytes
    if isinstance(given, str) and re.fullmatch("[A-Za-z0-9+/]{11}=", given) and dtype.kind == "f":
        given = struct.unpack("<d", base64.b64decode(given))[0]
    values = np.ravel(given)
    if values.dtype.kind not in "iuf" or values.size < 1 or (key not in _FILLS and values.size > 1):
        raise ValueError(f"its attribute {key} must be a number; correct it in the file")
    return values


def promoted(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the floating type that holds numbers of a type, and NaN."""
    if dtype.kind == "f":
        return dtype.newbyteorder("=")
    return np.dtype(np.float32 if dtype.itemsize <= 2 else np.float64)


def _unpacked(dtype: np.dtype[Any], scale: Any, offset: Any) -> np.dtype[Any]:
    """Return the type that packed numbers are unpacked to."""
    double = np.dtype(np.float64)
    if scale is not None and offset is not None:
        wide = dtype.kind in "iu" and dtype.itemsize == 4
        alike = scale.dtype == offset.dtype and scale.dtype in (np.float32, np.float64)
        return double if wide or not alike else np.dtype(scale.dtype.name)
    if offset is not None or scale.dtype.kind != "f":
        return double
    found: np.dtype[Any] = np.dtype(scale.dtype.name)
    return found
