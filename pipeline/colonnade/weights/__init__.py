"""Where weights come from: one small reader per format behind one function."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from numpy.typing import NDArray

from colonnade.errors import NetworkError
from colonnade.locations import Options, storage_texts
from colonnade.places import place_at
from colonnade.urls import is_url
from colonnade.weights.choice import SHAPES, array_names, choose, described
from colonnade.weights.npz import load_npz
from colonnade.weights.tensors import load_safetensors

__all__ = ["SHAPES", "array_names", "described", "load_weights"]

_LOADERS: dict[str, Callable[[str | Path, IO[bytes]], dict[str, NDArray[Any]]]] = {
    ".npz": load_npz,
    ".safetensors": load_safetensors,
}

# Of an object, which is held whole beside its arrays
_MOST_FETCHED = 2**32


def load_weights(
    path: str | Path, names: Mapping[str, str] | None = None, storage_options: Options = None
) -> dict[str, NDArray[Any]]:
    """Load W1, W2 and so on, and their b1, b2 where there are any, from a file.

    Parameters
    ----------
    path, names, storage_options
        As for `Network.load`.

    Raises
    ------
    NetworkError
        The file cannot be read, or which of its arrays is which cannot be told.
    """
    suffix = Path(path).suffix
    loader = _LOADERS.get(suffix.lower())
    if loader is None:
        raise NetworkError(
            f"{path}: the format {suffix or 'of a file without suffix'} is not known; "
            f"weights are read from {' and '.join(_LOADERS)} files."
        )
    with _opened(path, storage_options) as file:
        arrays = loader(path, file)
    try:
        return choose(arrays, dict(names) if names else None)
    except NetworkError as error:
        raise NetworkError(f"{path}: {error}") from None


def _opened(path: str | Path, storage_options: Options) -> IO[bytes]:
    """Open a file of weights, or fetch an object whole."""
    try:
        if is_url(path):
            return io.BytesIO(
                place_at(path, storage_texts(storage_options)).read("", _MOST_FETCHED)
            )
        if Path(path).is_file():
            return Path(path).open("rb")
    except FileNotFoundError:
        pass
    except OSError as error:  # a name that is too long, say; no permission
        told = error if is_url(path) else error.strerror
        raise NetworkError(f"{path}: {told} (network.weights).") from None
    except ValueError as error:
        raise NetworkError(f"{path}: these weights are too large: {error}.") from None
    raise NetworkError(f"{path}: there is no such file (network.weights).")
