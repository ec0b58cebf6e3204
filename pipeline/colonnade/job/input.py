"""The section `input` of a job file."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, WithJsonSchema, model_validator

from colonnade.job.values import number
from colonnade.storage.locations import FilePath, Settings, StorageOptions

__all__ = ["InputSettings"]


def _range(given: Any) -> tuple[int, int]:
    found = [number(each) for each in given] if isinstance(given, list | tuple) else []
    if len(found) != 2 or not 0 <= found[0] < found[1] < 2**63 or any(f % 1 for f in found):
        raise ValueError("allowed: [start, stop], two whole numbers with 0 ≤ start < stop")
    return int(found[0]), int(found[1])


def _features(given: Any) -> tuple[int | str, ...]:
    found = tuple(given) if isinstance(given, list | tuple) else ()
    if not found or not all(_is_feature(each) for each in found):
        raise ValueError("allowed: a list of names, or of numbers from 0")
    twice = [each for each, count in Counter(found).items() if count > 1]
    if twice:
        raise ValueError(f"allowed: each feature once; {twice[0]!r} is listed twice")
    return found


def _is_feature(given: Any) -> bool:
    if isinstance(given, str):
        return bool(given)
    return type(given) is int and 0 <= given < 2**63


def _names(given: Any) -> tuple[str, ...]:
    found = tuple(given) if isinstance(given, list | tuple) else ()
    if not found or not all(isinstance(each, str) and each for each in found):
        raise ValueError("allowed: a list of names")
    if len(set(found)) < len(found):
        raise ValueError("allowed: a list of different names")
    return found


def _array(given: Any) -> str | tuple[str, ...]:
    if isinstance(given, str):
        return given
    try:
        return _names(given)
    except ValueError as error:
        raise ValueError(str(error).replace(":", ": a name, or", 1)) from None


_NAMES: dict[str, Any] = {
    "type": "array",
    "items": {"type": "string", "minLength": 1},
    "minItems": 1,
    "uniqueItems": True,
}
Range = Annotated[
    tuple[int, int],
    BeforeValidator(_range),
    WithJsonSchema(
        {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 2, "maxItems": 2}
    ),
]
Features = Annotated[
    tuple[int | str, ...],
    BeforeValidator(_features),
    WithJsonSchema(
        _NAMES | {"items": {"anyOf": [_NAMES["items"], {"type": "integer", "minimum": 0}]}}
    ),
]
Names = Annotated[tuple[str, ...], BeforeValidator(_names), WithJsonSchema(_NAMES)]
Array = Annotated[
    str | tuple[str, ...],
    BeforeValidator(_array),
    WithJsonSchema({"anyOf": [{"type": "string"}, _NAMES]}),
]


class InputSettings(Settings):
    """The matrix X, n × p."""

    path: FilePath
    """A .npy file or a folder of them, Zarr, HDF5, NetCDF 4, Parquet, CSV; or s3://bucket/key."""
    array: Array | None = None
    """Name of the array, if the path holds several; or several, to combine their features."""
    orientation: Literal["features_by_columns", "columns_by_features"] | None = None
    """features_by_columns: n × p; columns_by_features: its transpose, as in tables."""
    features_dim: str | None = None
    """Name of the features' dimension, for arrays with named dimensions."""
    column_dims: Names | None = None
    """Names of the dimensions that are stacked to columns; the last varies fastest."""
    columns: Range | None = None
    """Start and stop of the columns to use; default: all."""
    features: Features | None = None
    """Names or numbers of the features to use; default: all. Features are matched with the
    network's by name if both have names; otherwise they are in the network's order."""
    nonfinite: Literal["propagate", "fail"] = "propagate"
    """NaN and infinities in X: propagate them to their columns' results, or fail their blocks."""
    storage_options: StorageOptions | None = None
    """Connection options, if the path is in an object store."""

    @model_validator(mode="after")
    def _one_way(self) -> InputSettings:
        if self.orientation is not None and (self.features_dim or self.column_dims):
            raise ValueError(
                "orientation is for a matrix, features_dim and column_dims are for named "
                "dimensions: leave out orientation, or leave out both others"
            )
        if self.features_dim is not None and self.features_dim in (self.column_dims or ()):
            raise ValueError("features_dim is one of column_dims; leave it out of column_dims")
        return self

    @property
    def asked(self) -> dict[str, Any]:
        """Keyword arguments for `open_columns`."""
        names = self.__class__.model_fields.keys() - {"nonfinite"}
        return {name: getattr(self, name) for name in names}
