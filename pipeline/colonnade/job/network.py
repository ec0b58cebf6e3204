"""The section `network` of a job file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import PlainValidator, WithJsonSchema

from colonnade.activations import ACTIVATIONS, activation
from colonnade.errors import UsageError
from colonnade.job.lists import Names
from colonnade.job.values import number
from colonnade.locations import FilePath, Settings, StorageOptions

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


ActivationName = Annotated[
    dict[str, Any],
    PlainValidator(_activation),
    WithJsonSchema(
        {
            "anyOf": [
                {"enum": sorted(ACTIVATIONS)},
                {
                    "type": "object",
                    "properties": {"name": {"enum": sorted(ACTIVATIONS)}},
                    "required": ["name"],
                    "additionalProperties": {"type": "number"},
                },
            ]
        }
    ),
]


class ArrayNames(Settings):
    """Which array of the weights' file is which; a bias that is left out is zero."""

    W1: str
    """First layer, (m, n)."""
    b1: str | None = None
    """First layer's bias, (m,)."""
    W2: str
    """Second layer, (q, m)."""
    b2: str | None = None
    """Second layer's bias, (q,)."""


class NetworkSettings(Settings):
    """The network Y = U σ(W X + b) + c."""

    weights: FilePath
    """A .npz or .safetensors file with the four arrays; a path, or s3://bucket/key."""
    activation: ActivationName
    """σ: a name, or {name: …} with its parameters."""
    names: ArrayNames | None = None
    """Names of the arrays in the file; without them W1, b1, W2, b2, or found by shape."""
    input_names: Names | None = None
    """Of the n inputs: a list, or a file, one a line or a JSON list; else those in X's store."""
    output_names: Names | None = None
    """Of the q outputs, in the same way."""
    storage_options: StorageOptions | None = None
    """How the object store is reached, where it is in one."""
