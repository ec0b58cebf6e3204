"""The job file: what a user may write, checked whole before anything is created."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from dask.utils import parse_bytes
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PlainValidator,
    Tag,
    WithJsonSchema,
)

from colonnade.activations import ACTIVATIONS, activation
from colonnade.errors import UsageError

__all__ = [
    "AddressCluster",
    "ClusterSettings",
    "InputSettings",
    "Job",
    "LocalCluster",
    "NetworkSettings",
    "OutputSettings",
    "Product",
    "json_schema",
]

Product = Literal["jacobian", "value", "norm", "mean"]
"""What a store may hold; this order is the order in which stores list it."""


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


def _size(given: Any) -> int | Literal["auto"]:
    """Bytes from 'auto', 1048576, '64 MiB'."""
    if given == "auto":
        return "auto"
    try:
        if isinstance(given, bool):
            raise TypeError
        size = parse_bytes(given)
    except (ValueError, TypeError, AttributeError):
        raise ValueError("allowed: auto, or bytes such as 67108864 or '64 MiB'") from None
    if size < 1:
        raise ValueError("allowed: auto, or at least one byte")
    return size


def _count(given: Any) -> int | Literal["auto"]:
    if given == "auto":
        return "auto"
    if isinstance(given, str) and given.strip().isdecimal():
        given = int(given)
    if isinstance(given, bool) or not isinstance(given, int) or given < 1:
        raise ValueError("allowed: auto, or a whole number from 1")
    return given


Size = Annotated[
    int | Literal["auto"],
    PlainValidator(_size),
    WithJsonSchema(
        {
            "anyOf": [
                {"const": "auto"},
                {"type": "integer", "minimum": 1},
                {"type": "string", "pattern": r"^\s*[0-9.]+\s*([kKMGTP]i?)?B?\s*$"},
            ]
        }
    ),
]
Count = Annotated[
    int | Literal["auto"],
    PlainValidator(_count),
    WithJsonSchema({"anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 1}]}),
]


def _activation(given: Any) -> dict[str, Any]:
    """Canonical form of an activation: its name and all of its parameters."""
    if isinstance(given, str):
        given = {"name": given}
    if not isinstance(given, Mapping) or not isinstance(given.get("name"), str):
        raise ValueError("allowed: a name, or a mapping with a name and its parameters")
    parameters = {str(key): value for key, value in given.items() if key != "name"}
    for key, value in parameters.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"parameter {key} must be a number, not {value!r}")
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


class ArrayNames(_Settings):
    """Which array of the weights' file is which; a bias that is left out is zero."""

    W1: str
    """First layer, (m, n)."""
    b1: str | None = None
    """First layer's bias, (m,)."""
    W2: str
    """Second layer, (q, m)."""
    b2: str | None = None
    """Second layer's bias, (q,)."""


class NetworkSettings(_Settings):
    """The network Y = U σ(W X + b) + c."""

    weights: str
    """A .npz or .safetensors file with the four arrays."""
    activation: ActivationName
    """σ: a name, or {name: …} with its parameters."""
    names: ArrayNames | None = None
    """Names of the arrays in the file; without them W1, b1, W2, b2, or found by shape."""


class InputSettings(_Settings):
    """The matrix X, n × p."""

    path: str
    """A .npy file, or a Zarr v2 or v3 array or group."""
    array: str | None = None
    """Which array, where the path holds several."""
    orientation: Literal["features_by_columns", "columns_by_features"] = "features_by_columns"
    """n × p as in the mathematics, or its transpose: one sample a row."""


class OutputSettings(_Settings):
    """The Zarr store."""

    path: str
    """Where the store is made."""
    layout: Literal["dense"] = "dense"
    """dense: the tensor itself."""
    dtype: Literal["float32", "float64"] = "float32"
    """Type of the results."""
    block_size: Size = "auto"
    """Bytes of the tensor that one task computes and writes: a Zarr shard."""
    chunk_size: Size = "auto"
    """Bytes that a reader fetches at the least: a Zarr chunk within the shard."""
    compression: Literal["none", "lz4", "zstd"] = "none"
    """Of the tensor; it gains 5 to 14% on real networks and costs two to four times the time."""
    products: Annotated[
        tuple[Product, ...],
        Field(min_length=1),
        BeforeValidator(lambda given: [given] if isinstance(given, str) else given),
        AfterValidator(lambda chosen: tuple(p for p in get_args(Product) if p in chosen)),
    ] = ("jacobian",)
    """What to keep: the tensor, Y, ‖J_k‖_F of each column, the mean block."""


class LocalCluster(_Settings):
    """Worker processes on this machine."""

    kind: Literal["local"] = "local"
    """On this machine."""
    workers: Count = "auto"
    """Worker processes; auto: one a core, by threads_per_worker."""
    threads_per_worker: Annotated[int, Field(ge=1)] = 1
    """Blocks that a worker computes at a time, each on one core."""
    memory_per_worker: Size = "auto"
    """Bytes a worker may use; auto: an equal share of the machine's."""


class AddressCluster(_Settings):
    """A Dask scheduler that runs already."""

    kind: Literal["address"]
    """At an address."""
    address: Annotated[str, Field(pattern=r"^(tcp|tls|ws|wss|ucx)://.+")]
    """The scheduler's, such as tcp://10.0.0.1:8786."""
    workers: Annotated[int, Field(ge=1)] = 1
    """Workers to wait for before the first block."""
    timeout: Annotated[float, Field(gt=0)] = 60
    """Seconds to wait for the scheduler and for the workers."""


def _kind(given: Any) -> str:
    if isinstance(given, Mapping):
        return str(given.get("kind", "local"))
    return str(getattr(given, "kind", "local"))


ClusterSettings = Annotated[
    Annotated[LocalCluster, Tag("local")] | Annotated[AddressCluster, Tag("address")],
    Discriminator(_kind),
]


class Job(_Settings):
    """One run: a network, its input, the output and the cluster that computes it."""

    network: NetworkSettings
    input: InputSettings
    output: OutputSettings
    cluster: ClusterSettings = LocalCluster()

    def located(self) -> Job:
        """Return the job with its paths made absolute, for processes in other directories."""

        def place(settings: Any, field: str) -> Any:
            path = getattr(settings, field)
            if "://" in path:
                return settings
            return settings.model_copy(update={field: str(Path(path).expanduser().absolute())})

        return self.model_copy(
            update={
                "network": place(self.network, "weights"),
                "input": place(self.input, "path"),
                "output": place(self.output, "path"),
            }
        )


def json_schema() -> dict[str, Any]:
    """JSON Schema of the job file, for editors."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Job.model_json_schema(),
        "title": "colonnade job",
    }
