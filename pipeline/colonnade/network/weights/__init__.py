"""Load weights from files and estimators: one small reader per format behind one function."""

from colonnade.network.weights.choice import array_names
from colonnade.network.weights.layouts import MATRICES, Matrices
from colonnade.network.weights.load import estimator_weights, load_weights
from colonnade.network.weights.scaling import Given, Scaling
from colonnade.network.weights.steps import Chain, sigma_text

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
