"""Keras models, .keras and .h5, read with h5py and without Keras."""

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

from colonnade.errors import NetworkError, reason
from colonnade.weights.archives import check_archive
from colonnade.weights.hdf5 import opened, read_arrays
from colonnade.weights.keras_layers import chained, steps_of_layer
from colonnade.weights.loaded import Loaded
from colonnade.weights.steps import Step

__all__ = ["load_h5", "load_keras"]

_MOST_CONFIG = 16 * 2**20
_PARTS = ("config.json", "metadata.json", "model.weights.h5")

_Arrays = Mapping[str, NDArray[Any]]


def load_keras(path: str | Path, file: IO[bytes]) -> Loaded:
    """Read a .keras archive; NetworkError where it is none, or no chain of layers."""
    try:
        check_archive(file)
        with zipfile.ZipFile(file) as archive:
            if any(archive.getinfo(name).file_size > _MOST_CONFIG for name in _PARTS[:2]):
                raise ValueError(f"its config has more than {_MOST_CONFIG:,} bytes")
            config, metadata, weights = (archive.read(name) for name in _PARTS)
        version = _major(json.loads(metadata)["keras_version"])
        layers = chained(json.loads(config))
        content = io.BytesIO(weights)
        with opened(content) as h5:
            arrays = read_arrays(h5, content)
            named = {h5[f"{name}/vars"].attrs.get("name"): name for name in _groups(arrays)}
        own = _paths(layers)
        steps: list[Step] = []
        for layer in layers:
            # By its name, which older versions do not tell, else by its kind and number
            group = named.get(layer["config"]["name"], own[layer["config"]["name"]])
            steps += steps_of_layer(layer, _numbered(arrays, group), version)
        return Loaded(arrays, steps, in_by_out=True)
    except (MemoryError, NetworkError):
        raise
    # whatever the damage happens to break
    except Exception as error:
        told = f"{path}: this cannot be read as a Keras model: {_said(error)}"
        raise NetworkError(told) from error


def load_h5(path: str | Path, file: IO[bytes]) -> Loaded:
    """Read a model of Keras in HDF5, or the arrays of one that holds weights alone."""
    try:
        with opened(file) as h5:
            config = h5.attrs.get("model_config")
            if config is None:
                return Loaded(read_arrays(h5, file), in_by_out=True)
            version = _major(_text(h5.attrs.get("keras_version", "2")))
            group = h5["model_weights"]
            arrays = read_arrays(group, file)
            names = {
                name: [_text(path) for path in group[name].attrs["weight_names"]] for name in group
            }
        steps: list[Step] = []
        for layer in chained(json.loads(_text(config))):
            name = layer["config"]["name"]
            weights = [arrays[f"{name}/{weight}"] for weight in names.get(name, [])]
            steps += steps_of_layer(layer, weights, version)
        return Loaded(arrays, steps, in_by_out=True)
    except (MemoryError, NetworkError):
        raise
    # whatever the damage happens to break
    except Exception as error:
        told = f"{path}: this cannot be read as an HDF5 file of Keras: {_said(error)}"
        raise NetworkError(told) from error


def _said(error: Exception) -> str:
    if isinstance(error, KeyError | IndexError | TypeError | AttributeError):
        return f"its config, or its weights, lack something ({reason(error)})"
    return reason(error)


def _text(given: Any) -> str:
    return given.decode() if isinstance(given, bytes) else str(given)


def _major(version: str) -> int:
    return int(version.partition(".")[0])


def _groups(arrays: _Arrays) -> list[str]:
    """Find the groups of a model that hold variables."""
    return list(dict.fromkeys(name.rpartition("/vars/")[0] for name in arrays if "/vars/" in name))


def _numbered(arrays: _Arrays, group: str) -> list[NDArray[Any]]:
    """Take the variables of a group, which are called by their numbers."""
    found: list[NDArray[Any]] = []
    while (name := f"{group}/vars/{len(found)}") in arrays:
        found.append(arrays[name])
    return found


def _paths(layers: list[Mapping[str, Any]]) -> dict[str, str]:
    """Where Keras keeps each layer's variables: dense, dense_1, … by their kind."""
    seen: Counter[str] = Counter()
    found = {}
    for layer in layers:
        words = re.sub("(.)([A-Z][a-z0-9]+)", r"\1_\2", layer["class_name"])
        kind = re.sub("([a-z])([A-Z])", r"\1_\2", words).lower()
        number = f"_{seen[kind]}" if seen[kind] else ""
        found[layer["config"]["name"]] = f"layers/{kind}{number}"
        seen[kind] += 1
    return found
