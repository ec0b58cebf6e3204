"""The layers of a Keras model, from the config of Keras 3 or Keras 2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from colonnade.errors import sanitize
from colonnade.network.weights.steps import IDENTITY, Dense, Scale, Sigma, Step

__all__ = ["chained", "steps_of_layer"]

# keras.config.epsilon(), which models do not store
_EPSILON = 1e-7
_IGNORED = {
    "ActivityRegularization", "AlphaDropout", "Dropout", "Flatten", "GaussianDropout",
    "GaussianNoise", "InputLayer",
}  # fmt: skip

# Keras's names of functions, with Keras's values of their parameters
_FUNCTIONS: Mapping[str, Mapping[str, Any]] = {
    "celu": {"name": "celu", "alpha": 1.0},
    "elu": {"name": "elu", "alpha": 1.0},
    "gelu": {"name": "gelu"},
    "hard_sigmoid": {"name": "hard_sigmoid"},
    "hard_silu": {"name": "hard_swish"},
    "hard_swish": {"name": "hard_swish"},
    "hard_tanh": {"name": "hardtanh"},
    "leaky_relu": {"name": "leaky_relu", "negative_slope": 0.2},
    "linear": IDENTITY,
    "log_sigmoid": {"name": "log_sigmoid"},
    "mish": {"name": "mish"},
    "relu": {"name": "relu"},
    "relu6": {"name": "relu6"},
    "selu": {"name": "selu"},
    "sigmoid": {"name": "sigmoid"},
    "silu": {"name": "silu"},
    "softplus": {"name": "softplus"},
    "softsign": {"name": "softsign"},
    "swish": {"name": "silu"},
    "tanh": {"name": "tanh"},
    "tanh_shrink": {"name": "tanhshrink"},
}


def chained(model: Any) -> list[Mapping[str, Any]]:
    """Return a model's layers in order, from its input to its output.

    Raises
    ------
    ValueError
        The model is neither Sequential nor a functional model whose layers form a chain.
    """
    kind, layers = model["class_name"], model["config"]["layers"]
    if kind == "Sequential":
        return list(layers)
    if kind not in ("Functional", "Model"):
        raise ValueError(
            f"it is a {sanitize(str(kind))}; supported are Sequential and functional models"
        )
    by_name = {layer["name"]: layer for layer in layers}
    ends = [_ends(model["config"][key]) for key in ("input_layers", "output_layers")]
    if any(len(names) != 1 for names in ends):
        raise ValueError("it has more than one input or output; save a model with one of each")
    first, name = ends[0][0], ends[1][0]
    found: list[Mapping[str, Any]] = []
    while True:
        layer = by_name[name]
        found.insert(0, layer)
        if name == first:
            break
        if len(found) > len(by_name):
            raise ValueError("its layers form a cycle; they must form a chain")
        before = _inbound(layer["inbound_nodes"])
        if len(before) != 1:
            inputs = ", ".join(map(sanitize, before)) or "none"
            raise ValueError(
                f"its layer {sanitize(name)} has the inputs {inputs}; a layer must have exactly one"
            )
        name = before[0]
    return found


def _ends(given: Any) -> list[str]:
    """Return the names of the layers at an end, given as [name, 0, 0] or as a list of these."""
    return [given[0]] if isinstance(given[0], str) else [end[0] for end in given]


def _inbound(given: Any) -> list[str]:
    """Return the names of the layers that feed a layer, from the form of Keras 3 or Keras 2."""
    if isinstance(given, Mapping):
        if "keras_history" in given:
            return [given["keras_history"][0]]
        return [name for value in given.values() for name in _inbound(value)]
    if isinstance(given, Sequence) and not isinstance(given, str):
        if given and isinstance(given[0], str):
            return [given[0]]
        return [name for value in given for name in _inbound(value)]
    return []


def steps_of_layer(
    layer: Mapping[str, Any], weights: Sequence[NDArray[Any]], version: int
) -> list[Step]:
    """Return the steps of a layer, given its weights in Keras's order.

    Raises
    ------
    ValueError
        The layer is not supported.
    """
    kind, config = layer["class_name"], layer["config"]
    if kind in _IGNORED:
        if kind == "Flatten" and config.get("data_format") == "channels_first":
            raise ValueError(
                "its Flatten layer with channels_first reorders the features; use channels_last"
            )
        return []
    if kind == "Dense":
        kernel, *bias = weights
        if len(bias) != bool(config.get("use_bias", True)):
            raise ValueError(
                "the weights of a Dense layer do not match its config; save the model again"
            )
        return [Dense(kernel.T, *bias), *_activation(config.get("activation"), version)]
    if kind in _SCALINGS:
        return [_SCALINGS[kind](config, weights)]
    return _activation(layer, version)


def _normalization(config: Mapping[str, Any], weights: Sequence[NDArray[Any]]) -> Scale:
    if config.get("axis") not in (-1, 1, [-1], [1], None, []):
        raise ValueError("its Normalization layer must be along the last axis (axis=-1)")
    given = [config.get("mean"), config.get("variance")]
    mean, variance = (
        np.asarray(a, np.float64) for a in (weights[:2] if given[0] is None else given)
    )
    deviation = np.maximum(np.sqrt(variance), _EPSILON)
    if config.get("invert"):
        return Scale(deviation, mean, "Normalization, inverted")
    return Scale(1 / deviation, -mean / deviation, "Normalization")


def _batch_normalization(config: Mapping[str, Any], weights: Sequence[NDArray[Any]]) -> Scale:
    if config.get("axis") not in (-1, 1, [-1], [1]):
        raise ValueError("its BatchNormalization layer must be along the last axis (axis=-1)")
    numbers = [np.asarray(a, np.float64) for a in weights]
    gamma = numbers.pop(0) if config.get("scale", True) else np.ones(1)
    beta = numbers.pop(0) if config.get("center", True) else np.zeros(1)
    mean, variance = numbers
    factor = gamma / np.sqrt(variance + float(config.get("epsilon", 1e-3)))
    return Scale(factor, beta - mean * factor, "BatchNormalization")


def _rescaling(config: Mapping[str, Any], _: Sequence[NDArray[Any]]) -> Scale:
    factor, offset = (np.asarray(config[key], np.float64) for key in ("scale", "offset"))
    return Scale(factor, offset, "Rescaling")


_SCALINGS = {
    "BatchNormalization": _batch_normalization,
    "Normalization": _normalization,
    "Rescaling": _rescaling,
}


def _activation(given: Any, version: int) -> list[Step]:
    """Return the steps of an activation, given by name or as a layer."""
    if given is None:
        return []
    if isinstance(given, str):
        return _function(given, version)
    kind, config = given["class_name"], given["config"]
    # A function that is serialized as an object has its name as its config
    if isinstance(config, str):
        return _function(config, version)
    number = {key: value for key, value in config.items() if isinstance(value, int | float)}
    match kind:
        case "Activation":
            return _activation(config["activation"], version)
        case "ELU":
            return [Sigma({"name": "elu", "alpha": float(number["alpha"])})]
        case "LeakyReLU":
            slope = number["negative_slope" if "negative_slope" in number else "alpha"]
            return [Sigma({"name": "leaky_relu", "negative_slope": float(slope)})]
        case "ReLU":
            return _relu(number)
    raise ValueError(
        f"it has a {sanitize(str(kind))}, which is not supported; supported are Dense layers, "
        "activations, Normalization, BatchNormalization and Rescaling"
    )


def _relu(number: Mapping[str, float]) -> list[Step]:
    slope, threshold = number.get("negative_slope", 0), number.get("threshold", 0)
    bound = number.get("max_value")
    if threshold or (slope and bound is not None):
        raise ValueError(
            "its ReLU has a threshold, or both a slope and a bound, which is not supported; save "
            "the weights alone and give network.activation"
        )
    if bound is not None:
        return [Sigma({"name": "hardtanh", "min_val": 0.0, "max_val": float(bound)}
                      if bound != 6 else {"name": "relu6"})]  # fmt: skip
    if slope:
        return [Sigma({"name": "leaky_relu", "negative_slope": float(slope)})]
    return [Sigma({"name": "relu"})]


def _function(name: str, version: int) -> list[Step]:
    if name == "linear":
        return []
    if version < 3:
        # clip(0.2 z + 0.5, 0, 1)
        if name == "hard_sigmoid":
            bounded = Sigma({"name": "hardtanh", "min_val": -2.5, "max_val": 2.5})
            return [bounded, Scale(0.2, 0.5, "0.2 z + 0.5 of hard_sigmoid")]
        if name == "leaky_relu":
            raise ValueError(
                "the slope of its leaky_relu depends on the version of Keras 2; use a LeakyReLU "
                "layer"
            )
    if name not in _FUNCTIONS:
        raise ValueError(
            f"its activation {sanitize(name)} is not supported; save the weights alone "
            "(model.save_weights) and give network.activation"
        )
    return [Sigma(_FUNCTIONS[name])]
