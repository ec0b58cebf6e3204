"""Open X with the reader of its format.

A reader knows X's shape without reading X, and reads ranges of columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from pathlib import Path

from colonnade.errors import InputError, import_optional, one_line
from colonnade.inputs.base import InputMatrix, MatrixReader, Orientation, Selection
from colonnade.inputs.feature_selection import find_features
from colonnade.inputs.npy import open_npy, open_npy_object
from colonnade.inputs.npy_folder import open_npy_folder
from colonnade.inputs.zarr import open_zarr
from colonnade.storage import Directory, Objects, Place, place_at
from colonnade.storage.locations import Options, storage_texts

__all__ = ["open_columns"]

# Formats that need an optional package: reader, package, and the extra that installs it
_HDF5 = ("hdf5:open_hdf5", "h5py", "hdf5")
_PARQUET = ("parquet:open_parquet", "pyarrow", "tables")
_CSV = ("csv:open_csv", "pyarrow", "tables")
_EXTRA = {
    **dict.fromkeys((".h5", ".hdf5", ".nc", ".nc4"), _HDF5),
    **dict.fromkeys((".parquet", ".pq"), _PARQUET),
    **dict.fromkeys((".csv", ".tsv"), _CSV),
}
_KNOWN = ".npy, Zarr, HDF5 (.h5, .hdf5), NetCDF 4 (.nc, .nc4), Parquet (.parquet) and CSV (.csv)"
_HINTS = {
    ".npz": " A .npz archive cannot be read in part: save X alone with np.save.",
    ".gz": " A file that is compressed as a whole cannot be read in part: unpack it.",
    ".mat": " A MATLAB file of version 7.3 is HDF5: rename it to .h5.",
}


def open_columns(
    path: str | Path,
    array: str | Sequence[str] | None = None,
    orientation: Orientation | None = None,
    storage_options: Options = None,
    *,
    features_dim: str | None = None,
    column_dims: Sequence[str] | None = None,
    columns: tuple[int, int] | None = None,
    features: Sequence[int | str] | None = None,
) -> InputMatrix:
    """Open X without reading it.

    Parameters
    ----------
    path
        A file or folder in a format that README.md lists, or its URL in an object store.
    array
        Name of the array in a group or file; optional if there is a single matrix. The features of
        several arrays are concatenated.
    orientation
        Whether the file holds X (n, p) or its transpose (p, n). Tables hold the transpose: their
        rows are samples.
    storage_options
        Options of the object store.
    features_dim, column_dims
        Names of the dimension that holds the features, and of the dimensions that are stacked to
        columns; the last of these varies fastest.
    columns
        Start and stop of the columns that form X; all by default.
    features
        Names or numbers of the features that form X, in its order; all by default.

    Raises
    ------
    InputError
        The path does not exist or cannot be read, or X is not a matrix of real numbers.
    """
    arrays = (array,) if isinstance(array, str) else tuple(array or ())
    wanted = Selection(
        arrays,
        orientation,
        features_dim,
        None if column_dims is None else tuple(column_dims),
        None if features is None else tuple(features),
    )
    source = _open(path, wanted, storage_options)
    n, p = source.shape
    start, stop = columns or (0, p)
    if stop > p:
        raise InputError(
            f"{source.path}: there are no columns {start} to {stop - 1}; X has {p:,}, from 0 to "
            f"{p - 1}; choose a range of these (input.columns)."
        )
    found = None
    # The reader of a table has already selected the features
    if features is not None and "selected_features" not in source.storage:
        found = find_features(source.path, features, n, source.feature_names)
    return InputMatrix(source, start, stop - start, found)


def _open(path: str | Path, wanted: Selection, storage_options: Options) -> MatrixReader:
    place = place_at(path, storage_texts(storage_options))
    if isinstance(place, Objects):
        return _open_object(place, wanted)
    try:
        there = Path(path).exists()
    except OSError as error:  # for example, a name that is too long
        raise InputError(f"{path}: {error.strerror} (input.path).") from None
    if not there:
        raise InputError(f"{path}: there is no such file or directory (input.path).")
    return _open_local(Path(path), wanted)


def _open_local(path: Path, wanted: Selection) -> MatrixReader:
    if path.is_dir():
        try:
            names = [each.name for each in path.iterdir()]
        except OSError as error:
            raise InputError(f"{path}: {error.strerror} (input.path).") from None
        return _open_folder(str(path), Directory(path), names, wanted)
    if not path.is_file():
        raise InputError(f"{path}: this is neither a file nor a directory (input.path).")
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return open_npy(str(path), wanted)
    return _reader(str(path), suffix)(Directory(path), wanted)


def _open_object(place: Objects, wanted: Selection) -> MatrixReader:
    path = place.url
    suffix = Path(path).suffix.lower()
    try:
        file = suffix == ".npy" or suffix in _EXTRA
        size = place.size() if file else None
        names = place.names() or set() if size is None else set()
    except OSError as error:
        raise InputError(f"{path}: this cannot be read: {one_line(error)} (input.path).") from error
    if size is None and not names:
        raise InputError(f"{path}: there is no such object (input.path).")
    if size is None:
        return _open_folder(path, place, names, wanted)
    if suffix == ".npy":
        return open_npy_object(place, size, wanted)
    if _EXTRA[suffix] is _PARQUET:
        return _reader(path, suffix)(place, wanted)
    raise InputError(
        f"{path}: X in an object store must be .npy, Zarr or Parquet; a {suffix} file would be "
        "fetched in thousands of small requests. Copy it to a disk, or convert it to one of these."
    )


def _open_folder(path: str, place: Place, names: Iterable[str], wanted: Selection) -> MatrixReader:
    numpy = [name for name in names if name.lower().endswith(".npy")]
    if numpy and not {"zarr.json", ".zarray", ".zgroup"} & set(names):
        return open_npy_folder(place, numpy, wanted)
    return open_zarr(path, wanted, place.zarr() if isinstance(place, Objects) else None)


def _reader(path: str, suffix: str) -> Callable[[Place, Selection], MatrixReader]:
    """Import the reader of a format, and the package that it needs."""
    if suffix not in _EXTRA:
        raise InputError(
            f"{path}: this format is not known; X is read from {_KNOWN}, or a folder of .npy files."
            f"{_HINTS.get(suffix, '')}"
        )
    reader, package, extra = _EXTRA[suffix]
    import_optional(package, extra, InputError, f"{path}: {suffix} files are read with {package}")
    module, _, name = reader.partition(":")
    found: Callable[[Place, Selection], MatrixReader] = getattr(
        import_module(f"colonnade.inputs.{module}"), name
    )
    return found
