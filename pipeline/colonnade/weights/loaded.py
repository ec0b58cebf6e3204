"""What a reader of a format hands over."""

from __future__ import annotations

from typing import Any, NamedTuple

from numpy.typing import NDArray

from colonnade.weights.steps import Step

__all__ = ["Loaded"]


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
    """

    arrays: dict[str, NDArray[Any]]
    steps: list[Step] | None = None
    in_by_out: bool = False
