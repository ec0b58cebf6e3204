"""The section `input` of a job file."""

from __future__ import annotations

from typing import Literal

from colonnade.locations import FilePath, Settings, StorageOptions

__all__ = ["InputSettings"]


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
