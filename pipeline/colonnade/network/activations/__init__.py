"""Activations: pairs (σ, σ′), from a table or imported by name."""

from colonnade.network.activations.columnwise import COLUMNWISE
from colonnade.network.activations.registry import ACTIVATIONS, Activation, Formula, activation

__all__ = [
    "ACTIVATIONS",
    "COLUMNWISE",
    "Activation",
    "Formula",
    "activation",
]
