"""Where X comes from: one small reader a format, behind `open_columns`.

A reader knows X's shape without reading it, and reads a range of its columns and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from colonnade.columns.base import Columns, Orientation
from colonnade.columns.npy import open_npy, open_npy_object
from colonnade.columns.zarrs import open_zarr
from colonnade.errors import InputError, reason
from colonnade.locations import Options, storage_texts
from colonnade.places import Objects, place_at

__all__ = ["Columns", "Orientation", "open_columns"]


def open_columns(
    path: str | Path,
    array: str | None = None,
    orientation: Orientation = "features_by_columns",
    storage_options: Options = None,
) -> Columns:
    """Open X without reading it.

    Parameters
    ----------
    path
        A .npy file, or a Zarr v2 or v3 array or group; or its URL in an object store.
    array
        Which array of a Zarr group; not needed where it holds a single matrix.
    orientation
        Whether the file holds X (n, p) or its transpose (p, n).
    storage_options
        Of the object store.

    Raises
    ------
    InputError
        There is nothing to read, or it is no matrix of real numbers.
    """
    place = place_at(path, storage_texts(storage_options))
    if isinstance(place, Objects):
        return _open_object(place, array, orientation)
    try:
        there = Path(path).exists()
    except OSError as error:  # a name that is too long, say
        raise InputError(f"{path}: {error.strerror} (input.path).") from None
    if not there:
        raise InputError(f"{path}: there is no such file or directory (input.path).")
    opener = _opener(Path(path))
    return opener(str(path), array, orientation)


def _opener(path: Path) -> Callable[[str, str | None, Orientation], Columns]:
    if path.is_dir():
        return open_zarr
    if not path.is_file():
        raise InputError(f"{path}: this is neither a file nor a directory (input.path).")
    if path.suffix.lower() == ".npy":
        return open_npy
    hint = (
        " A .npz archive cannot be read in part: save X alone with np.save."
        if path.suffix.lower() == ".npz"
        else ""
    )
    raise InputError(
        f"{path}: this format is not known; X is read from a .npy file or a Zarr directory.{hint}"
    )


def _open_object(place: Objects, array: str | None, orientation: Orientation) -> Columns:
    path = place.url
    try:
        size = place.size() if path.lower().endswith(".npy") else None
        found = size is not None or bool(place.names())
    except OSError as error:
        raise InputError(f"{path}: this cannot be read: {reason(error)} (input.path).") from error
    if not found:
        raise InputError(f"{path}: there is no such object (input.path).")
    if size is None:
        return open_zarr(path, array, orientation, place.zarr())
    return open_npy_object(place, size, array, orientation)
