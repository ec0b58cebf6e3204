"""The section `network` of a job file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, PlainValidator, TypeAdapter, WithJsonSchema

from colonnade.errors import UsageError, sanitize
from colonnade.job.lists import Names
from colonnade.job.values import number
from colonnade.network.activations import ACTIVATIONS, COLUMNWISE, activation
from colonnade.network.activations.imported import is_import
from colonnade.network.weights import Matrices, array_names
from colonnade.storage.locations import FilePath, Settings, StorageOptions

__all__ = ["SCALINGS", "ArrayNames", "NetworkSettings"]

SCALINGS = ("input_mean", "input_std", "output_mean", "output_std")
"""The settings that scale X and Y."""


def _activation(given: Any) -> dict[str, Any]:
    """Return the canonical form of an activation: its name and all of its parameters."""
    if isinstance(given, str):
        given = {"name": given}
    if not isinstance(given, Mapping) or not isinstance(given.get("name"), str):
        raise ValueError("allowed: a name, or a mapping with a name and its parameters")
    parameters = {str(key): number(value) for key, value in given.items() if key != "name"}
    for key, value in parameters.items():
        if not math.isfinite(value):
            raise ValueError(f"parameter {key} must be a finite number")
    try:
        known = activation(given["name"], **parameters)
    except UsageError as error:
        raise ValueError(str(error)) from None
    return {"name": known.name, **known.parameters}


def _activations(given: Any) -> dict[str, Any] | list[dict[str, Any]]:
    if isinstance(given, list | tuple):
        return [_activation(each) for each in given]
    return _activation(given)


_NAMES: dict[str, Any] = {
    "anyOf": [
        {"enum": sorted((*ACTIVATIONS, *COLUMNWISE))},
        {"type": "string", "pattern": "^[^:]+:[^:]+$"},
    ]
}
_ONE: dict[str, Any] = {
    "anyOf": [
        *_NAMES["anyOf"],
        {
            "type": "object",
            "properties": {"name": _NAMES},
            "required": ["name"],
            "additionalProperties": {"type": "number"},
        },
    ]
}
ActivationNames = Annotated[
    dict[str, Any] | list[dict[str, Any]],
    PlainValidator(_activations),
    WithJsonSchema({"anyOf": [*_ONE["anyOf"], {"type": "array", "items": _ONE}]}),
]


def _scaler(given: Any) -> float | tuple[float, ...] | str:
    numbers = given if isinstance(given, list | tuple) else [given]
    if isinstance(given, str) and math.isnan(number(given)):
        return _place(given)
    found = tuple(number(value) for value in numbers)
    if not found or not all(math.isfinite(value) for value in found):
        raise ValueError(
            "allowed: a finite number, a list of these, an array's name or a .npy path"
        )
    return found if isinstance(given, list | tuple) else found[0]


_place = TypeAdapter(FilePath).validate_python
Scaler = Annotated[
    float | tuple[float, ...] | str,
    BeforeValidator(_scaler),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number"},
                {"type": "array", "items": {"type": "number"}, "minItems": 1},
                {"type": "string", "pattern": r"\S"},
            ]
        }
    ),
]


def _layer_names(given: dict[str, str]) -> dict[str, str]:
    known = array_names(sum(key.startswith("W") for key in given))
    unknown = [key for key in given if key not in known]
    if unknown:
        raise ValueError(
            f"{', '.join(map(sanitize, unknown))}: allowed: W1, b1, W2, b2 and so on, without a gap"
        )
    absent = [key for key in known[::2] if key not in given]
    if absent or not known:
        raise ValueError(
            f"allowed: the names of all weights; {', '.join(absent) or 'W1'} is not given"
        )
    return {key: given[key] for key in known if key in given}


ArrayNames = Annotated[dict[str, str], AfterValidator(_layer_names)]


class NetworkSettings(Settings):
    """The network Y = U σ(W X + b) + c, or a deeper one."""

    weights: FilePath
    """A .npz, .safetensors, .onnx, .pt, .pth, .keras, .h5, .skops or .zarr path or URL."""
    activation: ActivationNames | None = None
    """σ: a name, {name: …} with its parameters, or package.module:object; or a list of these, one
    for each hidden layer. Not needed if the file defines it."""
    names: ArrayNames | None = None
    """Names of the arrays in the file, as {W1: …, b1: …, W2: …, b2: …}; default: arrays with these
    names, or with fitting shapes."""
    matrices: Matrices | None = None
    """Orientation of the matrices in a file of arrays, if neither shapes nor names determine it."""
    input_names: Names | None = None
    """Names of the n inputs: a list, or a file with one name per line or a JSON list; default: the
    names in the weights file. X's features are matched with them by name."""
    output_names: Names | None = None
    """Names of the q outputs, in the same form."""
    input_mean: Scaler | None = None
    """Means of X in its scaling, (x − mean)/std: numbers, an array of the file, or a .npy file."""
    input_std: Scaler | None = None
    """Standard deviations of X, in the same form."""
    output_mean: Scaler | None = None
    """Means of Y in its scaling, std y + mean: numbers, an array of the file, or a .npy file."""
    output_std: Scaler | None = None
    """Standard deviations of Y, in the same form."""
    storage_options: StorageOptions | None = None
    """Connection options, if the path is in an object store."""

    @property
    def sigma_text(self) -> str:
        """Names of the activations, for display."""
        return ", ".join(self._names) or "affine"

    @property
    def imported(self) -> list[str]:
        """Names of the activations that are the user's own code."""
        return [name for name in self._names if is_import(name)]

    @property
    def _names(self) -> list[str]:
        given = self.activation or []
        return [each["name"] for each in (given if isinstance(given, list) else [given])]
