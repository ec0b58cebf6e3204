"""The job file: what a user may write, checked whole before anything is created."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, get_args

from dask.utils import parse_bytes
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    PlainValidator,
    Tag,
    WithJsonSchema,
    model_validator,
)

from colonnade.activations import ACTIVATIONS, activation
from colonnade.errors import UsageError, has_credentials
from colonnade.locations import FilePath, Settings, StorageOptions, absolute

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


def _number(given: Any) -> float:
    """Take a number, also as text: ${VAR} is that, and so is 1e-3 to YAML; NaN where it is none."""
    try:
        usable = isinstance(given, int | float | str) and not isinstance(given, bool)
        return float(given) if usable else math.nan
    except (ValueError, OverflowError):
        return math.nan


def _size(given: Any) -> int | Literal["auto"]:
    """Bytes from 'auto', 1048576, '64 MiB'."""
    if given == "auto":
        return "auto"
    # The length first: on spaces without end the pattern takes the square of their time
    text = isinstance(given, str) and len(given) <= _LONGEST and re.fullmatch(_SIZE, given)
    size = parse_bytes(given) if text else given
    if isinstance(size, bool | str) or not isinstance(size, int | float):
        raise ValueError("allowed: auto, or bytes such as 67108864 or '64 MiB'")
    if not 1 <= size < _LARGEST_SIZE:
        raise ValueError("allowed: auto, or from one byte to 8 EiB")
    return int(size)


def _whole(given: Any) -> int:
    number = _number(given)
    if not 1 <= number <= _MOST or number != int(number):
        raise ValueError(f"allowed: a whole number from 1 to {_MOST}")
    return int(number)


def _count(given: Any) -> int | Literal["auto"]:
    if given == "auto":
        return "auto"
    try:
        return _whole(given)
    except ValueError as error:
        raise ValueError(str(error).replace(":", ": auto, or", 1)) from None


def _bits(given: Any) -> int | None:
    if given is None:
        return None
    number = _number(given)
    if not 1 <= number <= max(_MANTISSA.values()) or number != int(number):
        raise ValueError("allowed: a whole number of bits from 1 on, or nothing")
    return int(number)


def _seconds(given: Any) -> float:
    if not 0 < _number(given) < math.inf:
        raise ValueError("allowed: a number of seconds above 0")
    return _number(given)


def _address(given: Any) -> str:
    if not isinstance(given, str) or not re.match(_ADDRESS, given):
        raise ValueError("allowed: a scheduler's address such as tcp://10.0.0.1:8786")
    if has_credentials(given):
        raise ValueError(_NO_CREDENTIALS)
    return given


def _activation(given: Any) -> dict[str, Any]:
    """Canonical form of an activation: its name and all of its parameters."""
    if isinstance(given, str):
        given = {"name": given}
    if not isinstance(given, Mapping) or not isinstance(given.get("name"), str):
        raise ValueError("allowed: a name, or a mapping with a name and its parameters")
    parameters = {str(key): _number(value) for key, value in given.items() if key != "name"}
    for key, value in parameters.items():
        if not math.isfinite(value):
            raise ValueError(f"parameter {key} must be a finite number")
    try:
        known = activation(given["name"], **parameters)
    except UsageError as error:
        raise ValueError(str(error)) from None
    return {"name": known.name, **known.parameters}


def _listed(given: Any) -> Any:
    given = [given] if isinstance(given, str) else given
    if not isinstance(given, list | tuple) or not given:
        raise ValueError(f"allowed: a list with at least one of {', '.join(_PRODUCTS)}")
    return given


# The store keeps the job, and whoever reads the store reads it
_NO_CREDENTIALS = "allowed: no user or password in an address; they belong into the environment"
# The same sizes as text for the job and for its JSON Schema
_SIZE = r"\s*[0-9]+(\.[0-9]*)?([eE][0-9]{1,2})?\s*([kKmMgGtTpP][iI]?)?[bB]?\s*"
_LONGEST = 40
_LARGEST_SIZE = 2**63
# Bits of the mantissa that are stored, less one: to keep all of them is no rounding
_MANTISSA = {"float32": 22, "float64": 51}
_MOST = 10**6
_ADDRESS = r"^(tcp|tls|ws|wss|ucx)://.+"
_PRODUCTS: tuple[Product, ...] = get_args(Product)
_WHOLE_SCHEMA: dict[str, Any] = {"type": "integer", "minimum": 1, "maximum": _MOST}

Size = Annotated[
    int | Literal["auto"],
    PlainValidator(_size),
    WithJsonSchema(
        {
            "anyOf": [
                {"const": "auto"},
                {"type": "integer", "minimum": 1, "exclusiveMaximum": _LARGEST_SIZE},
                {"type": "string", "pattern": f"^{_SIZE}$"},
            ]
        }
    ),
]
Whole = Annotated[int, PlainValidator(_whole), WithJsonSchema(_WHOLE_SCHEMA)]
Count = Annotated[
    int | Literal["auto"],
    PlainValidator(_count),
    WithJsonSchema({"anyOf": [{"const": "auto"}, _WHOLE_SCHEMA]}),
]
Bits = Annotated[
    int | None,
    PlainValidator(_bits),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "null"},
                {"type": "integer", "minimum": 1, "maximum": max(_MANTISSA.values())},
            ]
        }
    ),
]
Seconds = Annotated[
    float, PlainValidator(_seconds), WithJsonSchema({"type": "number", "exclusiveMinimum": 0})
]
_AddressSchema = WithJsonSchema({"type": "string", "pattern": _ADDRESS})
Address = Annotated[str, PlainValidator(_address), _AddressSchema]
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
Products = Annotated[
    tuple[Product, ...],
    BeforeValidator(_listed),
    AfterValidator(lambda chosen: tuple(p for p in _PRODUCTS if p in chosen)),
    WithJsonSchema(
        {
            "anyOf": [
                {"enum": list(_PRODUCTS)},
                {"type": "array", "items": {"enum": list(_PRODUCTS)}, "minItems": 1},
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
    storage_options: StorageOptions | None = None
    """How the object store is reached, where it is in one."""


class InputSettings(Settings):
    """The matrix X, n × p."""

    path: FilePath
    """A .npy file, or a Zarr v2 or v3 array or group; a path, or s3://bucket/key."""
    array: str | None = None
    """Which array, where the path holds several."""
    orientation: Literal["features_by_columns", "columns_by_features"] = "features_by_columns"
    """n × p as in the mathematics, or its transpose: one sample a row."""
    nonfinite: Literal["propagate", "fail"] = "propagate"
    """NaN and infinities in X: let them make their columns' results, or fail their blocks."""
    storage_options: StorageOptions | None = None
    """How the object store is reached, where it is in one."""


class OutputSettings(Settings):
    """The Zarr store."""

    path: FilePath
    """Where the store is made: a path, or s3://bucket/prefix."""
    layout: Literal["dense"] = "dense"
    """dense: the tensor itself."""
    dtype: Literal["float32", "float64"] = "float32"
    """Type of the results."""
    block_size: Size = "auto"
    """Bytes of the tensor that one task computes and writes: a Zarr shard."""
    chunk_size: Size = "auto"
    """Bytes that a reader fetches at the least: a Zarr chunk within the shard."""
    compression: Literal["none", "lz4", "zstd"] = "none"
    """Of the arrays; a tensor of full precision shrinks by a tenth and takes twice the time."""
    significant_bits: Bits = None
    """Bits of the tensor's mantissas that are kept: an error of 2^-(bits + 1) of each number."""
    products: Products = ("jacobian",)
    """What to keep: the tensor, Y, ‖J_k‖_F of each column, the mean block."""
    storage_options: StorageOptions | None = None
    """How the object store is reached, where it is in one."""

    @model_validator(mode="after")
    def _rounding_serves(self) -> Self:
        bits = self.significant_bits
        if bits is None:
            return self
        if self.compression == "none":
            raise ValueError(
                "significant_bits saves nothing without compression; set compression: lz4 or zstd"
            )
        if bits > _MANTISSA[self.dtype]:
            raise ValueError(
                f"significant_bits: {self.dtype} has {_MANTISSA[self.dtype] + 1} bits; keep fewer"
            )
        return self


class _Cluster(Settings):
    timeout: Seconds = 60
    """Seconds to wait for the scheduler and for workers, at the start and whenever all are gone."""
    # Slurm and Kubernetes kill 30 s after SIGTERM, and closing a cluster takes some of them
    grace: Seconds = 20
    """Seconds that blocks in flight may take to finish when a signal stops the run."""


class LocalCluster(_Cluster):
    """Worker processes on this machine."""

    kind: Literal["local"] = "local"
    """On this machine."""
    workers: Count = "auto"
    """Worker processes; auto: one a core, by threads_per_worker."""
    threads_per_worker: Whole = 1
    """Blocks that a worker computes at a time, each on one core."""
    memory_per_worker: Size = "auto"
    """Bytes a worker may use; auto: an equal share of the machine's."""


class TlsSettings(Settings):
    """Certificates with which a client and a scheduler know each other: PEM files."""

    ca_file: FilePath
    """Of who has signed the certificates of all of the cluster."""
    cert: FilePath
    """The client's certificate."""
    key: FilePath
    """The client's private key."""


class AddressCluster(_Cluster):
    """A Dask scheduler that runs already."""

    kind: Literal["address"]
    """At an address."""
    address: Address
    """The scheduler's, such as tcp://10.0.0.1:8786."""
    workers: Whole = 1
    """Workers to wait for before the first block."""
    tls: TlsSettings | None = None
    """Certificates for an address of tls:// or wss://; without them, those that Dask is set to."""

    @model_validator(mode="after")
    def _tls_serves(self) -> Self:
        if self.tls is not None and not self.address.startswith(("tls://", "wss://")):
            raise ValueError("tls: certificates are for an address of tls:// or wss://")
        return self


def _kind(given: Any) -> str:
    if isinstance(given, Mapping):
        return str(given.get("kind", "local"))
    return str(getattr(given, "kind", "local"))


ClusterSettings = Annotated[
    Annotated[LocalCluster, Tag("local")] | Annotated[AddressCluster, Tag("address")],
    Discriminator(_kind),
]


class Job(Settings):
    """One run: a network, its input, the output and the cluster that computes it."""

    network: NetworkSettings
    input: InputSettings
    output: OutputSettings
    cluster: ClusterSettings = LocalCluster()

    def located(self) -> Job:
        """Return the job with its paths made absolute, for processes in other directories."""

        def place(settings: Any, *fields: str) -> Any:
            return settings.model_copy(
                update={field: absolute(getattr(settings, field)) for field in fields}
            )

        cluster = self.cluster
        if isinstance(cluster, AddressCluster) and cluster.tls is not None:
            tls = place(cluster.tls, *TlsSettings.model_fields)
            cluster = cluster.model_copy(update={"tls": tls})
        return self.model_copy(
            update={
                "network": place(self.network, "weights"),
                "input": place(self.input, "path"),
                "output": place(self.output, "path"),
                "cluster": cluster,
            }
        )


def json_schema() -> dict[str, Any]:
    """JSON Schema of the job file, for editors."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Job.model_json_schema(),
        "title": "colonnade job",
    }
