"""Read Keras models from .keras and .h5 files, with h5py and without Keras."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from numpy.typing import NDArray

from colonnade.errors import NetworkError, one_line
from colonnade.limits import KERAS_CONFIG_BYTES
from colonnade.network.weights.archives import check_archive
from colonnade.network.weights.extras import import_optional
from colonnade.network.weights.hdf5 import read_hdf5
from colonnade.network.weights.keras_layers import chained, steps_of_layer
from colonnade.network.weights.loaded import Loaded
from colonnade.network.weights.steps import Step

__all__ = ["load_h5", "load_keras"]

_PARTS = ("config.json", "metadata.json", "model.weights.h5")

_Arrays = Mapping[str, NDArray[Any]]


def load_keras(path: str | Path, file: IO[bytes]) -> Loaded:
    """Read a .keras archive; raise NetworkError if it does not hold a chain of layers."""
    try:
        check_archive(file)
        with zipfile.ZipFile(file) as archive:
            if any(archive.getinfo(name).file_size > KERAS_CONFIG_BYTES for name in _PARTS[:2]):
                raise ValueError(
                    f"its config has more than {KERAS_CONFIG_BYTES:,} bytes; save the weights alone"
                )
            config, metadata, weights = (archive.read(name) for name in _PARTS)
        version = _major(json.loads(metadata)["keras_version"])
        layers = chained(json.loads(config))
        arrays, texts = _read(io.BytesIO(weights))
        named = {texts[f"{name}/vars"].get("name"): name for name in _groups(arrays)}
        own = _paths(layers)
        steps: list[Step] = []
        for layer in layers:
            # Find its group by name or, for older versions, which store none, by kind and number
            group = named.get(layer["config"]["name"], own[layer["config"]["name"]])
            steps += steps_of_layer(layer, _numbered(arrays, group), version)
        return Loaded(arrays, steps, in_by_out=True)
    except (MemoryError, NetworkError):
        raise
    # A damaged file may raise any type of error
    except Exception as error:
        message = f"{path}: this cannot be read as a Keras model: {_said(error)}"
        raise NetworkError(message) from error


def load_h5(path: str | Path, file: IO[bytes]) -> Loaded:
    """Read a Keras model from HDF5, or only arrays from a file of weights alone."""
    try:
        arrays, texts = _read(file)
        config = texts[""].get("model_config")
        if config is None:
            return Loaded(arrays, in_by_out=True)
        version = _major(texts[""].get("keras_version", "2"))
        steps: list[Step] = []
        for layer in chained(json.loads(config)):
            name = layer["config"]["name"]
            group = f"model_weights/{name}"
            names = texts.get(group, {}).get("weight_names", [])
            weights = [arrays[f"{group}/{weight}"] for weight in names]
            steps += steps_of_layer(layer, weights, version)
        return Loaded(arrays, steps, in_by_out=True)
    except (MemoryError, NetworkError):
        raise
    # A damaged file may raise any type of error
    except Exception as error:
        message = f"{path}: this cannot be read as an HDF5 file of Keras: {_said(error)}"
        raise NetworkError(message) from error


def _said(error: Exception) -> str:
    if isinstance(error, KeyError | IndexError | TypeError | AttributeError):
        return f"its config or its weights are incomplete ({one_line(error)}); save the model again"
    return one_line(error)


def _read(file: IO[bytes]) -> tuple[dict[str, NDArray[Any]], dict[str, dict[str, Any]]]:
    import_optional("h5py", "keras")
    return read_hdf5(file)


def _major(version: str) -> int:
    return int(version.partition(".")[0])


def _groups(arrays: _Arrays) -> list[str]:
    """Return the groups of a model that hold variables."""
    return list(dict.fromkeys(name.rpartition("/vars/")[0] for name in arrays if "/vars/" in name))


def _numbered(arrays: _Arrays, group: str) -> list[NDArray[Any]]:
    """Return the variables of a group, whose names are consecutive numbers."""
    found: list[NDArray[Any]] = []
    while (name := f"{group}/vars/{len(found)}") in arrays:
        found.append(arrays[name])
    return found


def _paths(layers: list[Mapping[str, Any]]) -> dict[str, str]:
    """Return each layer's group of variables, numbered by kind as in Keras: dense, dense_1, …."""
    seen: Counter[str] = Counter()
    found = {}
    for layer in layers:
        words = re.sub("(.)([A-Z][a-z0-9]+)", r"\1_\2", layer["class_name"])
        kind = re.sub("([a-z])([A-Z])", r"\1_\2", words).lower()
        number = f"_{seen[kind]}" if seen[kind] else ""
        found[layer["config"]["name"]] = f"layers/{kind}{number}"
        seen[kind] += 1
    return found
