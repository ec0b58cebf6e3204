"""Load weights from files and estimators: one small reader per format behind one function."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from numpy.typing import NDArray

from colonnade.errors import NetworkError, one_line
from colonnade.limits import WEIGHTS_FETCHED_BYTES
from colonnade.network.weights.keras_files import load_h5, load_keras
from colonnade.network.weights.layouts import Matrices, steps_of_arrays
from colonnade.network.weights.loaded import Loaded
from colonnade.network.weights.npz import load_npz
from colonnade.network.weights.onnx_graph import load_onnx
from colonnade.network.weights.scaling import Scaling
from colonnade.network.weights.sklearn_models import load_skops, names_of, steps_of
from colonnade.network.weights.steps import Chain, assemble
from colonnade.network.weights.tensors import load_safetensors
from colonnade.network.weights.torch_files import load_torch
from colonnade.network.weights.zarr_groups import load_zarr
from colonnade.storage import Objects, place_at
from colonnade.storage.locations import Options, storage_texts
from colonnade.storage.npy.file import read_array
from colonnade.storage.urls import is_url

__all__ = [
    "estimator_weights",
    "load_weights",
]

_LOADERS: dict[str, Callable[[str | Path, IO[bytes]], Loaded]] = {
    ".npz": load_npz,
    ".safetensors": load_safetensors,
    ".onnx": lambda path, file: load_onnx(path, file, None if is_url(path) else Path(path).parent),
    ".pt": load_torch,
    ".pth": load_torch,
    ".keras": load_keras,
    ".h5": load_h5,
    ".skops": load_skops,
}
_FORMATS = [*_LOADERS, ".zarr"]


def load_weights(
    path: str | Path,
    names: Mapping[str, str] | None = None,
    storage_options: Options = None,
    scaling: Scaling | None = None,
    matrices: Matrices | None = None,
) -> Chain:
    """Load a chain of layers from a file, and fold in all scalings.

    Parameters
    ----------
    path, names, storage_options
        As for `Network.load`.
    scaling
        Scaling of X and Y in training, in addition to scalings in the file.
    matrices
        Storage order of the matrices in a file of arrays, which overrides the order that array
        names, shapes or the format suggest.

    Raises
    ------
    NetworkError
        The file cannot be read, or does not hold a chain of layers.
    """
    loaded, scaling = _loaded(path, storage_options), scaling or Scaling()
    try:
        before, after = scaling.scales(
            loaded.arrays, lambda key, npy: _read_npy(key, npy, storage_options)
        )
        steps = loaded.steps
        if steps is None:
            # Arrays that hold the scaling are not layers
            left = {k: a for k, a in loaded.arrays.items() if k not in scaling.names()}
            steps = steps_of_arrays(left, names, matrices, in_by_out=loaded.in_by_out)
        elif names or matrices:
            key = "names" if names else f"matrices ({matrices})"
            raise NetworkError(
                f"the file defines its layers itself; network.{key} is for files that hold only "
                "arrays. Leave it out."
            )
        made = assemble([*([before] if before else []), *steps, *([after] if after else [])])
        return made._replace(input_names=loaded.input_names)
    except NetworkError as error:
        raise NetworkError(f"{path}: {error}") from None


def estimator_weights(estimator: Any) -> Chain:
    """Return the chain of layers of a scikit-learn estimator; NetworkError if it has none."""
    return assemble(steps_of(estimator))._replace(input_names=names_of(estimator))


def _loaded(path: str | Path, storage_options: Options) -> Loaded:
    suffix = Path(path).suffix.lower()
    if suffix == ".zarr":
        place = place_at(path, storage_texts(storage_options))
        if not isinstance(place, Objects) and not Path(path).is_dir():
            raise NetworkError(f"{path}: there is no such directory (network.weights).")
        return load_zarr(path, place)
    loader = _LOADERS.get(suffix)
    if loader is None:
        raise NetworkError(
            f"{path}: the format {suffix or 'of a file without suffix'} is not known; "
            f"weights are read from {', '.join(_FORMATS[:-1])} and {_FORMATS[-1]}."
        )
    with _opened(path, storage_options, "network.weights") as file:
        return loader(path, file)


def _opened(path: str | Path, storage_options: Options, key: str) -> IO[bytes]:
    """Open a weights file, or fetch the whole object."""
    try:
        if is_url(path):
            return io.BytesIO(
                place_at(path, storage_texts(storage_options)).read("", WEIGHTS_FETCHED_BYTES)
            )
        if Path(path).is_file():
            return Path(path).open("rb")
    except FileNotFoundError:
        pass
    except OSError as error:  # such as missing permission, or too long a name
        cause = error if is_url(path) else error.strerror
        raise NetworkError(f"{path}: {cause} ({key}).") from None
    except ValueError as error:
        raise NetworkError(
            f"{path}: these weights are too large: {error}. Copy them to a local file."
        ) from None
    raise NetworkError(f"{path}: there is no such file ({key}).")


def _read_npy(key: str, path: str, storage_options: Options) -> NDArray[Any]:
    with _opened(path, storage_options, f"network.{key}") as file:
        try:
            return read_array(file)
        except (OSError, ValueError) as error:
            raise NetworkError(
                f"{path}: this cannot be read as .npy: {one_line(error)}; save the numbers again "
                f"with np.save (network.{key})."
            ) from error
