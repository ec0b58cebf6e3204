"""The network: affine layers with an activation σ between each two."""

from colonnade.network.network import GivenActivation, Layer, Network
from colonnade.network.weights import array_names

__all__ = [
    "GivenActivation",
    "Layer",
    "Network",
    "array_names",
]
