"""The section `output` of a job file."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    PlainValidator,
    WithJsonSchema,
    model_validator,
)

from colonnade.job.lists import Deviations
from colonnade.job.pathfields import KNOWN
from colonnade.job.values import Size, number
from colonnade.storage.locations import FilePath, Settings, StorageOptions
from colonnade.storage.urls import SCHEMES

__all__ = ["Layout", "OutputSettings", "ProductName", "ScaleSettings"]

ProductName = Literal[
    "jacobian", "value", "norm", "spectral_norm", "mean", "mean_abs", "max_abs", "gram"
]
"""Products that a store may hold, in the order in which stores list them."""
Layout = Literal["dense", "factored"]

# Largest useful significant_bits: keeping every stored bit is no rounding
_MANTISSA = {"float32": 22, "float64": 51}
_PRODUCTS: tuple[ProductName, ...] = get_args(ProductName)


def _bits(given: Any) -> int | None:
    if given is None:
        return None
    found = number(given)
    if not 1 <= found <= max(_MANTISSA.values()) or found != int(found):
        raise ValueError("allowed: a whole number of bits from 1, or null")
    return int(found)


def _listed(given: Any) -> Any:
    given = [given] if isinstance(given, str) else given
    if not isinstance(given, list | tuple) or not given:
        raise ValueError(f"allowed: a list with at least one of {', '.join(_PRODUCTS)}")
    return given


# A path whose only braces are those of fields
OutputPath = Annotated[
    FilePath,
    WithJsonSchema(
        {
            "type": "string",
            "anyOf": [
                {
                    "pattern": rf"^({'|'.join(SCHEMES)})://[A-Za-z0-9._-]+(/([^%?#\\{{}}]|{KNOWN})*)?$"
                },
                {"pattern": rf"^(?!.*://)(?=.*\S)([^{{}}]|{KNOWN})*$"},
            ],
        }
    ),
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
Products = Annotated[
    tuple[ProductName, ...],
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


class ScaleSettings(Settings):
    """Standard deviations for a scaled view: numbers, a file, or an array in X's store."""

    input_std: Deviations | None = None
    """Standard deviations of the n inputs, by which derivatives are multiplied."""
    output_std: Deviations | None = None
    """Standard deviations of the q outputs, by which derivatives are divided."""


class OutputSettings(Settings):
    """The Zarr store that holds the results."""

    path: OutputPath
    """Location of the store: a path, or s3://bucket/prefix; {date} gives a new one each day."""
    layout: Layout = "dense"
    """dense: the tensor itself; factored: the slopes, from which any part of it can be computed."""
    dtype: Literal["float32", "float64"] = "float32"
    """Type of the results."""
    block_size: Size = "auto"
    """Bytes of the tensor or slopes that are computed and written together: a Zarr shard."""
    chunk_size: Size = "auto"
    """Bytes of a Zarr chunk within the shard, the least that a reader fetches."""
    compression: Literal["none", "lz4", "zstd"] = "none"
    """Compression of the arrays; a full-precision tensor shrinks by a tenth in twice the time."""
    significant_bits: Bits = None
    """Bits of the tensor's mantissas to keep: a relative error of 2^-(bits + 1)."""
    products: Products = ("jacobian",)
    """What to store: the tensor, Y, norms of each column's block, statistics over all columns."""
    scale: ScaleSettings | None = None
    """Scaled view of the tensor and its means; does not change the stored numbers."""
    storage_options: StorageOptions | None = None
    """Connection options, if the path is in an object store."""

    @model_validator(mode="after")
    def _rounding_serves(self) -> Self:
        bits = self.significant_bits
        if bits is None:
            return self
        if self.layout == "factored":
            raise ValueError(
                "significant_bits rounds the tensor, which layout: factored does not store; "
                "leave it out, or set layout: dense"
            )
        if self.compression == "none":
            raise ValueError(
                "significant_bits saves nothing without compression; set compression: lz4 or zstd"
            )
        if bits > _MANTISSA[self.dtype]:
            raise ValueError(
                f"significant_bits: {self.dtype} has {_MANTISSA[self.dtype] + 1} bits; set fewer"
            )
        return self
