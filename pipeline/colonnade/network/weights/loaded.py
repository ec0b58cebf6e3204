"""The result of reading a weights file of any format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from numpy.typing import NDArray

from colonnade.network.weights.steps import Step

__all__ = ["Loaded", "declared_names"]

# Metadata keys under which files keep the names of the inputs
_KEYS = ("feature_names_in_", "feature_names")


class Loaded(NamedTuple):
    """The content of a weights file.

    Attributes
    ----------
    arrays
        The arrays by name.
    steps
        The steps from X to Y, or None where the file holds only arrays.
    in_by_out
        Whether the format's convention for matrices is (in, out) rather than (out, in).
    input_names
        The names of the network's inputs, one for each, or None where the file gives none.
    """

    arrays: dict[str, NDArray[Any]]
    steps: list[Step] | None = None
    in_by_out: bool = False
    input_names: tuple[str, ...] | None = None


def declared_names(metadata: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return the names of the inputs, a JSON list of strings in a file's metadata, or None."""
    for key in _KEYS:
        try:
            found = json.loads(metadata[key])
        except (KeyError, TypeError, ValueError, RecursionError):
            continue
        if isinstance(found, list) and found and all(isinstance(name, str) for name in found):
            return tuple(found)
    return None
