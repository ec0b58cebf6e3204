"""What a reader of a format hands over."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from numpy.typing import NDArray

from colonnade.network.weights.steps import Step

__all__ = ["Loaded", "told_names"]

# What writers of metadata call the names of the inputs, one for each
_KEYS = ("feature_names_in_", "feature_names")


class Loaded(NamedTuple):
    """The content of a file.

    Attributes
    ----------
    arrays
        The arrays that it names.
    steps
        From X to Y, where the file tells them. Without them the arrays alone must tell.
    in_by_out
        Whether the format's convention for matrices is (in, out) rather than (out, in).
    input_names
        Of the network's inputs, one for each, where the file tells them.
    """

    arrays: dict[str, NDArray[Any]]
    steps: list[Step] | None = None
    in_by_out: bool = False
    input_names: tuple[str, ...] | None = None


def told_names(metadata: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Find the names of the inputs, a JSON list of texts, in a file's metadata of texts by key."""
    for key in _KEYS:
        try:
            found = json.loads(metadata[key])
        except (KeyError, TypeError, ValueError, RecursionError):
            continue
        if isinstance(found, list) and found and all(isinstance(name, str) for name in found):
            return tuple(found)
    return None
