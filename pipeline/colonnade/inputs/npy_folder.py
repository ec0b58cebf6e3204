"""Read X from a folder of .npy files, local or in an object store, joined by columns."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from colonnade.errors import InputError, sanitize
from colonnade.inputs.base import MatrixReader, Selection, Stamps
from colonnade.inputs.matrix import check_matrix
from colonnade.inputs.npy import NpySource, open_npy, open_npy_object
from colonnade.inputs.sampling import ReadUnit
from colonnade.storage import Directory, Objects, Place

__all__ = ["open_npy_folder"]


@dataclass(frozen=True)
class FolderSource(MatrixReader):
    """The .npy files of a folder, joined by columns.

    Attributes
    ----------
    starts
        First column of each file.
    """

    parts: tuple[NpySource, ...]
    starts: tuple[int, ...]

    @property
    def storage(self) -> dict[str, Any]:
        """The format; the split into files is omitted, since X does not depend on it."""
        return {"format": "folder of npy"}

    @property
    def piece(self) -> ReadUnit:
        """The read unit of the first file."""
        return self.parts[0].piece

    @property
    def copies(self) -> int:
        """The copies of the first file, and the joined array."""
        return self.parts[0].copies + 1

    def stamps(self, start: int, stop: int) -> Stamps:
        """Return the stamps of the files that hold these columns."""
        found: Stamps = {}
        for part, first in zip(self.parts, self.starts, strict=True):
            if first < stop and start < first + part.shape[1]:
                found |= part.stamps(0, part.shape[1])
        return found

    def window(self, features: slice, start: int, stop: int) -> NDArray[Any]:
        """Read from the files that hold these columns."""
        values = np.empty((features.stop - features.start, stop - start), self.dtype)
        for part in range(bisect_right(self.starts, start) - 1, len(self.parts)):
            source, first = self.parts[part], self.starts[part]
            lo, hi = max(start, first), min(stop, first + source.shape[1])
            if lo >= stop:
                break
            values[:, lo - start : hi - start] = source.window(features, lo - first, hi - first)
        return values

    def check(self) -> None:
        """Raise if a file no longer exists or has changed."""
        for part in self.parts:
            part.check()


def open_npy_folder(place: Place, names: Iterable[str], wanted: Selection) -> FolderSource:
    """Open the .npy files with these names, in alphabetical order.

    Raises
    ------
    InputError
        A file is not a .npy file, the files do not match, or their order is ambiguous.
    """
    path, names = place.url, sorted(names)
    natural = sorted(names, key=_natural)
    if natural != names:
        one, other = next((a, b) for a, b in zip(names, natural, strict=True) if a != b)
        raise InputError(
            f"{path}: by name, {sanitize(one)} comes before {sanitize(other)}; write the numbers "
            "in the names of the .npy files with the same number of digits, such as 09 and 10."
        )
    parts: list[NpySource] = []
    for name in names:
        parts.append(_part(place, name, wanted))
        n, dtype = parts[0].shape[0], parts[0].dtype
        if (n, dtype) != (parts[-1].shape[0], parts[-1].dtype):
            raise InputError(
                f"{path}: {sanitize(names[0])} has {n} features of type {dtype}, and "
                f"{sanitize(name)} {parts[-1].shape[0]} of type {parts[-1].dtype}; all .npy files "
                "of a folder must have the same features and type."
            )
    ends = np.cumsum([0, *(part.shape[1] for part in parts)], dtype=object).tolist()
    shape = check_matrix((parts[0].shape[0], ends[-1]), parts[0].dtype, f"{path}: ")
    return FolderSource(path, shape, parts[0].dtype, tuple(parts), tuple(ends[:-1]))


def _part(place: Place, name: str, wanted: Selection) -> NpySource:
    if isinstance(place, Directory):
        path = place.path / name
        if not path.is_file():
            raise InputError(f"{path}: this is not a file; move it out of the folder (input.path).")
        return open_npy(str(path), wanted)
    if not isinstance(place, Objects):
        raise TypeError
    part = place.below(name)
    return open_npy_object(part, part.size() or 0, wanted)


def _natural(name: str) -> list[Any]:
    """Split a name into texts and integers, to sort by numeric value."""
    return [int(part) if part.isdigit() else part for part in re.split(r"([0-9]+)", name)]
