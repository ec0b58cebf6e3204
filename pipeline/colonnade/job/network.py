"""The section `network` of a job file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, PlainValidator, WithJsonSchema

from colonnade.activations import ACTIVATIONS, COLUMNWISE, activation
from colonnade.errors import UsageError, shown
from colonnade.imported import is_import
from colonnade.job.values import number
from colonnade.locations import FilePath, Settings, StorageOptions
from colonnade.weights import array_names

__all__ = ["ArrayNames", "NetworkSettings"]


def _activation(given: Any) -> dict[str, Any]:
    """Canonical form of an activation: its name and all of its parameters."""
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


def _layer_names(given: dict[str, str]) -> dict[str, str]:
    known = array_names(sum(key.startswith("W") for key in given))
    unknown = [key for key in given if key not in known]
    if unknown:
        raise ValueError(
            f"{', '.join(map(shown, unknown))}: allowed: W1, b1, W2, b2 and so on, without a gap"
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
    """A .npz or .safetensors file with the layers' arrays; a path, or s3://bucket/key."""
    activation: ActivationNames
    """σ: a name, {name: …} with its parameters, or package.module:object; or a list of these, one
    for each hidden layer."""
    names: ArrayNames | None = None
    """Names of the arrays in the file, as {W1: …, b1: …, W2: …, b2: …}; without them those of that
    name, or found by shape."""
    storage_options: StorageOptions | None = None
    """How the object store is reached, where it is in one."""

    @property
    def told(self) -> str:
        """Names of the activations."""
        return ", ".join(self._names) or "affine"

    @property
    def imported(self) -> list[str]:
        """Activations that are the user's own code, by name."""
        return [name for name in self._names if is_import(name)]

    @property
    def _names(self) -> list[str]:
        given = self.activation if isinstance(self.activation, list) else [self.activation]
        return [each["name"] for each in given]
