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
"""What a store may hold; this order is the order in which stores list it."""
Layout = Literal["dense", "factored"]

# Bits of the mantissa that are stored, less one: to keep all of them is no rounding
_MANTISSA = {"float32": 22, "float64": 51}
_PRODUCTS: tuple[ProductName, ...] = get_args(ProductName)


def _bits(given: Any) -> int | None:
    if given is None:
        return None
    found = number(given)
    if not 1 <= found <= max(_MANTISSA.values()) or found != int(found):
        raise ValueError("allowed: a whole number of bits from 1 on, or nothing")
    return int(found)


def _listed(given: Any) -> Any:
    given = [given] if isinstance(given, str) else given
    if not isinstance(given, list | tuple) or not given:
        raise ValueError(f"allowed: a list with at least one of {', '.join(_PRODUCTS)}")
    return given


# Without braces but those of fields
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
    """Standard deviations by which readers may scale; numbers, a file, or an array in X's store."""

    input_std: Deviations | None = None
    """Of the n inputs, by which derivatives are multiplied."""
    output_std: Deviations | None = None
    """Of the q outputs, by which derivatives are divided."""


class OutputSettings(Settings):
    """The Zarr store."""

    path: OutputPath
    """Where the store is made: a path, or s3://bucket/prefix; {date} makes one a night."""
    layout: Layout = "dense"
    """dense: the tensor itself; factored: the slopes, of which any part of it is computed again."""
    dtype: Literal["float32", "float64"] = "float32"
    """Type of the results."""
    block_size: Size = "auto"
    """Bytes of the tensor, or of slopes, that are computed and written together: a Zarr shard."""
    chunk_size: Size = "auto"
    """Bytes that a reader fetches at the least: a Zarr chunk within the shard."""
    compression: Literal["none", "lz4", "zstd"] = "none"
    """Of the arrays; a tensor of full precision shrinks by a tenth and takes twice the time."""
    significant_bits: Bits = None
    """Bits of the tensor's mantissas that are kept: an error of 2^-(bits + 1) of each number."""
    products: Products = ("jacobian",)
    """What to keep: the tensor, Y, norms of each column's block, statistics over all columns."""
    scale: ScaleSettings | None = None
    """For a scaled view of the tensor and its means; no part of what is stored."""
    storage_options: StorageOptions | None = None
    """How the object store is reached, where it is in one."""

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
                f"significant_bits: {self.dtype} has {_MANTISSA[self.dtype] + 1} bits; keep fewer"
            )
        return self
