"""Load weights from files and estimators: one small reader per format behind one function."""

from colonnade.network.weights.load import (
    MATRICES,
    Chain,
    Given,
    Matrices,
    Scaling,
    array_names,
    estimator_weights,
    load_weights,
    sigma_text,
)

__all__ = [
    "MATRICES",
    "Chain",
    "Given",
    "Matrices",
    "Scaling",
    "array_names",
    "estimator_weights",
    "load_weights",
    "sigma_text",
]
