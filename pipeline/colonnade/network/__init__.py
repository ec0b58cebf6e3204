"""The network: affine layers with a σ between each two, checked and loaded."""

from colonnade.network.network import (
    GivenActivation,
    Layer,
    Network,
    array_names,
)

__all__ = [
    "GivenActivation",
    "Layer",
    "Network",
    "array_names",
]
