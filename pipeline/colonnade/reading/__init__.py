"""Open a store for analysis: an xarray Dataset, lazy and labelled."""

from colonnade.reading.backend import (
    Backend,
    open,  # noqa: A004
)

__all__ = [
    "Backend",
    "open",
]
